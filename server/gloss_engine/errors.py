"""The errors Gloss raises for its callers. Our own invariants are `assert`s, not errors.

    GlossError
    ├── CheckpointError   a checkpoint or sidecar that cannot be used (also a ValueError)
    ├── RequestError      a request that cannot be run, as a whole (also a ValueError)
    ├── TapError          a model, or a pass of it, that cannot be tapped (also a ValueError)
    ├── WeightsError      weights that cannot take the place of a pair's (also a ValueError)
    ├── MemoryTooSmall    a device whose memory does not suffice to start
    └── ItemError         one item of a request that failed; never raised, carried in its result

Every message says what was got, what was expected and how to fix it.
"""

from __future__ import annotations

from dataclasses import dataclass


class GlossError(Exception):
    """Base of everything Gloss raises on purpose."""


class CheckpointError(GlossError, ValueError):
    """A checkpoint, sidecar or tokenizer that does not hold together.

    Args:
        what: the thing that is wrong, a short noun phrase naming the file or field.
        got: what was found.
        expected: what should have been there.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(f"{what}: got {got}, expected {expected}. {fix}")


class RequestError(GlossError, ValueError):
    """A request refused as a whole.

    Args:
        reason: UPPER_SNAKE reason from the service contract, such as DIMENSION_MISMATCH.
        field: the request's field at fault, such as `activations`.
        message: got, expected and fix in one sentence.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        self.reason, self.field = reason, field
        super().__init__(message)


class TapError(GlossError, ValueError):
    """A model, or a forward pass of it, whose activations cannot be captured.

    Args:
        what: the thing that is wrong, a short noun phrase.
        got: what was found.
        expected: what should have been there.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(f"{what}: got {got}, expected {expected}. {fix}")


class WeightsError(GlossError, ValueError):
    """Weights that an engine cannot take in the place of those it has; nothing was changed.

    Args:
        what: the thing that is wrong, a short noun phrase.
        got: what was found.
        expected: what should have been there.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(f"{what}: got {got}, expected {expected}. {fix}")


class MemoryTooSmall(GlossError):
    """A device whose memory does not suffice to load the checkpoints or to warm up."""


@dataclass(frozen=True, kw_only=True)
class ItemError:
    """Why one item of a request has no explanation.

    Attributes:
        code: gRPC status name, such as INVALID_ARGUMENT.
        reason: UPPER_SNAKE reason, such as NON_FINITE_VECTOR.
        message: one sentence for people.
    """

    code: str
    reason: str
    message: str

    @classmethod
    def of_request(cls, error: RequestError) -> ItemError:
        """Why an item fails alone that would be refused if it were the whole request."""
        code = "OUT_OF_RANGE" if error.reason == "POSITION_OUT_OF_RANGE" else "INVALID_ARGUMENT"
        return cls(code=code, reason=error.reason, message=str(error))


NON_FINITE_OUTPUT = ItemError(
    code="INTERNAL",
    reason="NON_FINITE_OUTPUT",
    message="the model's output was NaN or infinite for this; the others went on",
)
OUT_OF_MEMORY = ItemError(
    code="RESOURCE_EXHAUSTED",
    reason="OUT_OF_MEMORY",
    message="the device's memory did not suffice for this, in smaller batches neither; the others "
    "went on. Try it again later; where it comes often, the server's memory_fraction is too high",
)
