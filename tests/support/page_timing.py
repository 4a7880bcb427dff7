"""How fast a page is, measured from outside its own code: arrivals, colours, frames.

What is looked at: when the bytes of a stream came to the page (its reader's read was done), when an
element's class changed to a band of fidelity, and when frames were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from support.tab import Tab

# Before any script of the page: note when rows arrive, by position, and when a token is coloured.
# What a frame has changed is on the screen once a message posted in it is handled.
_NOTING = """
window.noted = {arrived: {}, coloured: {}};
{
const read = ReadableStreamDefaultReader.prototype.read;
const decoder = new TextDecoder();
ReadableStreamDefaultReader.prototype.read = async function () {
  const result = await read.call(this);
  if (result.value instanceof Uint8Array) {
    const at = performance.now();
    const text = decoder.decode(result.value);
    const rows = text.includes('"explanation"') ? text.matchAll(/"position": ?(\\d+)/g) : [];
    for (const [, position] of rows) noted.arrived[position] ??= at;
  }
  return result;
};
const {port1, port2} = new MessageChannel();
let changed = [];
port1.onmessage = () => {
  const at = performance.now();
  for (const position of changed) noted.coloured[position] ??= at;
  changed = [];
};
new MutationObserver((records) => {
  for (const {target} of records) {
    if (target.id?.startsWith("token-") && /\\bf[0-6]\\b/.test(target.className)) {
      if (!changed.length) requestAnimationFrame(() => port2.postMessage(null));
      changed.push(target.id.slice("token-".length));
    }
  }
}).observe(document, {subtree: true, attributes: true, attributeFilter: ["class"]});
}
"""

_FRAMES = """
window.frames_ms = [];
let last = performance.now();
window.frames_run = true;
requestAnimationFrame(function next(now) {
  window.frames_ms.push(now - last);
  last = now;
  if (window.frames_run) requestAnimationFrame(next);
});
"""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Milliseconds."""

    p50: float
    p95: float
    most: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Quantiles:
        """Of at least one value."""
        p50, p95 = np.percentile(values, [50, 95])
        return cls(p50=float(p50), p95=float(p95), most=max(values), count=len(values))


def note_colours(tab: Tab) -> None:
    """From the next load on."""
    tab.cdp("Page.addScriptToEvaluateOnNewDocument", source=_NOTING)


def colour_delays(tab: Tab) -> Quantiles:
    """From the arrival of a token's first score to its colour on the screen."""
    noted = tab.script("return window.noted")
    delays = [
        noted["coloured"][key] - at
        for key, at in noted["arrived"].items()
        if key in noted["coloured"]
    ]
    return Quantiles.of(delays)


def load_ms(tab: Tab) -> float:
    """From the request of the page that is open to its last file having run."""
    return float(tab.script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))


def begin_frames(tab: Tab) -> None:
    """Note how long each frame takes from now on."""
    tab.script(_FRAMES)


def end_frames(tab: Tab) -> Quantiles:
    """Those since `begin_frames`."""
    return Quantiles.of(tab.script("window.frames_run = false; return window.frames_ms")[1:])


def scroll(tab: Tab, pixels: int) -> None:
    """As a finger would, down and up again, as fast as that is drawn."""
    for distance in (-pixels, pixels):
        tab.cdp(
            "Input.synthesizeScrollGesture",
            **{"x": 300, "y": 500, "yDistance": distance, "speed": 3000},
            gestureSourceType="mouse",
        )
