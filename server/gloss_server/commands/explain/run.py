"""The loop of `gloss explain`: texts into a runner, what came of them out.

The next texts are submitted while the first still run, so that slots never empty at a text's end.
How many explanations a text has is known once it was read, so a few texts are always ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from gloss_client import Captured, Explanation, ItemError
from gloss_engine.text_request import ExplainRequest
from gloss_server.sources.text_source import Came, TextEnded, TextFailed, TextRunner


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A text of the input.

    Attributes:
        row: its number.
        request: how it is to be explained; or why it cannot be read.
    """

    row: int
    request: ExplainRequest | ItemError


def begin_texts(runner: TextRunner, asked: Iterable[Asked]) -> Iterator[list[Came]]:
    """`run_texts`, once a text has been taken or all of them have failed: a request that is refused
    whatever the text has been refused by then.

    Raises:
        CommandError, GlossError: what was got, what was expected.
        SourceLost: nothing explains.
    """
    coming, first = run_texts(runner, asked), list[list[Came]]()
    for came in coming:
        first.append(came)
        if not all(isinstance(one.event, TextFailed) for one in came):
            break
    return chain(first, coming)


def run_texts(runner: TextRunner, asked: Iterable[Asked]) -> Iterator[list[Came]]:
    """Run texts.

    Args:
        runner: nothing else may be in flight.
        asked: what to explain; read as room is made.

    Yields:
        What came, in the order in which it did; of each text a last event.
    """
    waiting = iter(asked)
    exhausted, num_texts, num_open = False, 0, 0
    samples: dict[int, int] = {}
    while True:
        while not exhausted and num_texts < runner.num_texts and num_open < runner.num_ahead:
            text = next(waiting, None)
            if text is None:
                exhausted = True
            elif isinstance(text.request, ItemError):
                yield [Came(row=text.row, event=TextFailed(error=text.request))]
            else:
                samples[text.row] = text.request.num_samples
                runner.submit(text.row, text.request)
                num_texts += 1
        if not num_texts:
            return
        came = runner.advance()
        for one in came:
            if isinstance(one.event, Captured):
                num_open += samples[one.row]
            elif isinstance(one.event, Explanation):
                num_open -= 1
            elif isinstance(one.event, TextFailed | TextEnded):
                num_texts -= 1
                del samples[one.row]
        yield came
