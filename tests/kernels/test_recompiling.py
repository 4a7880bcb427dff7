"""What grows while requests run compiles no kernel: that would happen inside a request."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CASES = {
    # Batches and lengths of admissions.
    "philox": """
for n in (1, 2, 16, 17, 256):
    for width in (1, 16, 120, 200):
        row = torch.empty(n, 1, dtype=torch.int64, device="meta")
        philox_uniform(row, row, row, torch.empty(1, width, dtype=torch.int64, device="meta"))
""",
    # Tokens of a step.
    "qkv_rope_store": """
for n in (1, 2, 16, 37, 256):
    cache = torch.empty(64, 4, 16, 128, dtype=torch.bfloat16, device="meta")
    qkv_rope_store(
        torch.empty(n, 36 * 128, dtype=torch.bfloat16, device="meta"),
        torch.empty(n, 2, 128, device="meta"), num_heads=28, num_kv_heads=4,
        key_cache=cache, value_cache=cache,
        slot_mapping=torch.empty(2, n, dtype=torch.int64, device="meta"),
    )
""",
    # Keys of long sequences, one at a time: at most a kernel for every doubling.
    "paged_decode_attention": """
cache = torch.empty(4096, 4, 16, 128, dtype=torch.bfloat16, device="meta")
prefix = (cache.new_empty(4, 100, 128),) * 2
for length in range(900, 1500, 40):
    lens = torch.empty(1, dtype=torch.int64, device="meta")
    table = lens.new_empty(1, 200)
    plan = DecodePlan(table, lens, max_private_len=length, page_size=16, num_kv_heads=4,
                      prefix_len=100)
    paged_decode_attention(cache.new_empty(1, 28, 128), cache, cache, plan, prefix=prefix,
                           scale=0.1, window=None)
""",
}
MOST = {"philox": 1, "qkv_rope_store": 1, "paged_decode_attention": 4}


@pytest.mark.parametrize("stem", CASES)
def test_sizes_share_kernels(stem: str) -> None:
    name = "philox_uniform" if stem == "philox" else stem
    code = f"""
import json, torch
from gloss_kernels import DecodePlan
from gloss_kernels.{stem} import {name}
from support.aot import recorded
with recorded() as compiled:
{"".join(f"    {line}" for line in CASES[stem].strip().splitlines(keepends=True))}
print(json.dumps([kernel.hash for kernel in compiled]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    hashes = json.loads(done.stdout)
    assert len(hashes) > 4 and len(set(hashes)) <= MOST[stem]
