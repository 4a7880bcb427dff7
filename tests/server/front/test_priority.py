"""The contract's priorities as the engine knows them."""

from __future__ import annotations

import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.request import PRIORITIES
from gloss_server.front import labels
from gloss_server.front.call_error import CallError
from gloss_server.front.reading import read_priority


def test_what_is_not_stated_is_interactive() -> None:
    assert read_priority(pb.VerbalizeRequest().priority, "priority") == "interactive"
    assert read_priority(pb.PRIORITY_INTERACTIVE, "priority") == "interactive"
    assert read_priority(pb.PRIORITY_BATCH, "priority") == "batch"
    # One set for the contract, the engine and the metrics' labels.
    assert labels.PRIORITIES == PRIORITIES


@pytest.mark.parametrize("value", [-1, 3, 2**31 - 1])
def test_what_nobody_knows_is_refused(value: int) -> None:
    with pytest.raises(
        CallError, match=rf"request.priority: got {value}, expected INTER"
    ) as caught:
        read_priority(value, "request.priority")
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "request.priority")
