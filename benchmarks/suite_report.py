"""The suite's rows: parts run one by one within a time, kept as they come, written after each.

A part is a function that yields rows. Whatever it raises becomes a row with its error and the next
part runs; a part that the remaining time does not suffice for becomes a row that says so. The file
is replaced whole after every row, so that a run that is killed keeps what it had. Ratios to peers
are worked out here, from rows alone: ours over the fastest peer of the same number in flight.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from common import machine, table

OURS = "explanations_per_second"
THEIRS = "peer_explanations_per_second"
COLUMNS = (
    *("figure", "value", "unit", "batch", "dtype", "scoring", "activations"),
    *("share_of_floor", "ratio", "peer"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        figure: what was measured; the name of the part where `error` is set.
        value, unit: None where it was not measured.
        batch: sequences in flight.
        dtype: of weights and activations: "bfloat16", or "fp8" for linear layers in it.
        scoring: whether every explanation was scored by the AR; None where that means nothing.
        share_of_floor: how near the value comes to what the ceilings of this run allow, at most 1.
        peer: what it was compared with; in a row about a peer, that peer.
        ratio: value over the peer's; of an error, the peer's error is 1.
        activations: how many it was measured over.
        note: what else one must know to read it.
        error: why there is no value, or what is wrong with it.
        failed: the error is one; False where only the time was up.
    """

    figure: str
    value: float | None = None
    unit: str | None = None
    batch: int | None = None
    dtype: str | None = None
    scoring: bool | None = None
    share_of_floor: float | None = None
    peer: str | None = None
    ratio: float | None = None
    activations: int | None = None
    note: str | None = None
    error: str | None = None
    failed: bool = False


class Report:
    """Runs parts and keeps their rows.

    Args:
        command: how the suite was started.
        minutes: until no further part is begun, and whatever still runs is given up.
        path: JSON to write after every row, or None. Its folder is created.
        commit: of the source tree, where git cannot say.
        started: when the time began, by `time.monotonic`; now where None.

    Raises:
        OSError: `path` cannot be written.
    """

    def __init__(
        self,
        command: str,
        minutes: float,
        path: Path | None = None,
        commit: str | None = None,
        *,
        started: float | None = None,
    ) -> None:
        if path is not None:
            _refuse_unwritable(path)
        self.rows: list[Row] = []
        self._command, self._path, self._machine = command, path, machine()
        if commit is not None:
            self._machine["commit"] = commit
        self._started = time.monotonic() if started is None else started
        self._until = self._started + 60 * minutes
        self._running: str | None = None
        self._lock = threading.Lock()

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self._until - time.monotonic()

    def run(self, name: str, seconds: float, part: Callable[[], Iterable[Row]]) -> None:
        """Run a part if the time suffices.

        Args:
            name: what to call it where it brings no row.
            seconds: about how long it takes; it is not begun with less left.
            part: yields rows.
        """
        if self.remaining < seconds:
            reason = f"not run: needs about {seconds:.0f} s, {self.remaining:.0f} s were left"
            self.add(Row(figure=name, error=reason))
            return
        self._running, began = name, time.monotonic()
        print(f"{began - self._started:4.0f} s  {name}", flush=True)
        try:
            for row in part():
                self.add(row)
        except Exception as error:
            traceback.print_exc()
            first_line = str(error).partition("\n")[0]
            reason = f"{type(error).__name__}: {first_line}"
            self.add(Row(figure=name, error=reason, failed=True))
        self._running = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def add(self, row: Row) -> None:
        """Keep a row and write all."""
        with self._lock:
            self.rows = with_ratios([*self.rows, row])
            self._write()

    def stop(self, reason: str) -> None:
        """Say why the part that runs, or the suite between two, ends early; print the table."""
        self.add(Row(figure=self._running or "suite", error=reason, failed=True))
        self.print()

    def give_up_in_time(
        self, clean_up: Callable[[], None] = lambda: None, grace: float = 10.0
    ) -> None:
        """End the process `grace` seconds after the time is up, table printed, if it still runs.

        Args:
            clean_up: called before; nothing else that waits for the end of the process is.
            grace: seconds.
        """

        def give_up() -> None:
            self.stop("given up: still running when the time was up")
            clean_up()
            os._exit(1)

        timer = threading.Timer(max(0.0, self.remaining) + grace, give_up)
        timer.daemon = True
        timer.start()

    def print(self) -> None:
        """Print what ran where, what must be known of single rows, then the table, last."""
        print(json.dumps(self._machine))
        print(f"{time.monotonic() - self._started:.0f} s: {self._command}")
        remarks: dict[str, None] = {}
        for row in self.rows:
            if row.error is not None:
                about = [str(part) for part in (row.figure, row.batch, row.dtype) if part]
                kind = "FAILED " if row.failed else ""
                remarks[f"{kind}{' '.join(about)}: {row.error}"] = None
            elif row.note is not None:
                remarks[f"{row.figure}: {row.note}"] = None
        print("\n".join(remarks))
        print(table([asdict(row) for row in self.rows], COLUMNS), flush=True)

    @property
    def failed(self) -> bool:
        """Whether any part failed; running out of time is no failure."""
        return any(row.failed for row in self.rows)

    def _write(self) -> None:
        if self._path is None:
            return
        result = {
            "command": self._command,
            "machine": self._machine,
            "seconds": round(time.monotonic() - self._started, 1),
            "rows": [asdict(row) for row in self.rows],
        }
        beside = _beside(self._path)
        beside.write_text(json.dumps(result, indent=2) + "\n")
        beside.replace(self._path)


def _beside(path: Path) -> Path:
    """What is written before it takes the place of `path`."""
    return path.with_name(f"{path.name}.part")


def _refuse_unwritable(path: Path) -> None:
    """OSError where `path` is no plain file, or its folder takes none."""
    if path.exists() and not path.is_file():
        raise OSError(f"output: got {path}, which is no file; expected one to write or replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _beside(path).open("a").close()
    except OSError as error:
        raise OSError(f"output: {path} cannot be written: {error}; name another") from error
    _beside(path).unlink()


def with_ratios(rows: list[Row]) -> list[Row]:
    """Rows of ours with the fastest peer at the same number in flight, and the ratio to it.

    Peers score nothing, so scored rows have none.
    """
    fastest: dict[int | None, Row] = {}
    for row in rows:
        if row.figure == THEIRS and row.value is not None:
            best = fastest.get(row.batch)
            if best is None or best.value is None or row.value > best.value:
                fastest[row.batch] = row
    out = []
    for row in rows:
        peer = fastest.get(row.batch)
        compared = row.figure == OURS and row.scoring is False and row.value is not None
        if compared and peer is not None and peer.value is not None and row.value is not None:
            row = replace(row, peer=peer.peer, ratio=row.value / peer.value)
            if row.dtype != peer.dtype:
                row = replace(row, note=f"the peer in {peer.dtype}")
        out.append(row)
    return out
