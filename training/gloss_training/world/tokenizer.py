"""The tiny world's tokenizers, saved as ordinary Hugging Face fast tokenizers.

Of words: one token is one word or punctuation mark, case kept; words outside the world become
[UNK]. Decoding closes up punctuation and quotation marks, so that texts read like English.

Of pieces: byte-level BPE, so that any text comes back as it was. Both have the same chat template,
and begin with the same tokens, which are none of a text's.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from gloss_training.models.prompts import EXPLANATION_CLOSE, EXPLANATION_OPEN
from gloss_training.seeds import generator_for
from gloss_training.settings import AR_SLOT, AV_SLOT
from gloss_training.world import grammar
from gloss_training.world.attributes import FEWEST_ATTRIBUTES
from gloss_training.world.documents import damaged_story
from gloss_training.world.grammar import teacher_words
from gloss_training.world.settings import WORLD_PROMPT, WorldSettings
from gloss_training.world.stories import UNKNOWN_WORD, WORD_PATTERN, split_words, world_words

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
CONCEPT_OPEN: Final = "<concept>"
CONCEPT_CLOSE: Final = "</concept>"

SPECIAL_TOKENS: Final = (UNKNOWN_WORD, PAD, END, USER, ASSISTANT)
TAGS: Final = (CONCEPT_OPEN, CONCEPT_CLOSE, EXPLANATION_OPEN, EXPLANATION_CLOSE)

RESERVED: Final = (*SPECIAL_TOKENS, *TAGS, WORLD_PROMPT.injection_char)
"""The first tokens of every vocabulary."""
NUM_STORIES_OF_PIECES: Final = 500
"""Stories, and as many explanations, that pieces of words are learnt from."""

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


def build_tokenizer(world: WorldSettings, seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a world; of pieces, it is learnt from stories that the seed draws."""
    core = _of_pieces(world, seed) if world.vocabulary_size else _of_words(world.num_attributes)
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN_WORD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=world.shape.max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def vocabulary(num_attributes: int = FEWEST_ATTRIBUTES) -> list[str]:
    """All tokens of the word tokenizer in id order: the reserved ones, then words sorted."""
    words = set(world_words(num_attributes)) | set(teacher_words(num_attributes))
    for template in _asked():
        for tag in TAGS:
            template = template.replace(tag, " ")
        words.update(split_words(template))
    return [*RESERVED, *sorted(words)]


def text_of(tokenizer: PreTrainedTokenizerFast, token_ids: Iterable[int]) -> str:
    """Readable text of tokens, unknown words shown as [UNK]."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    assert isinstance(text, str)
    return text


def _of_words(num_attributes: int) -> Tokenizer:
    table = {token: index for index, token in enumerate(vocabulary(num_attributes))}
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
    return core


def _of_pieces(world: WorldSettings, seed: int) -> Tokenizer:
    """Byte-level BPE: the reserved tokens, every byte, then the commonest pieces."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pieces
    trainer = trainers.BpeTrainer(
        vocab_size=world.vocabulary_size - len(RESERVED),
        initial_alphabet=sorted(pieces.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator(_told(world, seed), trainer)
    model = json.loads(learnt.to_str())["model"]
    tokens = [*RESERVED, *sorted(model["vocab"], key=model["vocab"].get)]
    core = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in model["merges"]],
        )
    )
    core.pre_tokenizer, core.decoder = pieces, decoders.ByteLevel()
    # No piece of a text: it stays one token whatever stands beside it.
    core.add_tokens([AddedToken(WORLD_PROMPT.injection_char, special=False, normalized=False)])
    return core


def _told(world: WorldSettings, seed: int) -> Iterator[str]:
    """What pieces are learnt from: stories, their explanations, and what both models are asked."""
    generator = generator_for(seed, "tokenizer")
    undamaged = replace(world, unknown_word_rate=0.0)
    for _ in range(NUM_STORIES_OF_PIECES):
        story = damaged_story(undamaged, generator)
        yield story.text
        position = int(generator.integers(len(story.words)))
        yield grammar.explain(story, position, generator, world.num_ending_words)
    yield from _asked()


def _asked() -> tuple[str, str]:
    """The prompts, without what stands in them."""
    return (
        WORLD_PROMPT.av_template.replace(AV_SLOT, ""),
        WORLD_PROMPT.ar_template.replace(AR_SLOT, ""),
    )
