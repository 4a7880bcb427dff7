"""What the target reads next: priorities by tokens, texts packed or in chunks, none lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gloss_engine.request import PRIORITIES
from gloss_engine.target.reader import TextToRead
from gloss_engine.target.reading_queue import CAPTURE, EXPLAIN, PROMPT, Job, Pass, ReadingQueue


def _job(name: str, length: int, priority: str = "interactive", kind: str = EXPLAIN) -> Job:
    text = TextToRead(token_ids=(1,) * length, positions=())
    return Job(request_id=name, kind=kind, text=text, layer_index=0, priority=priority)


def _read(taken: Pass) -> None:
    """What the reader does to a text that takes several passes."""
    if taken.long is not None:
        taken.long.num_read += taken.num_tokens


def test_explanations_go_before_captures_but_for_a_share() -> None:
    queue = ReadingQueue(max_tokens=100, batch_share=0.25)
    for _ in range(10):
        queue.add(_job("capture", 100, "batch", CAPTURE))
        queue.add(_job("explain", 100))
    order = [queue.next_pass().jobs[0].kind for _ in range(12)]
    assert order == [*[EXPLAIN] * 3, CAPTURE] * 3


def test_a_batch_explain_waits_in_the_captures_line() -> None:
    queue = ReadingQueue(max_tokens=100, batch_share=0.125)
    queue.add(_job("capture", 60, "batch", CAPTURE))
    queue.add(_job("later", 30, "batch"))
    queue.add(_job("watched", 80, kind=PROMPT))
    queue.add(_job("now", 80))
    names = [[job.request_id for job in queue.next_pass().jobs] for _ in range(3)]
    assert names == [["watched"], ["now"], ["capture", "later"]]


@given(
    jobs=st.lists(st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 90)), max_size=30),
    most=st.lists(st.sampled_from([None, 1, 7, 40]), min_size=1, max_size=5),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_text_is_read_once_and_batch_gets_its_share(
    jobs: list[tuple[str, int]], most: list[int | None]
) -> None:
    queue, share = ReadingQueue(max_tokens=50, batch_share=0.2), 0.2
    for number, (priority, length) in enumerate(jobs):
        queue.add(_job(str(number), length, priority))
    read = dict.fromkeys((str(number) for number in range(len(jobs))), 0)
    tokens = dict.fromkeys(PRIORITIES, 0)
    turn = 0
    while len(queue):
        both = bool(queue._interactive) and bool(queue._batch)
        taken = queue.next_pass(most[turn % len(most)])
        turn += 1
        _read(taken)
        for job in taken.jobs:
            read[job.request_id] += taken.num_tokens if job.long else len(job.text.token_ids)
        if both:
            tokens[taken.jobs[0].priority] += taken.num_tokens
            # A pass is whole, so each may be ahead or behind by one.
            due = tokens["interactive"] * share / (1 - share)
            assert due - 50 * share / (1 - share) - 50 <= tokens["batch"] <= due + 50
    assert read == {str(number): length for number, (_, length) in enumerate(jobs)}
