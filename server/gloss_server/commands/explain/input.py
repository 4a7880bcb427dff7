"""What `gloss explain` and `gloss watch` are given to read: a text, or a file of one or of many.

Files of many are those of `gloss capture`. A text that stands alone is what was asked for: where it
cannot be read the command is refused. Of many each fails alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gloss_engine.text_request import TextInput
from gloss_server.command_error import CommandError
from gloss_server.commands.capture.row import Failure, TextRow, parse_row
from gloss_server.files.resumable_run import hash_input
from gloss_server.terminal import RunProgress

STDIN = Path("-")
_SUFFIXES_OF_MANY = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Texts to read.

    Attributes:
        rows: all of them, from number 0 on; may be called again.
        num_rows: how many.
        only: the text that stands alone; None: they come from a file of many.
        sha256: over the input.
    """

    rows: Callable[[], Iterator[TextRow | Failure]]
    num_rows: int
    only: TextInput | None
    sha256: str


def open_documents(
    text: str | None, file: Path | None, chat: bool, progress: RunProgress
) -> Documents:
    """The texts that a command line names.

    Raises:
        CommandError: none or two of them, a file that cannot be read, or no chat.
    """
    if (text is None) == (file is None):
        got = "nothing to read" if text is None else "TEXT and --file"
        raise CommandError(f"got {got}, expected TEXT or --file FILE")
    if file is not None and file.suffix in _SUFFIXES_OF_MANY:
        return _many(file, chat, progress)
    if text is None:
        assert file is not None
        text = _read(file)
    only = one_text(text, chat)
    row = TextRow(row=0, doc_id="0", text=only)
    # What is no UTF-8 on the command line is still told apart; encoding refuses it.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return Documents(rows=lambda: iter([row]), num_rows=1, only=only, sha256=digest)


def one_text(text: str, chat: bool) -> TextInput:
    """A text, or a chat written as JSON.

    Raises:
        CommandError: JSON that is no chat.
    """
    if not chat:
        return TextInput(text=text)
    parsed = parse_row(0, {"messages": text})
    if isinstance(parsed, Failure):
        example = '[{"role": "user", "content": ".."}]'
        raise CommandError(f"--chat: {parsed.message}, as in {example}")
    return parsed.text


def _many(file: Path, chat: bool, progress: RunProgress) -> Documents:
    # Here, because pyarrow takes a while and a text needs none of it.
    from gloss_server.commands.capture.input import open_texts

    if chat:
        raise CommandError(f"--chat with {file}: its rows say themselves which are chats")
    with progress.stage(f"Reading {file.name}"):
        source = open_texts(file)
    digest = hash_input(file, progress)
    return Documents(
        rows=lambda: source.rows(0), num_rows=source.num_rows, only=None, sha256=digest
    )


def _read(file: Path) -> str:
    """A file as one text, without the line end that editors leave behind it."""
    try:
        data = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"--file {file}: cannot read it: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(
            f"--file {file}: got bytes that are no UTF-8 at {error.start}, expected a text"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
