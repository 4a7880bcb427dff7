"""Documents of every family's tokenizer: specials, chats, text that falls between tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gloss_engine.target.reader import TextToRead
from gloss_training.capture.readers import EngineReader, TapReader
from gloss_training.documents.document import Document
from gloss_training.documents.positions import choose_positions, encode_document, special_ids
from support.checkpoints import ARCHITECTURES, LAYER_INDEX, write_target

TEXT = "The naïve café\n\n  closed at 9 — “too early”, she said. 漢字 and 🙂 too."
CHAT = (("user", "Who closed the café?"), ("assistant", "Nobody knows 🙂."))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("targets") / request.param, request.param)


@pytest.fixture(scope="module")
def reader(directory: Path) -> EngineReader:
    return EngineReader(directory, LAYER_INDEX, max_document_tokens=256, device="cpu")


def test_text_before_a_position_ends_with_its_token(reader: EngineReader) -> None:
    tokenizer = reader.tokenizer
    encoded = encode_document(tokenizer, Document(doc_id="a", text=TEXT), 256)
    assert encoded.token_ids.tolist() == tokenizer.encode(TEXT)
    last = len(encoded.token_ids) - 1
    assert encoded.before(last, 1000) == TEXT
    pieces = ["", *(encoded.before(position, 1000) for position in range(last + 1))]
    for before, after in zip(pieces, pieces[1:], strict=False):
        assert after.startswith(before)
    assert TEXT.startswith(pieces[last // 2])


def test_a_chat_is_read_without_what_its_template_writes(reader: EngineReader) -> None:
    tokenizer = reader.tokenizer
    encoded = encode_document(tokenizer, Document(doc_id="a", messages=CHAT), 256)
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in CHAT], tokenize=False
    )
    assert encoded.text == rendered
    ids = encoded.token_ids.tolist()
    assert ids == tokenizer.encode(rendered, add_special_tokens=False)
    chosen = choose_positions(
        encoded,
        special=special_ids(tokenizer),
        min_position=0,
        count=999,
        seed=0,
        doc_id="a",
    )
    left = [position for position in range(len(ids)) if position not in chosen]
    # Turn tokens, roles, line ends: all that is left of the chat without its messages.
    read = "".join(tokenizer.decode([ids[position] for position in chosen]).split())
    assert read == "".join("".join(content for _, content in CHAT).split())
    written = tokenizer.decode([ids[position] for position in left])
    assert "user" in written and "assistant" in written and "<" in written
    assert not any(word in written for _, content in CHAT for word in content.split())


def test_a_message_that_the_template_leaves_out_is_not_read(reader: EngineReader) -> None:
    document = Document(doc_id="a", messages=(*CHAT, ("user", "   ")))
    encoded = encode_document(reader.tokenizer, document, 256)
    assert 0 < encoded.is_own.sum() < len(encoded.token_ids)


def test_both_readers_give_the_output_of_block_k(directory: Path, reader: EngineReader) -> None:
    tapped = TapReader(directory, LAYER_INDEX, device=torch.device("cpu"), dtype=torch.float32)
    documents = [Document(doc_id="a", text=TEXT), Document(doc_id="b", messages=CHAT)]
    texts = []
    for document in documents:
        ids = encode_document(reader.tokenizer, document, 256).token_ids.tolist()
        texts.append(TextToRead(token_ids=tuple(ids), positions=(1, 5, len(ids) - 1)))
    one, other = reader.read(texts), tapped.read(texts)
    np.testing.assert_allclose(one.activations, other.activations, rtol=2e-3, atol=2e-3)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        states = model(torch.tensor([texts[0].token_ids]), output_hidden_states=True).hidden_states
    expected = states[LAYER_INDEX + 1][0, list(texts[0].positions)].numpy()
    np.testing.assert_allclose(one.activations[:3], expected, rtol=2e-3, atol=2e-3)
