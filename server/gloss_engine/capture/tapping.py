"""`tap`: reads activations off any transformers model while it runs.

    with tap(model, layer_index=20, positions="last") as captured:
        model(**inputs)
    captured.activations  # [num_sequences, d_model] float32, on the device

A hook on block K copies the wanted rows out; hooks on the modules before it see what the pass is
told of its tokens. Which rows are wanted is for `recorder.py`, where the blocks are for
`blocks.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gloss_engine.capture.blocks import find_path, forget_generation, require_uncompiled
from gloss_engine.capture.captured import Captured
from gloss_engine.capture.forward_inputs import ForwardInputs
from gloss_engine.capture.positions import Positions
from gloss_engine.capture.recorder import Recorder
from gloss_engine.errors import TapError

_NOT_COMPILED = "tap takes rows outside of compiled code; compile without fullgraph=True"
_PASSED_BY = (
    "compiled code passed by the hook, that of a function around the model, say: tap before it "
    "runs for the first time, or call torch._dynamo.reset() before tapping."
)


@contextmanager
def tap(
    model: nn.Module,
    *,
    layer_index: int | None = None,
    block: nn.Module | None = None,
    positions: Positions | str | int | slice | Sequence[int] | None = "all",
    generated: bool = False,
) -> Iterator[Captured]:
    """Capture the output of a block from every forward pass within the `with` block.

    Also of `model.generate`: the first pass, and each that does not go on behind the keys and
    values of the one before, is a prompt; those that do are generated tokens. The last token of a
    generation is never run, so it has no row.

    Args:
        model: a decoder-only transformers model, or a module around one, of any float type, on any
            devices, not compiled yet.
        layer_index: K. The rows are the output of block K, which transformers calls
            `hidden_states[K + 1]`, but for the last block, whose entry there is normed already.
        block: the block's module, in place of `layer_index`, where the blocks are not found.
        positions: which tokens of a prompt, as `Positions.of` takes them; padding does not count.
            Of a text that a slice does not meet there are no rows. "generated", or None with
            `generated`: none of the prompt, but all generated tokens.
        generated: capture generated tokens as well.

    Yields:
        What is captured, growing with every pass.

    Raises:
        TapError: a block that is not there, a model that is compiled, a pass that does not fit, or,
            on leaving the `with` block, no pass at all.
        RequestError: positions that are none, or that a text does not have.
    """
    path = find_path(model, layer_index, block)
    require_uncompiled(path)
    if isinstance(positions, str) and positions == "generated" or positions is None and generated:
        recorder = Recorder(None, True)
    else:
        recorder = Recorder(Positions.of(positions), generated)
    with ExitStack() as hooks:
        hooks.callback(forget_generation, path)
        _Watch(recorder, path).install(hooks)
        yield recorder.captured
    if recorder.captured.num_forwards == 0:
        name, module = path[-1]
        raise TapError(
            f"{name} ({type(module).__name__})",
            got="no forward pass within the with block",
            expected="one or more",
            fix=f"Run the model there. If it did run, {_PASSED_BY}",
        )


class _Watch:
    """The hooks of one tap, and the pass that is under way.

    All but `_after` and the recorder can be traced, so a model that is compiled within the `with`
    block stays in one piece up to the end of its decoder. There the rows are taken; until then
    compiled code keeps a copy of the block's whole output.
    """

    def __init__(self, recorder: Recorder, path: list[tuple[str, nn.Module]]) -> None:
        self._recorder, self._path = recorder, path
        self._inputs: ForwardInputs | None = None
        self._kept: Tensor | None = None

    def install(self, hooks: ExitStack) -> None:
        """Add the hooks; `hooks` removes them."""
        *outer, (_, block) = self._path
        for level, (_, module) in enumerate(outer):
            names = tuple(inspect.signature(module.forward).parameters)
            before = partial(self._before, level, names)
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(block.register_forward_hook(self._at_block).remove)
        after = torch.compiler.disable(self._after, reason=_NOT_COMPILED)
        hooks.callback(outer[-1][1].register_forward_hook(after).remove)

    def _before(
        self,
        level: int,
        names: tuple[str, ...],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """A module on the way to the block is called; the first of them begins a pass."""
        inputs = self._inputs
        if inputs is None or level <= inputs.level:
            inputs = ForwardInputs(level)
        inputs.add(level, {**dict(zip(names, args, strict=False)), **kwargs})
        self._inputs = inputs

    def _at_block(self, module: nn.Module, args: Any, output: Any) -> None:
        """The block has run; not within a pass where autograd runs it again."""
        if self._inputs is None:
            return
        if torch.compiler.is_compiling():
            self._kept = (output[0] if isinstance(output, tuple) else output).detach().clone()
        else:
            self._record(output)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        """The decoder has run: take what compiled code kept."""
        if self._kept is not None:
            self._record(self._kept)
        elif self._inputs is not None:
            self._inputs = None
            name, block = self._path[-1]
            raise TapError(
                f"{name} ({type(block).__name__})",
                got="a forward pass that did not run it",
                expected="one that runs every block up to it",
                fix=f"Tap a block that runs. If it did run, {_PASSED_BY}",
            )

    def _record(self, output: object) -> None:
        inputs, self._inputs, self._kept = self._inputs, None, None
        assert inputs is not None
        self._recorder.record(output, inputs)
