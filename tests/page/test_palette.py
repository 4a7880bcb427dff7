"""The colours of fidelity, read off the screen as colour-blind people see them."""

from __future__ import annotations

import numpy as np
import pytest

from support.tab import Tab

# Square swatches of every band, in order, without text; over all else in the page.
_SWATCHES = """
const done = arguments[arguments.length - 1];
import("/static/palette.js").then(({BANDS}) => {
  const box = document.createElement("div");
  box.id = "swatches";
  for (const band of BANDS) {
    const swatch = document.createElement("span");
    swatch.className = band.name;
    box.append(swatch);
    Object.assign(swatch.style, {width: "40px", height: "40px", display: "inline-block"});
  }
  Object.assign(box.style, {position: "fixed", left: 0, top: 0, zIndex: 99, lineHeight: 0});
  document.body.append(box);
  done([...box.children].map((swatch) => getComputedStyle(swatch).color));
}, (error) => done(String(error)));
"""
SEEING = ["none", "protanopia", "deuteranopia", "tritanopia", "achromatopsia"]


def _lightness(colour: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours [.., 3] of 0 to 255, 0 to 100."""
    luminance = _luminance(colour)
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def _luminance(colour: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance of sRGB colours [.., 3] of 0 to 255."""
    part = colour / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def _swatches(tab: Tab, number: int) -> np.ndarray:
    """[number, 40, 40, 3] as they are on the screen."""
    pixels = tab.screenshot().astype(float)
    return np.stack([pixels[:40, 40 * n : 40 * n + 40] for n in range(number)])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_bands_go_in_order_by_lightness_alone(tab: Tab, dark: bool) -> None:
    tab.look(dark=dark)
    tab.open()
    text = tab.driver.execute_async_script(_SWATCHES)
    try:
        for seeing in SEEING:
            tab.cdp("Emulation.setEmulatedVisionDeficiency", type=seeing)
            assert _in_order(_swatches(tab, len(text)), dark), seeing
    finally:
        tab.cdp("Emulation.setEmulatedVisionDeficiency", type="none")


def _in_order(swatches: np.ndarray, dark: bool) -> bool:
    # The first is hatched: it is told by that, and its ground goes with the others.
    assert swatches[0].std(axis=(0, 1)).max() > 5 and swatches[1:].std(axis=(1, 2)).max() < 1
    lightness = _lightness(np.median(swatches, axis=(1, 2)))
    steps = np.diff(lightness[1:]) * (1 if dark else -1)
    return bool((steps > 2).all())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_on_every_band_can_be_read(tab: Tab, dark: bool) -> None:
    tab.look(dark=dark)
    tab.open()
    colours = tab.driver.execute_async_script(_SWATCHES)
    text = np.array([[float(part) for part in colour[4:-1].split(",")] for colour in colours])
    grounds = _swatches(tab, len(colours))
    over, under = _luminance(grounds).reshape(len(colours), -1), _luminance(text)[:, None]
    contrast = (np.maximum(over, under) + 0.05) / (np.minimum(over, under) + 0.05)
    # Of every pixel of the hatching, too.
    assert contrast.min() >= 4.5, contrast.min(axis=1)
