"""The word-level tokenizer of the tiny world, saved as an ordinary Hugging Face fast tokenizer.

One token is one word or punctuation mark, case kept; words outside the world become [UNK].
Decoding closes up punctuation and quotation marks, so that texts read like English.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gloss_training.models.prompts import EXPLANATION_CLOSE, EXPLANATION_OPEN
from gloss_training.settings import AR_SLOT, AV_SLOT
from gloss_training.world.grammar import UNKNOWN_WORD, teacher_words
from gloss_training.world.settings import WORLD_PROMPT
from gloss_training.world.stories import WORD_PATTERN, split_words, world_words

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
CONCEPT_OPEN: Final = "<concept>"
CONCEPT_CLOSE: Final = "</concept>"

SPECIAL_TOKENS: Final = (UNKNOWN_WORD, PAD, END, USER, ASSISTANT)
TAGS: Final = (CONCEPT_OPEN, CONCEPT_CLOSE, EXPLANATION_OPEN, EXPLANATION_CLOSE)

CHAT_TEMPLATE: Final = f"""\
{{%- for message in messages -%}}
{{%- if message['role'] == 'user' -%}}{USER}
{{%- elif message['role'] == 'assistant' -%}}{ASSISTANT}
{{%- else -%}}{{{{ raise_exception('only the roles user and assistant are known') }}}}
{{%- endif -%}}
{{{{ message['content'] }}}}{END}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{ASSISTANT}{{%- endif -%}}
"""


def vocabulary() -> list[str]:
    """All tokens in id order: specials, tags, the marker, then words sorted."""
    words = set(world_words()) | set(teacher_words())
    asked = WORLD_PROMPT.av_template.replace(AV_SLOT, "")
    for template in (asked, WORLD_PROMPT.ar_template.replace(AR_SLOT, "")):
        for tag in TAGS:
            template = template.replace(tag, " ")
        words.update(split_words(template))
    return [*SPECIAL_TOKENS, *TAGS, WORLD_PROMPT.injection_char, *sorted(words)]


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny world; `max_length` is the models' context in tokens."""
    table = {token: index for index, token in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(table, unk_token=UNKNOWN_WORD))
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex(WORD_PATTERN.pattern), behavior="removed", invert=True
    )
    core.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace(" ,", ","),
            decoders.Replace(" :", ":"),
            decoders.Replace("“ ", "“"),
            decoders.Replace(" ”", "”"),
        ]
    )
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN_WORD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def word_ids(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[int]:
    """Ids of story words, one each; the unknown word is a word here, not text to be split."""
    ids = tokenizer.convert_tokens_to_ids(list(words))
    assert isinstance(ids, list)
    return ids


def text_of(tokenizer: PreTrainedTokenizerFast, token_ids: Iterable[int]) -> str:
    """Readable text of tokens, unknown words shown as [UNK]."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    assert isinstance(text, str)
    return text
