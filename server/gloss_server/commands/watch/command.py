"""`gloss watch`: a model goes on from a prompt, and what its activations say is shown meanwhile.

Where it runs is `sources/text_source.py`'s, how it looks `page.py`'s and `lines.py`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Protocol

from gloss_client import Explanation
from gloss_engine.capture.positions import Positions
from gloss_engine.text_request import TextInput, WatchRequest
from gloss_server.command_error import CommandError
from gloss_server.commands.explain.input import one_text
from gloss_server.commands.watch.options import DEFAULT_TOKENS, WatchOptions
from gloss_server.sources.text_source import TextEnded, TextEvent, TextFailed, TextSource
from gloss_server.terminal import RunProgress


class WatchShow(Protocol):
    """Where a watch is shown."""

    def begin(self, prompt: TextInput, num_samples: int, seed: int) -> None:
        """The target goes on from a prompt."""

    def take(self, events: Sequence[TextEvent]) -> None:
        """Show what happened."""

    def end(self) -> None:
        """Nothing comes any more, be it for Ctrl-C: show what was not shown yet."""


def watch(options: WatchOptions, source: TextSource, show: WatchShow, progress: RunProgress) -> int:
    """Watch a target to its end; how many explanations failed.

    Raises:
        CommandError: options or a prompt that cannot be used; nothing was shown.
        GlossError: a checkpoint, setting or request that cannot be used; likewise.
        SourceLost: what explains went away.
        KeyboardInterrupt: Ctrl-C; what there was has been shown.
    """
    options.check()
    prompt = one_text(options.prompt, options.chat)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    most = options.target_sampling(seed, DEFAULT_TOKENS).max_new_tokens
    positions = None if options.positions is None else Positions.parse(options.positions)
    source.check(options)
    with ExitStack() as opened:
        runner = source.open(options, progress, max_watch_tokens=most)
        opened.enter_context(closing(runner))
        runner.submit(
            0,
            WatchRequest(
                input=prompt,
                target_sampling=options.target_sampling(seed, runner.max_watch_tokens),
                prompt_positions=positions,
                every=options.every,
                max_pending=options.max_pending,
                tokens_per_second=options.tokens_per_second or None,
                num_samples=options.samples,
                sampling=options.sampling(seed),
                score=source.scores(options),
                stream=True,
            ),
        )
        # The first event says that it was taken.
        events = [came.event for came in runner.advance()]
        if isinstance(events[0], TextFailed):
            raise CommandError(events[0].error.message)
        show.begin(prompt, options.samples, seed)
        opened.callback(show.end)
        num_failed = 0
        while True:
            num_failed += sum(
                isinstance(event, Explanation) and event.error is not None for event in events
            )
            show.take(events)
            if any(isinstance(event, TextEnded) for event in events):
                return num_failed
            events = [came.event for came in runner.advance()]
