"""Memory that is freed and taken again costs no page faults once an engine is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import random, resource, sys, torch
from gloss_engine.host_memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not glibc")
sizes = random.Random(0)
def step():
    buffers = [torch.ones(sizes.randint(1 << 10, 3 << 20)) for _ in range(12)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    step()
before = faults()
for _ in range(50):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's options are Linux's")
def test_buffers_of_a_step_are_kept_for_the_next() -> None:
    faults = {}
    for how in ("given back", "kept"):
        command = [sys.executable, "-c", _FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert 5 * faults["kept"] < faults["given back"], faults
