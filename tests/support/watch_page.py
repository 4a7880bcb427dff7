"""The page's Watch view, as tests use it."""

from __future__ import annotations

from typing import Any

from support.tab import Tab

_FIELDS = {
    **{name: f"#watch-model-{name}" for name in ("tokens", "heat", "pace")},
    **{
        name: f"#watch-{name}"
        for name in ("every", "samples", "temperature", "length", "pending", "seed", "positions")
    },
}
_ROWS = """
return [...document.querySelectorAll("#watch-rows > li")].map((row) => ({
  position: Number(row.dataset.position),
  token: row.querySelector(".watch-token").textContent,
  said: [...row.querySelectorAll(".said .passage:not(.growing)")].map((one) => one.textContent),
  aside: row.querySelector(".aside")?.textContent ?? "",
  note: row.querySelector(".note")?.textContent ?? "",
}));
"""


class WatchPage:
    """A tab that shows the view."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def start(self, prompt: str, **options: object) -> None:
        """Fill in the form and send it.

        Args:
            prompt: put into its field at once.
            options: fields by their names in the address.
        """
        self.tab.fill("#watch-text", prompt)
        for name, value in options.items():
            self.tab.fill(_FIELDS[name], str(value))
        self.tab.button("Start").click()

    def rows(self) -> list[dict[str, Any]]:
        """What stands beside each token, by position."""
        return list(self.tab.script(_ROWS))

    def said(self) -> dict[int, list[str]]:
        """Finished explanations by position."""
        return {row["position"]: row["said"] for row in self.rows() if row["said"]}

    def text(self) -> str:
        """The text so far, without blanks."""
        return "".join(self.tab.text("#watch-tokens").split())

    def state(self) -> str:
        """What it does, in words."""
        return self.tab.text("#watch-state")

    def wait_state(self, word: str, seconds: float = 60) -> None:
        """Wait until it does this."""
        self.tab.wait_text("#watch-state", word, seconds)

    def figure(self, name: str) -> str:
        """A figure of the line above: said, explained, lag, lag-p95, fve, skipped, seed."""
        return self.tab.text(f"#watch-told-{name}")
