"""`Explain` from end to end: a text in, the explanation of each of its tokens out.

One text at a time, all positions, nothing else in flight. Times are the caller's, from handing the
text over to having the first explanation, and the last. The engine in this process, without and
with AR scoring, and the same by a server and its client, in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from capture_engine import TextEngine

from gloss_engine import Engine, ExplainRequest, SamplingParams, TextInput

if TYPE_CHECKING:
    from gloss_client import Client

IN_PROCESS, BY_SERVER = "in process", "by a server"
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One text that was explained.

    Attributes:
        first_seconds, seconds: until the first explanation, and the last.
        read_seconds: the target's pass; None where it is not known.
        num_explanations: one for each token.
        num_tokens: of all explanations.
    """

    first_seconds: float
    seconds: float
    read_seconds: float | None
    num_explanations: int
    num_tokens: int


def explain(engine: Engine, text: TextInput, new_tokens: int, *, scored: bool) -> Explained:
    """Explain a text with an engine that does nothing else.

    Raises:
        RuntimeError: an explanation that failed, or was to be scored and is not.
    """
    assert engine.target is not None
    request = ExplainRequest(
        input=text,
        sampling=SamplingParams(max_new_tokens=new_tokens, seed=SEED),
        score=scored,
    )
    read = engine.target.seconds
    _synchronize()
    started = time.perf_counter()
    engine.submit_explain(request)
    first, count, num_tokens, num_positions = 0.0, 0, 0, 0
    while engine.has_work:
        out = engine.step()
        for explanation in out.explanations:
            first = first or time.perf_counter() - started
            if explanation.error is not None or (scored and explanation.cosine is None):
                raise RuntimeError(f"explanation {explanation.index}: {explanation.error}")
            num_tokens += len(explanation.token_ids)
        count += len(out.explanations)
        num_positions += sum(len(opened.positions) for opened in out.opened)
    seconds = time.perf_counter() - started
    if count != num_positions:
        raise RuntimeError(f"explain: got {count} explanations, expected {num_positions}")
    return Explained(
        first_seconds=first,
        seconds=seconds,
        read_seconds=engine.target.seconds - read,
        num_explanations=count,
        num_tokens=num_tokens,
    )


def explain_by_server(
    client: Client, text: TextInput, new_tokens: int, *, scored: bool
) -> Explained:
    """The same by a server, which does nothing else.

    Raises:
        RuntimeError: an explanation that failed.
    """
    from gloss_client import Explanation

    assert text.text is not None
    started = time.perf_counter()
    first, count, num_tokens = 0.0, 0, 0
    stream = client.stream_explain(text.text, score=scored, seed=SEED, max_new_tokens=new_tokens)
    with stream:
        for event in stream:
            if isinstance(event, Explanation):
                first = first or time.perf_counter() - started
                if event.error is not None:
                    raise RuntimeError(f"explanation {event.index}: {event.error}")
                count += 1
                num_tokens += len(event.token_ids)
    return Explained(
        first_seconds=first,
        seconds=time.perf_counter() - started,
        read_seconds=None,
        num_explanations=count,
        num_tokens=num_tokens,
    )


def measure_explain(
    loaded: TextEngine, lengths: tuple[int, ...], repeats: int, client: Client | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each way and length: medians over texts.

    Args:
        loaded: the engine.
        lengths: tokens of the texts.
        repeats: texts of each length; one more goes before all, unmeasured.
        client: of a server with the same pair, or None.

    Raises:
        RuntimeError: a text that was not explained token by token.
    """
    engine, new_tokens = loaded.engine, loaded.new_tokens
    ways: dict[tuple[str, bool], Callable[[TextInput], Explained]] = {
        (IN_PROCESS, False): lambda text: explain(engine, text, new_tokens, scored=False),
        (IN_PROCESS, True): lambda text: explain(engine, text, new_tokens, scored=True),
    }
    if client is not None:
        known = client
        ways[BY_SERVER, True] = lambda text: explain_by_server(known, text, new_tokens, scored=True)
    for length in lengths:
        runs: dict[tuple[str, bool], list[Explained]] = {way: [] for way in ways}
        is_first = length == lengths[0]
        for number in range(repeats + is_first):
            for way, run in ways.items():
                done = run(loaded.text(number, length))
                if done.num_explanations != length:
                    raise RuntimeError(
                        f"{way[0]}: got {done.num_explanations} explanations, expected {length}"
                    )
                if number >= is_first:
                    runs[way].append(done)
        for (way_name, scored), done_runs in runs.items():
            row = {"subject": loaded.name, "way": way_name, "scored": scored, "tokens": length}
            yield row | _figures(done_runs)


def _figures(runs: list[Explained]) -> dict[str, Any]:
    seconds = statistics.median(run.seconds for run in runs)
    count = runs[0].num_explanations
    read = [run.read_seconds for run in runs if run.read_seconds is not None]
    return {
        "texts": len(runs),
        "first_ms": statistics.median(run.first_seconds for run in runs) * 1e3,
        "whole_ms": seconds * 1e3,
        "ms_per_token": seconds / count * 1e3,
        "per_second": count / seconds,
        "read_ms": statistics.median(read) * 1e3 if read else None,
        "explanation_tokens": statistics.mean(run.num_tokens / count for run in runs),
        "runs": [round(run.seconds, 4) for run in runs],
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
