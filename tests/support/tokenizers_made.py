"""Small real tokenizers, one per model family, trained on a built-in text.

Each is saved the way its family's releases are (class name, special tokens, BOS or none, chat
template) so that AutoTokenizer treats it as it treats theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

AV_TEMPLATE = (
    "You are a careful researcher. The concept below stands for an activation of a model. "
    "<concept>{injection_char}</concept> Say what it holds between <explanation> and "
    "</explanation> tags. Please provide an explanation."
)
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"

_SENTENCES = (
    AV_TEMPLATE,
    AR_TEMPLATE,
    "The final token ends a clause about the river, and a verb should follow.",
    "A recipe lists flour, water and salt; the next word is likely a quantity.",
    "def area(width, height):\n    return width * height\n",
    "In 1987 the council met 42 times, which nobody had expected.",
    "<explanation>\nThe text describes weather in the north. It will rain.\n</explanation>",
    "user assistant system model: questions, answers and explanations of features.",
    "She asked whether the model could explain what it had read; it could not.",
    "Naïve café, coöperate: accents are letters too. 河川 и реки.",
)
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family tokenizes.

    Attributes:
        marker_char: its injection character in the releases.
        tokenizer_class: the class name in its tokenizer_config.json.
        special_tokens: name in tokenizer_config.json to text.
        turn_tokens: further special tokens that only the chat template uses.
        end_of_turn: the token that ends an answer.
        chat_template: jinja source.
    """

    marker_char: str
    tokenizer_class: str
    special_tokens: dict[str, str]
    turn_tokens: tuple[str, ...]
    end_of_turn: str
    chat_template: str


_QWEN = Family(
    marker_char="\u320e",
    tokenizer_class="Qwen2Tokenizer",
    special_tokens={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    turn_tokens=("<|im_start|>",),
    end_of_turn="<|im_end|>",
    chat_template=_CHATML,
)
FAMILIES = {
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "llama3": Family(
        marker_char="\u33a1",
        tokenizer_class="PreTrainedTokenizerFast",
        special_tokens={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        turn_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
        end_of_turn="<|eot_id|>",
        chat_template=_HEADERS,
    ),
    "gemma3": Family(
        marker_char="\u321c",
        tokenizer_class="GemmaTokenizer",
        special_tokens={
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "unk_token": "<unk>",
        },
        turn_tokens=("<mask>", "<start_of_turn>", "<end_of_turn>"),
        end_of_turn="<end_of_turn>",
        chat_template=_TURNS,
    ),
}


@cache
def _trained_json(arch: str) -> str:
    """The serialized tokenizer of one architecture; training takes a while, so once."""
    family = FAMILIES[arch]
    specials = [*family.special_tokens.values(), *family.turn_tokens]
    tokenizer = _gemma() if arch == "gemma3" else _byte_level(arch)
    tokenizer.train_from_iterator(_corpus(family.marker_char), _trainer(arch, specials))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    bos = family.special_tokens.get("bos_token")
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
    made = json.loads(tokenizer.to_str())
    # The trainer files the byte tokens under the special ones; decoding would drop them.
    made["added_tokens"] = [t for t in made["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(made)


def save_tokenizer(arch: str, directory: Any) -> Any:
    """Write the family's tokenizer files into a directory that has a config.json; load them back.

    Returns:
        The tokenizer as AutoTokenizer gives it.
    """
    family = FAMILIES[arch]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_json(arch)),
        chat_template=family.chat_template,
        padding_side="left",
        **family.special_tokens,
    )
    tokenizer.save_pretrained(directory)
    _set_class(directory, family.tokenizer_class)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _set_class(directory: Any, tokenizer_class: str) -> None:
    path = directory / "tokenizer_config.json"
    text = path.read_text()
    assert '"TokenizersBackend"' in text
    path.write_text(text.replace('"TokenizersBackend"', f'"{tokenizer_class}"'))


def _corpus(marker_char: str) -> list[str]:
    # The marker alone and often: its bytes merge to one token, which merges with nothing else.
    return [*_SENTENCES * 4, *[marker_char] * 200]


def _byte_level(arch: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if arch != "llama3":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _trainer(arch: str, specials: list[str]) -> trainers.BpeTrainer:
    if arch == "gemma3":
        # Byte tokens for what the text lacks; pad, eos, bos, unk come first as in the releases.
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        return trainers.BpeTrainer(
            vocab_size=520,
            special_tokens=[*specials, *fallback],
            show_progress=False,
            max_token_length=8,
        )
    return trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
