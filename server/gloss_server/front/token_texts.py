"""Single tokens as text."""

from __future__ import annotations

from tokenizers import Tokenizer


class TokenTexts:
    """Texts of a vocabulary's tokens, each decoded once.

    Args:
        tokenizer: whose.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def of(self, token_id: int) -> str:
        """A token alone; bytes of a character that it does not finish come as U+FFFD."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._tokenizer.decode([token_id], skip_special_tokens=False)
            self._texts[token_id] = text
        return text
