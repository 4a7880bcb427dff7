"""A row of `gloss verbalize`'s output as parquet has it."""

from __future__ import annotations

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("seed", pa.uint64(), nullable=False),
        pa.field("explanation", pa.string(), nullable=False),
        pa.field("raw_text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        ("logprob", pa.float64()),
        ("cosine", pa.float64()),
        ("mse", pa.float64()),
        ("fve", pa.float64()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        (
            "error",
            pa.struct([("code", pa.string()), ("reason", pa.string()), ("message", pa.string())]),
        ),
    ]
)
"""Columns of parquet output, and the order of the keys of a JSON line."""
