"""The weights of a loaded pair while it stays: training replaces them where they are.

Graphs of steps and packed layers hold addresses, so weights are copied into the tensors that are
there, and so are the keys and values of the AV's prefix, which follow from them. Before the first
is touched all are known to fit: what is missing, unknown or of another shape changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.errors import WeightsError
from gloss_engine.models.decoder import Decoder
from gloss_engine.program import AvProgram
from gloss_engine.weight_checksum import weights_checksum
from gloss_engine.weight_names import canonical_name, is_vision, some_names

NamedWeights = Iterable[tuple[str, Tensor]]
_CHUNK_ELEMENTS = 1 << 24
"""Elements whose rounding is measured at once: a few copies of 64 MiB."""


class LiveWeights:
    """A pair's weights.

    Args:
        decoder, program: the AV's.
        prefix_ids: its prompt up to the marker.
        reconstructor: the AR, or None.
        target: the explained model that is loaded beside them, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        program: AvProgram,
        prefix_ids: Sequence[int],
        reconstructor: Reconstructor | None = None,
        target: Decoder | None = None,
    ) -> None:
        self._decoder, self._program, self._reconstructor = decoder, program, reconstructor
        self._prefix_ids, self._target = list(prefix_ids), target

    @property
    def dtype(self) -> torch.dtype:
        """The type that weights are held in, but for the value head's float32."""
        return self._decoder.dtype

    @torch.no_grad()
    def update(
        self, av: NamedWeights, ar: NamedWeights | None = None, *, is_idle: bool = True
    ) -> float:
        """Replace all weights of the AV, and of the AR where they are given.

        Args:
            av, ar: every weight once, under its name in a checkpoint; in float32 or the engine's
                type, on any device. Read twice, so that nothing is held of them; an iterator, which
                can be read once only, is made a list.
            is_idle: nothing that runs reads the weights.

        Returns:
            The share of the change that rounding to the engine's type lost, 0 to 1: with e = w -
            round(w) and d = w - (what the engine had), ||e|| / ||d|| over all that was cast.

        Raises:
            WeightsError: what does not fit; nothing was changed. An error of what yields the
                weights may come between two of them: then they must be given again.
        """
        self._check_replaceable()
        if not is_idle:
            raise WeightsError(
                "engine",
                got="requests in flight",
                expected="none",
                fix="Step until has_work is False, or cancel what runs.",
            )
        sides = {"AV": av if not isinstance(av, Iterator) else list(av)}
        if ar is not None:
            sides["AR"] = ar if not isinstance(ar, Iterator) else list(ar)
        lost = torch.zeros(2, dtype=torch.float64, device=self._decoder.device)
        with self._targets() as targets:
            for side, weights in sides.items():
                if side not in targets:
                    raise WeightsError(
                        "weights of the AR",
                        got="some",
                        expected="none, since no AR is loaded",
                        fix="Load the AR beside the AV, or give the AV's alone.",
                    )
                _check(side, weights, targets[side], self.dtype)
            for side, weights in sides.items():
                for name, tensor in weights:
                    if not is_vision(name):
                        _fill(targets[side][canonical_name(name)], tensor.detach(), lost)
        self._refresh("AR" in sides)
        rounding, change = lost.tolist()
        return (rounding / change) ** 0.5 if change else 0.0

    @torch.no_grad()
    def checksum(self) -> str:
        """The checksum of what is loaded: see `weights_checksum`.

        Raises:
            WeightsError: quantised weights, which no other copy is equal to.
        """
        self._check_replaceable()
        with self._targets() as targets:
            ar = targets.get("AR")
            return weights_checksum(
                targets["AV"].items(), None if ar is None else ar.items(), dtype=self.dtype
            )

    @contextmanager
    def _targets(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """The tensors behind the names of both sides."""
        with self._decoder.unpacked() as av:
            if self._reconstructor is None:
                yield {"AV": av}
                return
            with self._reconstructor.decoder.unpacked() as ar:
                yield {"AV": av, "AR": ar | self._reconstructor.value_head()}

    def _check_replaceable(self) -> None:
        if self._decoder.quantization != "none":
            raise WeightsError(
                "quantization",
                got=self._decoder.quantization,
                expected="none",
                fix="Load the pair unquantised to train with it.",
            )
        if self._target is not None and self._target.shared:
            raise WeightsError(
                "target",
                got=f"one that shares {some_names(sorted(self._target.shared))} with the AV",
                expected="weights that the AV has for itself",
                fix="Load the pair without its target to train with it.",
            )

    @torch.inference_mode()
    def _refresh(self, ar: bool) -> None:
        """Compute anew what follows from the weights."""
        prefix = self._program.prefix
        if prefix is not None:
            ids = torch.tensor(self._prefix_ids, device=self._decoder.device)
            fresh = self._decoder.compute_prefix(ids)
            prefix.keys.copy_(fresh.keys)
            prefix.values.copy_(fresh.values)
        if ar and self._reconstructor is not None:
            self._reconstructor.refresh_prefix()


def _check(
    side: str, weights: NamedWeights, targets: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Refuse weights that are not exactly those of one side."""
    found: set[str] = set()
    wrong: dict[str, list[str]] = {"unknown": [], "given twice": [], "of another shape or type": []}
    for name, tensor in weights:
        if is_vision(name):
            continue
        canonical = canonical_name(name)
        target = targets.get(canonical)
        if target is None:
            wrong["unknown"].append(name)
        elif canonical in found:
            wrong["given twice"].append(name)
        elif tensor.shape != target.shape or tensor.dtype not in (torch.float32, dtype):
            got, expected = (list(tensor.shape), tensor.dtype), list(target.shape)
            wrong["of another shape or type"].append(f"{name} {got[0]} {got[1]} for {expected}")
        found.add(canonical)
    wrong["missing"] = sorted(targets.keys() - found)
    if any(wrong.values()):
        told = [f"{some_names(names)} {what}" for what, names in wrong.items() if names]
        raise WeightsError(
            f"weights of the {side}",
            got="; ".join(told),
            expected=f"each of its {len(targets)} weights once, in float32 or {dtype}",
            fix="Give the weights that a checkpoint of this model holds, a tied head left out.",
        )


@torch.inference_mode()
def _fill(target: Tensor, tensor: Tensor, lost: Tensor) -> None:
    """Copy a weight; where that casts it, add the squares of what is lost and of the change."""
    if tensor.dtype == target.dtype:
        target.copy_(tensor)
        return
    for old, given in zip(_chunks(target), _chunks(tensor), strict=True):
        wide = given.to(old.device)
        change = torch.linalg.vector_norm(wide - old)
        old.copy_(wide)
        rounding = torch.linalg.vector_norm(wide - old)
        lost += torch.stack((rounding, change)).double().square()


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor's rows."""
    width = max(1, tensor.numel() // max(1, tensor.shape[0]))
    return tensor.split(max(1, _CHUNK_ELEMENTS // width))
