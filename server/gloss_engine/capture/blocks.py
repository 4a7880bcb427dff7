"""Where a transformers model keeps its decoder blocks, and whether hooks there would still fire.

Nothing here knows an architecture by name: the blocks are the list of modules under the decoder
that is as long as the config says. What to read from a block is for `recorder.py`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gloss_engine.errors import TapError

_COMPILED_CALL = "_compiled_call"
"""Where a transformers model keeps what `generate` has compiled."""


def find_path(
    model: nn.Module, layer_index: int | None = None, block: nn.Module | None = None
) -> list[tuple[str, nn.Module]]:
    """The modules that a forward pass goes through on its way to a block, with their names.

    Args:
        model: a transformers model, or a module around one.
        layer_index: K, which of its blocks; or
        block: the block itself, for a model whose blocks are not found.

    Returns:
        From the model (named "") to the block, without the list that holds the blocks.

    Raises:
        TapError: no such block, none found, or an encoder-decoder model.
    """
    if (layer_index is None) == (block is None):
        raise TapError(
            "tap",
            got=f"layer_index={layer_index} and {'a' if block is not None else 'no'} block",
            expected="one of both",
            fix="Pass layer_index=K for the output of block K.",
        )
    if block is None:
        assert layer_index is not None
        block = _block(find_blocks(model), layer_index)
    name = next((name for name, module in model.named_modules() if module is block), None)
    if not name:
        raise TapError(
            "block",
            got=f"a {type(block).__name__} that is not one of the model's modules",
            expected="a module inside the model",
            fix="Pass the block as it stands in the model that is tapped.",
        )
    path, module = [("", model)], model
    for length, part in enumerate(name.split("."), start=1):
        module = getattr(module, part)
        if not isinstance(module, nn.ModuleList):
            path.append((".".join(name.split(".")[:length]), module))
    return path


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a transformers model, in order.

    Raises:
        TapError: an encoder-decoder model, or not exactly one list of modules that fits.
    """
    inner: Any = next((m for m in model.modules() if hasattr(m, "get_decoder")), model)
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        raise TapError(
            "model",
            got=f"{type(inner).__name__}, an encoder with a decoder",
            expected="a decoder-only model",
            fix="Positions would be the encoder's: hook such a model yourself.",
        )
    decoder: nn.Module = inner.get_decoder() if hasattr(inner, "get_decoder") else inner
    lists = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    # Not those within a block, such as a mixture's experts.
    lists = {name: m for name, m in lists.items() if not any(_is_in(name, o) for o in lists)}
    num_blocks = _num_blocks(decoder)
    for found in ([m for m in lists.values() if len(m) == num_blocks], list(lists.values())):
        if len(found) == 1:
            return found[0]
    listed = ", ".join(f"{name} of {len(module)}" for name, module in lists.items()) or "no list"
    raise TapError(
        f"the blocks of {type(model).__name__}",
        got=f"{listed} under {type(decoder).__name__}",
        expected="one list of modules" + (f", {num_blocks} long" if num_blocks else ""),
        fix="Pass the block itself: tap(model, block=module).",
    )


def require_uncompiled(path: list[tuple[str, nn.Module]]) -> None:
    """Refuse a model whose compiled code would pass by a hook that is added now.

    torch.compile does not look whether a module that had no hook has got one since
    (`skip_nnmodule_hook_guards`): such a hook never fires, and nothing says so. A compiled function
    around the model leaves no mark on it: there it shows that no hook has fired.

    Raises:
        TapError: a module of the path is compiled, or `generate` has compiled the model.
    """
    for name, module in path:
        found = _compiled_by(module)
        if found is not None:
            how, undo = found
            raise TapError(
                f"{name or 'model'} ({type(module).__name__})",
                got=f"a module compiled by {how}",
                expected="one that is not compiled yet, since a hook added now may never fire",
                fix=f"Tap first and compile inside the with block; or {undo}, and call "
                "torch._dynamo.reset(), since compiled code outlives what it was made for.",
            )


def forget_generation(path: list[tuple[str, nn.Module]]) -> None:
    """Take off what `generate` has compiled meanwhile, so that the model can be tapped again."""
    for _, module in path:
        vars(module).pop(_COMPILED_CALL, None)


def _compiled_by(module: nn.Module) -> tuple[str, str] | None:
    """What has compiled a module, as far as it shows, and how to undo that."""
    if "_orig_mod" in module._modules:
        return "torch.compile(module)", "tap the module it was made from"
    if module._compiled_call_impl is not None:
        return "module.compile()", "set module._compiled_call_impl = None"
    forward = module.forward
    # torch.compiler.disable leaves the first mark too.
    is_compiled = hasattr(forward, "_torchdynamo_orig_callable")
    if is_compiled and not getattr(forward, "_torchdynamo_disable", False):
        return "torch.compile(module.forward)", "del module.forward"
    if _COMPILED_CALL in vars(module):
        return "generate() with a static cache", f"del model.{_COMPILED_CALL}"
    return None


def _block(blocks: nn.ModuleList, layer_index: int) -> nn.Module:
    is_index = hasattr(layer_index, "__index__") and not isinstance(layer_index, bool)
    if not is_index or not 0 <= layer_index < len(blocks):
        raise TapError(
            "layer_index",
            got=repr(layer_index),
            expected=f"0 to {len(blocks) - 1}",
            fix=f"The model has {len(blocks)} blocks, and K is the number of one of them.",
        )
    return blocks[layer_index]


def _num_blocks(decoder: nn.Module) -> int | None:
    """How many blocks the config states, of a model of text alone or with other parts."""
    config: Any = getattr(decoder, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    return getattr(config, "num_hidden_layers", None)


def _is_in(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.")
