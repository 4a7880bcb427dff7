"""An engine whose device has no memory for work that is marked: injected at the allocator.

Marked are activations of an enormous norm, texts and prompts that begin with MARK twice, Watches
whose target has the seed MARK, and texts for the AR that hold the word MARKED. While an operation
of such work runs, every allocation is refused (`allocator.py`), also when it runs in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gloss_engine import Engine
from support.allocator import TightMemory, larger_than

NORM, MARK, MARKED = 1e6, 11, "unaffordable"


def refuse_marked(engine: Engine) -> None:
    """Let there be no memory for marked work of this engine."""
    memory = TightMemory()

    def tight(owner: Any, name: str, is_marked: Callable[..., bool]) -> None:
        work = getattr(owner, name)

        def run(*given: Any, **named: Any) -> Any:
            if not is_marked(*given, **named):
                return work(*given, **named)
            with memory.armed(larger_than(0)):
                return work(*given, **named)

        setattr(owner, name, run)

    tight(engine.runner, "_run", _prefills_marked)
    if engine.scores is not None:
        tight(engine.scores, "_start", lambda entries: any(MARKED in e.text for e in entries))
    if engine.target is not None:
        reader, generator = engine.target.reader, engine.target.generator
        tight(reader, "read_packed", lambda texts, **_: any(map(_is_marked, texts)))
        tight(reader, "read_chunk", lambda long, *_: _is_marked(long.text))
        if generator is not None:
            tight(generator, "_step", _steps_marked)


def _prefills_marked(forward: Any) -> bool:
    return any(float(p.item.activation.norm()) > NORM for p in forward.prefills)


def _is_marked(text: Any) -> bool:
    return tuple(text.token_ids[:2]) == (MARK, MARK)


def _steps_marked(rows: Iterable[Any], shape: Any, first: int = 0) -> bool:
    """Once it has said something: so a step fails among others that did not."""
    slots = range(first, first + shape.num_rows)
    marked = (row for row in rows if row.watch.seed == MARK and row.launch >= 3)
    return any(row.slot in slots for row in marked)
