"""What a token does to a sequence: outputs, stops in their order of precedence, state in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_engine.av.stop import CLOSING_TAG, stop_table
from gloss_kernels import FINISH_NAMES, Finish
from support.backends import BACKENDS, Backend

EOS, TAG_END, PLAIN = 3, 2, 0


def _table() -> Tensor:
    """Two states and a final one over five tokens: 1 opens, 2 closes what 1 opened."""
    table = torch.zeros(3, 5, dtype=torch.uint8)
    table[:2, 1] = 1
    table[1, TAG_END] = 2
    table[1, EOS] = 2
    table[2] = 2
    return table


def _is_eos(vocab_size: int = 5) -> Tensor:
    return torch.arange(vocab_size) == EOS


class State:
    """The state of n rows on a backend's device, in larger tables whose other rows must stay.

    Args:
        backend: where it lives.
        n: rows.
        limit: tokens a row may generate.
        columns: values of `codes`, `stop_states` or `num_generated`, 0 otherwise.
    """

    def __init__(self, backend: Backend, n: int, *, limit: int = 7, **columns: list[int]) -> None:
        self.backend, self.n = backend, n
        self.whole: dict[str, Tensor] = {
            "codes": torch.tensor([*columns.get("codes", [0] * n), 0, 0]),
            "last_tokens": torch.full((n + 2,), -1),
            "stop_states": torch.tensor([*columns.get("stop_states", [0] * n), 90, 91]),
            "num_generated": torch.tensor([*columns.get("num_generated", [0] * n), 80, 81]),
        }
        self.whole = {name: tensor.to(backend.device) for name, tensor in self.whole.items()}
        self.report = torch.full((3, n + 2), -7, dtype=torch.int32, device=backend.device)
        self.limits = torch.full((n,), limit, device=backend.device)
        self.table, self.is_eos = _table(), _is_eos()
        self.presence: Tensor | None = None

    def step(self, tokens: list[int], finite: list[bool] | None = None) -> list[int]:
        """Advance by one token a row, whose logprob is -token / 8."""
        device = self.backend.device
        chosen = torch.tensor(tokens, dtype=torch.int64, device=device)
        self.backend.ops.advance(
            chosen,
            -chosen / 8,
            torch.tensor(finite or [True] * self.n, dtype=torch.bool, device=device),
            **{name: tensor[: self.n] for name, tensor in self.whole.items()},
            limits=self.limits,
            stop_table=self.table.to(device),
            is_eos=self.is_eos.to(device),
            report=self.report[:, : self.n],
            presence=None if self.presence is None else self.presence[: self.n],
        )
        report = self.report.cpu()
        assert report[0, : self.n].tolist() == tokens
        assert torch.equal(report[1, : self.n].view(torch.float32), -torch.tensor(tokens) / 8)
        codes = report[2, : self.n].tolist()
        assert self.codes[: self.n].tolist() == codes
        assert (report[:, self.n :] == -7).all() and self.codes[self.n :].tolist() == [0, 0]
        return codes

    def __getattr__(self, name: str) -> Any:
        return self.whole[name].cpu()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("token", "state", "generated", "finite", "expected"),
    [
        (PLAIN, 0, 0, True, Finish.RUNNING),
        (PLAIN, 1, 0, True, Finish.RUNNING),
        (TAG_END, 0, 0, True, Finish.RUNNING),
        (TAG_END, 1, 0, True, Finish.CLOSING_TAG),
        (PLAIN, 0, 6, True, Finish.LENGTH),
        (PLAIN, 0, 5, True, Finish.RUNNING),
        (PLAIN, 0, 9, True, Finish.LENGTH),
        (TAG_END, 1, 6, True, Finish.CLOSING_TAG),
        (EOS, 0, 6, True, Finish.EOS),
        (EOS, 1, 6, True, Finish.EOS),
        (EOS, 1, 6, False, Finish.ERROR),
        (PLAIN, 0, 0, False, Finish.ERROR),
    ],
)
def test_precedence(
    backend: Backend, token: int, state: int, generated: int, finite: bool, expected: Finish
) -> None:
    rows = State(backend, 1, stop_states=[state], num_generated=[generated])
    assert rows.step([token], [finite]) == [expected]


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_is_updated_in_place_and_only_of_the_rows(backend: Backend) -> None:
    rows = State(backend, 3, stop_states=[0, 1, 1], num_generated=[0, 4, 6])
    codes = rows.step([1, TAG_END, PLAIN])
    assert codes == [Finish.RUNNING, Finish.CLOSING_TAG, Finish.LENGTH]
    assert rows.stop_states.tolist() == [1, 2, 0, 90, 91]
    assert rows.num_generated.tolist() == [1, 5, 7, 80, 81]
    assert rows.last_tokens.tolist() == [1, TAG_END, PLAIN, -1, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_rows_for_some_steps(backend: Backend) -> None:
    """More rows than a program takes, against the definition, token by token in Python."""
    n, vocab_size, num_steps = 261, 77, 6
    generator = torch.Generator().manual_seed(3)
    table = torch.randint(0, 6, (6, vocab_size), generator=generator).to(torch.uint8)
    limits = torch.randint(1, 6, (n,), generator=generator)
    rows = State(backend, n, stop_states=torch.randint(0, 6, (n,), generator=generator).tolist())
    rows.table, rows.is_eos = table, torch.rand(vocab_size, generator=generator) < 0.1
    rows.limits = limits.to(backend.device)
    rows.presence = torch.zeros(n + 2, 3, dtype=torch.int32, device=backend.device)
    states, seen = rows.stop_states[:n].tolist(), [set[int]() for _ in range(n)]
    over, last, counts = [Finish.RUNNING] * n, [-1] * n, [0] * n
    for _ in range(num_steps):
        tokens = torch.randint(0, vocab_size, (n,), generator=generator).tolist()
        finite = (torch.rand(n, generator=generator) < 0.9).tolist()
        codes = rows.step(tokens, finite)
        for row, token in enumerate(tokens):
            if over[row] == Finish.RUNNING:
                states[row], last[row] = int(table[states[row], token]), token
                counts[row] += 1
                over[row] = Finish.LENGTH if counts[row] >= limits[row] else Finish.RUNNING
                over[row] = Finish.CLOSING_TAG if states[row] == 5 else over[row]
                over[row] = Finish.EOS if rows.is_eos[token] else over[row]
                over[row] = over[row] if finite[row] else Finish.ERROR
                seen[row].add(token)
        assert codes == over
        assert rows.stop_states[:n].tolist() == states
        assert rows.last_tokens[:n].tolist() == last
        assert rows.num_generated[:n].tolist() == counts
    assert all(code != Finish.RUNNING for code in over)
    bits = rows.presence.cpu().unsqueeze(2) >> torch.arange(32, dtype=torch.int32) & 1
    bits = bits.flatten(1)
    assert [set(row.nonzero().flatten().tolist()) for row in bits[:n]] == seen
    assert not bits[n:].any(), "rows beyond n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_bit_of_the_presence_map(backend: Backend) -> None:
    """All tokens of a vocabulary of 70 one after another: bit 31 is a sign, bits are kept."""
    rows = State(backend, 2, limit=99)
    rows.table, rows.is_eos = torch.zeros(3, 70, dtype=torch.uint8), torch.zeros(70).bool()
    rows.presence = torch.zeros(4, 3, dtype=torch.int32, device=backend.device)
    full = [0, 0, 0]
    for token in range(70):
        rows.step([token, 69 - token])
        full[token // 32] |= 1 << token % 32
        words = [word % 2**32 for word in rows.presence[0].tolist()]
        assert words == full
    assert torch.equal(rows.presence[0], rows.presence[1]) and not rows.presence[2:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["<</explanation>"], 0),
        (["<", "</explanation>"], 1),
        (["</expl</explanation>"], 0),
        (["</expl", "</explan", "ation", ">"], 3),
        (["</explanation", "x", ">"], None),
        (["</explanation", "", ">"], 2),
        (["a</explana", "tion>bcd", "y"], 1),
        (["</", "explanation", ">", "more"], 2),
        (list(CLOSING_TAG), len(CLOSING_TAG) - 1),
        (["<explanation>", "</Explanation>"], None),
    ],
)
def test_a_closing_tag_cut_anywhere(
    backend: Backend, pieces: list[str], expected: int | None
) -> None:
    """Each piece is a token; a second row says something else meanwhile."""
    texts = [*pieces, "x"]
    rows = State(backend, 2, limit=99)
    rows.table = stop_table(texts)
    rows.is_eos = torch.zeros(len(texts), dtype=torch.bool)
    codes = [rows.step([token, len(pieces)]) for token in range(len(pieces))]
    first = [code[0] for code in codes]
    until = len(pieces) if expected is None else expected
    assert first[:until] == [Finish.RUNNING] * until
    assert first[until:] == [Finish.CLOSING_TAG] * (len(pieces) - until)
    assert {code[1] for code in codes} == {Finish.RUNNING}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("code", [code for code in Finish if code != Finish.RUNNING])
def test_a_row_that_is_over_keeps_its_state(backend: Backend, code: Finish) -> None:
    """Its logits may be anything; the row beside it runs."""
    rows = State(backend, 2, codes=[code, 0], stop_states=[1, 0], num_generated=[7, 3])
    rows.presence = torch.zeros(4, 1, dtype=torch.int32, device=backend.device)
    assert rows.step([EOS, PLAIN], [False, True]) == [code, Finish.RUNNING]
    assert rows.num_generated[:2].tolist() == [7, 4]
    assert rows.stop_states[:2].tolist() == [1, 0]
    assert rows.last_tokens[:2].tolist() == [-1, PLAIN]
    assert rows.presence.flatten().tolist() == [0, 1 << PLAIN, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: Backend) -> None:
    assert State(backend, 0).step([], []) == []


def test_names() -> None:
    names = {"running", "eos", "closing_tag", "length", "error"}
    assert set(FINISH_NAMES.values()) == names and len(FINISH_NAMES) == len(Finish)
