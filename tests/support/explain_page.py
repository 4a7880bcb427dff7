"""The page's Explain view, as tests use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from support.tab import Tab

_TOKENS = """
const band = (token) => [...token.classList].find((name) => /^f[0-6]$/.test(name)) ?? "unscored";
return [...document.querySelectorAll("#tokens .token")].map((token) =>
  [token.textContent, band(token), Number(token.id.slice("token-".length))]);
"""
_NOTICE = "#explain .notice:not([hidden])"
_FIELDS = ("positions", "samples", "temperature", "length", "seed")


class ExplainPage:
    """A tab that shows the view."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def fill(self, text: str, **options: object) -> None:
        """Fill in the form.

        Args:
            text: put into its field at once.
            options: fields by their names in the address: positions, samples, temperature, ..
        """
        assert set(options) <= set(_FIELDS), options
        if self.tab.find("#composer, #edit").get_attribute("id") == "edit":
            self.tab.button("Edit").click()
        self.tab.button("Text").click()
        self.tab.fill("#text", text)
        for name in _FIELDS:
            self.tab.fill(f"#option-{name}", str(options.get(name, "")))

    def ask(self, text: str, **options: object) -> None:
        """Fill in the form and send it."""
        self.fill(text, **options)
        self.tab.button("Explain").click()

    def open_file(self, path: Path) -> None:
        """Choose a file of rows."""
        self.tab.wait(lambda: self.tab.all("#import"), "the form")[0].send_keys(str(path))

    def tokens(self) -> list[str]:
        """What is shown of each token."""
        return [text for text, _, _ in self.tab.script(_TOKENS)]

    def bands(self) -> dict[int, str]:
        """The band of each token, by position."""
        return {position: band for _, band, position in self.tab.script(_TOKENS)}

    def coloured(self) -> list[int]:
        """Positions of tokens that have the colour of a score."""
        return [position for position, band in self.bands().items() if band != "unscored"]

    def select(self, position: int) -> None:
        """Click a token."""
        token = self.tab.find(f"#token-{position}")
        # In a narrow window the details lie over the text's end, as for anybody.
        self.tab.script("arguments[0].scrollIntoView({block: 'nearest'})", token)
        token.click()
        self.tab.wait(lambda: self.selected() == position, f"token {position} being chosen")

    def selected(self) -> int | None:
        """The position that the panel tells of, None: of none."""
        facts = self.facts()
        return int(facts["Position"]) if "Position" in facts else None

    def panel(self) -> str:
        """All that the panel says."""
        return self.tab.text("#panel")

    def facts(self) -> dict[str, str]:
        """What the panel says of the token and of its first sample, by name."""
        return self._facts("#panel")

    def sample(self, number: int) -> dict[str, str]:
        """What the panel says of a sample, its text as `text`."""
        card = f"#panel .sample:nth-of-type({number + 1})"
        return {"text": self.tab.text(f"{card} .passage"), **self._facts(card)}

    def _facts(self, css: str) -> dict[str, str]:
        read = """
          const facts = document.querySelectorAll(arguments[0] + " dl > div");
          return [...facts].map((fact) => [...fact.children].map((part) => part.textContent));
        """
        found: dict[str, str] = {}
        for name, value in self.tab.script(read, css):
            found.setdefault(name, value)
        return found

    def notice(self) -> str:
        """What the page says of what is wrong; empty: nothing is."""
        return self.tab.text(_NOTICE)

    def wait_notice(self, part: str, seconds: float = 20) -> str:
        """Wait until the page says this."""
        return self.tab.wait_text(_NOTICE, part, seconds)

    def status(self) -> str:
        """How far it has come, as the page says it."""
        return self.tab.text("#run-status")

    def wait_done(self, seconds: float = 60) -> None:
        """Wait until all that was asked for is explained."""
        whole = re.compile(r"^([\d,]+) of \1 tokens? explained")
        self.tab.wait(lambda: whole.match(self.status()), "the end", seconds)

    def exported(self) -> list[dict[str, Any]]:
        """Rows of the file that the page gives to save, in order."""
        before = set(self.tab.downloads.iterdir())
        self.tab.button("Export JSONL").click()
        path = self.tab.wait(lambda: self._new_file(before), "a file")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return sorted(rows, key=lambda row: (row["index"], row["position"] or 0, row["sample"]))

    def _new_file(self, before: set[Path]) -> Path | None:
        new = set(self.tab.downloads.iterdir()) - before
        # It stands there empty until all of it is written beside it.
        whole = [path for path in new if path.suffix == ".jsonl" and path.stat().st_size]
        return whole[0] if whole else None
