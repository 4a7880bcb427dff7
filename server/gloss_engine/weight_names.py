"""What weights are called: the names of a plain Hugging Face model, whatever wraps it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Wrapped models, old layout first; then a bare base model saved without its head.
_WRAPPERS = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("layers.", "model.layers."),
    ("embed_tokens.", "model.embed_tokens."),
    ("norm.", "model.norm."),
)
_VISION = re.compile(r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\.")


def canonical_name(name: str) -> str:
    """A language-model weight's name as a model without wrapper has it."""
    for prefix, replacement in _WRAPPERS:
        if name.startswith(prefix):
            return replacement + name[len(prefix) :]
    return name


def is_vision(name: str) -> bool:
    """Whether it is a weight of a wrapped model's vision tower, which nothing here runs."""
    return _VISION.match(name) is not None


def some_names(names: Iterable[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
