"""Positions: what a command line or a caller may say, and which tokens it means."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_engine import Positions, RequestError
from gloss_engine.capture.positions import LAST, MAX_LISTED

ENDS = st.none() | st.integers(-50, 50)
SLICES = st.builds(Positions, start=ENDS, stop=ENDS, step=st.integers(1, 20))
LISTS = st.builds(Positions, indices=st.lists(st.integers(-9, 9), min_size=1).map(tuple))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Positions()),
        ("last", LAST),
        ("-1", LAST),
        (":", Positions()),
        ("::", Positions()),
        ("3:", Positions(start=3)),
        (":-2", Positions(stop=-2)),
        ("1:9:2", Positions(start=1, stop=9, step=2)),
        ("::4", Positions(step=4)),
        (" 1 : 2 ", Positions(start=1, stop=2)),
        ("5", Positions(indices=(5,))),
        ("5,0,-2,5", Positions(indices=(5, 0, -2, 5))),
        (" 1, 2", Positions(indices=(1, 2))),
    ],
)
def test_parse(text: str, expected: Positions) -> None:
    assert Positions.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "All", "1.5", "a:b", "1:2:3:4", "1,,2", ",", "1:2,3", "::0", "::-1", "1-2", "0x1"]
    + ["9" * 5000, ",".join(["0"] * (MAX_LISTED + 1))],
)
def test_what_is_no_selection_is_refused_in_short(text: str) -> None:
    with pytest.raises(RequestError) as error:
        Positions.parse(text)
    assert (error.value.reason, error.value.field) == ("INVALID_POSITIONS", "positions")
    assert "expected" in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    "options",
    [
        {"step": 0},
        {"step": -1},
        {"step": None},
        {"start": 1.0},
        {"stop": "3"},
        {"start": True},
        {"indices": ()},
        {"indices": (1, 2.5)},
        {"indices": (False,)},
        {"indices": (1,), "start": 0},
        {"indices": (1,), "step": 2},
        {"indices": (0,) * (MAX_LISTED + 1)},
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(RequestError) as error:
        Positions(**options)  # type: ignore[arg-type]
    assert error.value.reason == "INVALID_POSITIONS"


@given(SLICES | LISTS)
def test_written_and_read_again(positions: Positions) -> None:
    assert Positions.parse(str(positions)) == positions


@given(SLICES, st.integers(0, 60))
def test_a_slice_means_what_it_means_in_python(positions: Positions, length: int) -> None:
    expected = tuple(range(length))[positions.start : positions.stop : positions.step]
    assert tuple(positions.select(length)) == expected
    if expected:
        assert positions.resolve(length) == expected
        return
    with pytest.raises(RequestError, match=f"none of the text's {length} tokens") as error:
        positions.resolve(length)
    assert error.value.reason == "NO_POSITION"


@given(LISTS, st.integers(0, 12))
def test_a_list_means_each_position_once_in_order(positions: Positions, length: int) -> None:
    assert positions.indices is not None
    for read in (positions.resolve, positions.select):
        if all(-length <= index < length for index in positions.indices):
            expected = {index % length for index in positions.indices}
            assert tuple(read(length)) == tuple(sorted(expected))
            continue
        with pytest.raises(RequestError, match=f"the text has {length} tokens") as error:
            read(length)
        assert error.value.reason == "POSITION_OUT_OF_RANGE"


def test_whole_numbers_of_any_kind_are_taken() -> None:
    numpy = pytest.importorskip("numpy")
    positions = Positions(indices=(numpy.int64(3), numpy.int32(-1)))
    assert positions.indices == (3, -1) and str(positions) == "3,-1"
    assert Positions(start=numpy.uint8(2)).resolve(4) == (2, 3)


def test_positions_are_for_processes_without_torch() -> None:
    program = (
        "import sys; from gloss_engine.capture import Positions; "
        "from gloss_engine import Positions as same; "
        "assert Positions is same and Positions.parse('last').resolve(3) == (2,); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr
