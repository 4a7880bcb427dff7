"""Bucket bounds of the histograms.

Durations start at 1 ms and no bound is more than twice the one before, so that a quantile read
from them is at most a factor of 2 off. Every objective of the service is a bound, so the share of
calls within it is exact: first token 0.25 s, queue 0.1 s, Watch lag 1 s, unary call 2 s.
"""

from __future__ import annotations

CALL_SECONDS = (
    *(0.001, 0.002, 0.004, 0.0075, 0.0125, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0),
    *(1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0),
)
"""Of what a call waits for; the longest deadline the server gives is 600 s."""

STEP_SECONDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.0125, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
)
"""Of one engine step and of the gap between two tokens."""

OCCUPANCY_RATIO = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Rows of a step over slots."""

MSE = (
    *(0.0125, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
)
"""Of a reconstruction: with both vectors at norm sqrt(d_model) it is 2 (1 - cosine), 0 to 4."""
