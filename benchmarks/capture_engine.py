"""Engines that explain texts: the embedded pair with its target, or a shape with random weights.

Of a shape, target and AV have weights of their own, as a trained pair does. Engines that differ in
the target's share of time run on the same runner, pages and graphs, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from capture_subject import random_ids, random_target_decoder, shape_target
from suite_engine import build
from suite_shape import Shape, random_decoder, random_pair

from gloss_engine import Engine, EngineConfig, TextInput, load_engine
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.target.loading import Explained

SHARED_PAGE = 16
"""Tokens of a target's page on a GPU."""


@dataclass(frozen=True, kw_only=True)
class TextEngine:
    """An engine, and texts for its target.

    Attributes:
        name: for rows.
        engine: warmed up, idle.
        texts: token ids of texts, each as long as the longest that is read.
        new_tokens: most tokens of an explanation.
        watch_tokens: most tokens of a Watch.
    """

    name: str
    engine: Engine
    texts: tuple[tuple[int, ...], ...]
    new_tokens: int
    watch_tokens: int

    def text(self, number: int, length: int) -> TextInput:
        """The first tokens of one of the texts, as a caller sends them: in words."""
        assert self.engine.target is not None
        ids = self.texts[number % len(self.texts)][:length]
        return TextInput(text=self.engine.target.target.tokenizer.decode(ids))

    def with_share(self, share: float) -> Engine:
        """The same machinery with another share of time for its target; nothing may be running."""
        engine = self.engine
        return Engine(
            engine.runner,
            engine.scheduler,
            engine.reader,
            engine.facts,
            engine.scores,
            engine.info,
            lag=engine.lag,
            target=engine.target,
            target_share=share,
        )


def embedded_engine(num_threads: int, longest: int) -> TextEngine:
    """The embedded pair with its target, and its held-out stories one after another.

    Args:
        num_threads: CPU threads.
        longest: tokens of each text.
    """
    import pyarrow.parquet as pq

    from gloss_server.embedded import embedded_pair

    pair = embedded_pair()
    config = EngineConfig(device="cpu", num_threads=num_threads, max_new_tokens=120)
    engine = load_engine(pair.av, pair.ar, config, target=pair.target)
    assert engine.target is not None
    table = pq.read_table(pair.activations, columns=["doc_id", "text"]).to_pylist()
    # The rows of a story follow each other; the text of the last one is the longest.
    stories = list({row["doc_id"]: row["text"] for row in table}.values())
    tokenizer = engine.target.target.tokenizer
    texts = []
    for first in range(len(stories)):
        ids: list[int] = []
        for story in stories[first:] + stories[:first]:
            ids += tokenizer.encode(story)
            if len(ids) >= longest:
                break
        texts.append(tuple(ids[:longest]))
    return TextEngine(
        name="embedded",
        engine=engine,
        texts=tuple(texts),
        new_tokens=config.max_new_tokens,
        watch_tokens=256,
    )


@torch.no_grad()
def shape_engine(shape: Shape, layer_index: int, config: EngineConfig, longest: int) -> TextEngine:
    """A shape with random weights.

    Args:
        shape: of AV, AR and target.
        layer_index: K.
        config: the engine's; `max_new_tokens` is the shape's.
        longest: tokens of each text.
    """
    decoder = random_target_decoder(shape.config, config)
    decoder.pack()
    target = shape_target(shape.name, decoder, layer_index, config)
    keys = config.max_text_tokens + config.max_watch_tokens
    num_pages = 1 + config.num_watches * -(-keys // SHARED_PAGE)
    cache = allocate_pool(decoder.spec, num_pages, SHARED_PAGE, decoder.device, decoder.dtype)
    pair = random_pair(shape, random_decoder(shape, config))
    built = build(
        pair, replace(config, page_size=SHARED_PAGE), Explained(target=target, cache=cache)
    )
    ids = tuple(random_ids(shape.spec.vocab_size, longest).tolist())
    return TextEngine(
        name=shape.name,
        engine=built.engine,
        texts=(ids,),
        new_tokens=shape.new_tokens,
        watch_tokens=config.max_watch_tokens,
    )
