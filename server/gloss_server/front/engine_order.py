"""A server's settings as its engine and its supervisor want them."""

from __future__ import annotations

from gloss_server.embedded import embedded_pair
from gloss_server.link.messages import Load
from gloss_server.link.supervisor import SupervisorPolicy
from gloss_server.settings import ServeSettings

_ENGINES_OWN = (
    *("num_slots", "memory_fraction", "target_share", "num_watches", "max_watch_tokens"),
    *("watch_max_pending", "max_text_tokens", "max_read_tokens"),
)
"""Settings whose default is the engine's."""


def engine_order(settings: ServeSettings) -> Load:
    """What the engine loads.

    Raises:
        CommandError: a package without its embedded pair.
    """
    config = {
        "device": settings.device,
        "dtype": settings.dtype,
        "quantization": settings.quantization,
        "injection_mode": settings.injection_mode,
        "max_new_tokens": settings.max_new_tokens,
        "fve_baseline": settings.fve_baseline,
        "num_threads": settings.num_threads,
        "max_step_tokens": settings.max_step_tokens,
        "batch_invariant": settings.batch_invariant,
        "graphs": settings.graphs,
        "batch_share": settings.batch_share,
        "target_generates": settings.target_generates,
    }
    for name in _ENGINES_OWN:
        if getattr(settings, name) is not None:
            config[name] = getattr(settings, name)
    av, ar, target = settings.av, settings.ar, settings.target
    if av is None:
        pair = embedded_pair()
        av, ar, target = pair.av, pair.ar, target or pair.target
    return Load(
        av=str(av),
        ar=None if ar is None else str(ar),
        target=None if target is None else str(target),
        config=config,
        traces=settings.traces,
    )


def supervisor_policy(settings: ServeSettings) -> SupervisorPolicy:
    """When the engine counts as dead."""
    return SupervisorPolicy(
        heartbeat_timeout=settings.heartbeat_timeout_seconds,
        load_timeout=settings.load_timeout_seconds,
        restart_limit=settings.restart_limit,
        restart_window=settings.restart_window_seconds,
    )
