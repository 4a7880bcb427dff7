"""axe-core, run in a page: what of it people with a screen reader, a keyboard or weak eyes miss."""

from __future__ import annotations

import hashlib
from pathlib import Path

from selenium.webdriver import Chrome

AXE = Path(__file__).parents[1] / "page" / "vendor" / "axe-core" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

_RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(
  (found) => done(found.violations.map((violation) => violation.id + ": " + violation.help + "\\n"
    + violation.nodes.map((node) => "  " + node.target.join(" ") + "\\n  " + node.failureSummary)
      .join("\\n"))),
  (error) => done(["axe itself failed: " + error]));
"""


def axe_source() -> str:
    """The script, which is the one that was reviewed.

    Raises:
        ValueError: the file is another.
    """
    source = AXE.read_bytes()
    got = hashlib.sha256(source).hexdigest()
    if got != AXE_SHA256:
        raise ValueError(f"{AXE.name}: got sha256 {got}, expected {AXE_SHA256}; see its README.md")
    return source.decode()


def violations(driver: Chrome) -> list[str]:
    """What every rule of axe finds in the page as it is now, one text for each rule."""
    driver.execute_script(axe_source())
    found: list[str] = driver.execute_async_script(_RUN)
    return found
