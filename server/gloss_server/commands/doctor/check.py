"""One finding of the doctor, and turning a refusal of the loader into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from gloss_engine.errors import CheckpointError

Status = Literal["pass", "warn", "fail"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at and what was found.

    Attributes:
        name: what was looked at, unique within one part, prefixed with the part in a pair.
        status: "pass"; "warn": it loads, but something is lost; "fail": it does not load, or
            loads as something else than it was trained to be.
        got: what was found.
        expected: what should be there; empty where anything goes.
        fix: what to do, or on a pass what is worth knowing; may be empty.
    """

    name: str
    status: Status
    got: str
    expected: str = ""
    fix: str = ""

    def within(self, part: str) -> Check:
        """The same finding, named as one of a part (`av`, `ar`, `target`)."""
        return replace(self, name=f"{part}: {self.name}")


def failed(name: str, error: CheckpointError) -> Check:
    """A refusal of the loader as a finding."""
    return Check(
        name=name,
        status="fail",
        got=f"{error.what}: {error.got}",
        expected=str(error.expected),
        fix=error.fix,
    )


@dataclass(frozen=True)
class Attempt(Generic[_T]):
    """A step of loading that was tried.

    Attributes:
        check: how it went.
        result: what it gave; None if it was refused.
    """

    check: Check
    result: _T | None


def attempt(name: str, action: Callable[[], _T], describe: Callable[[_T], str]) -> Attempt[_T]:
    """Try a step of loading.

    Args:
        name: of the check.
        action: the step; a CheckpointError becomes a failed check.
        describe: what to say was got when it worked.
    """
    try:
        result = action()
    except CheckpointError as error:
        return Attempt(failed(name, error), None)
    return Attempt(Check(name=name, status="pass", got=describe(result)), result)
