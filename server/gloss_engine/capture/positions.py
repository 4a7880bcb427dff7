"""Which positions of a text to read: all, a slice, or some by number.

Positions count tokens from 0, special tokens included; negative ones count from the end. Resolving
a selection needs the length of the text and nothing else; reading is for `tap` and for the target.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from gloss_engine.errors import RequestError

MAX_LISTED = 4096
"""Positions one by one of a selection; a text has no more tokens by default."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """A selection of positions; without any argument all of them.

    Attributes:
        start, stop, step: a Python slice; step is 1 or more. `step=n` reads every n-th.
        indices: positions one by one, in place of the slice; each is read once, in the order of
            the text.

    Raises:
        RequestError: a step below 1, no whole numbers, or both forms at once.
    """

    start: int | None = None
    stop: int | None = None
    step: int = 1
    indices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("start", "stop", "step"):
            value = getattr(self, name)
            if value is not None or name == "step":
                object.__setattr__(self, name, _whole(value, name))
        if self.step < 1:
            raise _refused(f"got a step of {self.step}, expected 1 or more")
        if self.indices is None:
            return
        if (self.start, self.stop, self.step) != (None, None, 1):
            raise _refused("got a slice and a list, expected one of both")
        object.__setattr__(self, "indices", tuple(_whole(i, "index") for i in self.indices))
        assert self.indices is not None
        if not 1 <= len(self.indices) <= MAX_LISTED:
            raise _refused(f"got a list of {len(self.indices)}, expected 1 to {MAX_LISTED}")

    @classmethod
    def of(cls, given: object) -> Positions:
        """The selection that a caller means.

        Args:
            given: a selection, its text as `parse` reads it, a position, a slice, or a sequence of
                positions, arrays of them included.

        Raises:
            RequestError: anything else, or what cannot be selected.
        """
        if isinstance(given, Positions):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, slice):
            step = 1 if given.step is None else given.step
            return cls(start=given.start, stop=given.stop, step=step)
        values = given.tolist() if hasattr(given, "tolist") else given
        if isinstance(values, Sequence) and not isinstance(values, bytes | bytearray | memoryview):
            return cls(indices=tuple(values))
        if isinstance(values, int) and not isinstance(values, bool):
            return cls(indices=(values,))
        raise _refused(
            f"got {reprlib.repr(given)}, expected Positions, text such as 'all' or 'last', a "
            "position, a slice or a sequence of positions"
        )

    @classmethod
    def parse(cls, text: str) -> Positions:
        """The selection that a command line states: all, last, START:STOP[:STEP], or i,j,k.

        Raises:
            RequestError: anything else.
        """
        if text == "all":
            return cls()
        if text == "last":
            return LAST
        try:
            if ":" in text:
                parts = [int(part) if part.strip() else None for part in text.split(":")]
                if len(parts) <= 3:
                    start, stop, step = (*parts, None, None)[:3]
                    return cls(start=start, stop=stop, step=1 if step is None else step)
            else:
                return cls(indices=tuple(int(part) for part in text.split(",")))
        except ValueError as error:
            if isinstance(error, RequestError):
                raise
        raise _refused(
            f"got {text[:80]!r}, expected all, last, START:STOP[:STEP] or numbers with commas"
        )

    @property
    def counts_from_end(self) -> bool:
        """Whether what is selected depends on where the text ends."""
        ends = (self.start, self.stop) if self.indices is None else self.indices
        return any(end is not None and end < 0 for end in ends)

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self == LAST:
            return "last"
        if self.indices is not None:
            return ",".join(map(str, self.indices))
        if self == Positions():
            return "all"
        start, stop = ("" if end is None else end for end in (self.start, self.stop))
        return f"{start}:{stop}" if self.step == 1 else f"{start}:{stop}:{self.step}"

    def resolve(self, length: int) -> tuple[int, ...]:
        """The positions of a text of `length` tokens, ascending, each once; at least one.

        Raises:
            RequestError: POSITION_OUT_OF_RANGE for a listed position that the text does not have,
                NO_POSITION for a slice that meets none.
        """
        found = tuple(self.select(length))
        if not found:
            raise RequestError(
                "NO_POSITION",
                "positions",
                f"positions: got {self}, which selects none of the text's {length} tokens",
            )
        return found

    def select(self, length: int) -> Sequence[int]:
        """As `resolve`, for who has a use for a slice that meets none: it selects none.

        Raises:
            RequestError: POSITION_OUT_OF_RANGE for a listed position that the text does not have.
        """
        if self.indices is None:
            return range(*slice(self.start, self.stop, self.step).indices(length))
        for index in self.indices:
            if not -length <= index < length:
                raise RequestError(
                    "POSITION_OUT_OF_RANGE",
                    "positions",
                    f"positions: got {index}, expected {-length} to {length - 1}: the text has "
                    f"{length} tokens",
                )
        return sorted({index % length for index in self.indices})


def _whole(value: object, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _refused(f"got {value!r} as {what}, expected a whole number") from None


def _refused(message: str) -> RequestError:
    return RequestError("INVALID_POSITIONS", "positions", f"positions: {message}")


LAST = Positions(indices=(-1,))
"""The last position only."""
