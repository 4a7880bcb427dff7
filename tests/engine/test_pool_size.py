"""The page pool takes what a GPU has left, up to what every slot could need."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gloss_engine import memory_sizes as sizes
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.kv import pool_size
from gloss_engine.models.decoder import Decoder
from gloss_engine.released import RELEASED_PAIRS
from gloss_engine.released_spec import released_spec
from gloss_kernels import Operations

SUFFIX_LEN, GIB = 25, 2**30


def _config(**settings: Any) -> EngineConfig:
    return EngineConfig(device="cpu", page_size=16, max_new_tokens=120, **settings)


class _OnGpu:
    """A decoder as far as the pool's size asks for it, said to be on a GPU."""

    def __init__(self) -> None:
        self.spec = released_spec(RELEASED_PAIRS[0])
        self.dtype, self.device = torch.bfloat16, torch.device("cuda")


def _pages(
    monkeypatch: pytest.MonkeyPatch, free: float, total: float = 141.0, **settings: Any
) -> int:
    memory = (round(free * GIB), round(total * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: memory)
    decoder: Any = _OnGpu()
    return pool_size.num_pages(decoder, _config(**settings), SUFFIX_LEN)


def test_enough_for_every_slot_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """9 pages hold 25 + 119 tokens; a suffix beside the slots' takes 2, and page 0 is nobody's."""
    assert _pages(monkeypatch, 120.0) == 256 * 9 + 2 + 1
    assert _pages(monkeypatch, 120.0, num_pages=50) == 50


def test_what_fits_where_there_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GiB more is one GiB of pages, and a tenth of the device stays free."""
    little, more = _pages(monkeypatch, 16.0), _pages(monkeypatch, 17.0)
    page_bytes = 16 * sizes.token_bytes(_OnGpu().spec, 2)
    assert page_bytes == 16 * 57344
    assert more - little == pytest.approx(GIB / page_bytes, abs=1)
    assert 9 < little < more < 256 * 9
    assert (little + 1) * page_bytes < 16.0 * GIB - 14.1 * GIB
    assert _pages(monkeypatch, 16.0, memory_fraction=0.902) > little


def test_no_room_for_one_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"room for 0 pages of 16 tokens .*expected 10 pages"):
        _pages(monkeypatch, 14.0)


def test_pages_that_were_asked_for_and_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"expected 99999 pages"):
        _pages(monkeypatch, 20.0, num_pages=99999)


def test_a_cpu_takes_what_every_slot_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(device: object) -> tuple[int, int]:
        raise AssertionError("a CPU's memory was asked for")

    monkeypatch.setattr(torch.cuda, "mem_get_info", refused)
    spec = released_spec(RELEASED_PAIRS[0])
    decoder = Decoder(
        spec,
        num_layers=0,
        max_positions=4,
        operations=Operations("reference"),
        device=torch.device("meta"),
        dtype=torch.float32,
    )
    assert pool_size.num_pages(decoder, _config(num_slots=4), SUFFIX_LEN) == 4 * 9 + 2 + 1
