/** What the colours and marks mean, and the sober sentence about fidelity. */

import { element } from "../element.js";
import { BANDS } from "../palette.js";
import { flagMeaning, plural } from "../words.js";
import { visible } from "../shown.js";

/** The bands, lowest first. @returns {HTMLElement} */
export function legend() {
  const bands = BANDS.map(({ name, label }) => element("li", {}, element("span", { class: `swatch ${name}`, "aria-hidden": "true" }), label));
  const unscored = element("li", {}, element("span", { class: "swatch unscored", "aria-hidden": "true" }), "not scored");
  return element(
    "div",
    { class: "legend" },
    element("p", {}, element("strong", {}, "Fidelity (FVE)"), ": how much of the activation the explanation lets the AR rebuild. It is not truth: a faithful explanation may still say what is false."),
    element("ul", { id: "legend", "aria-label": "Colours of fidelity" }, ...bands, unscored),
  );
}

/** Which flags and failures there are, as lines below the text. */
export class FlagLegend {
  root = element("ul", { id: "flags", class: "flag-legend", "aria-label": "Flags in this text" });
  #before = "";

  /** @param {import("./reading.js").Reading} reading */
  update(reading) {
    const counts = new Map();
    let failed = 0;
    for (const row of reading.rows) {
      if (row.error) failed += 1;
      for (const flag of row.flags) counts.set(flag, (counts.get(flag) ?? 0) + 1);
    }
    const state = JSON.stringify([failed, ...counts]);
    if (state === this.#before) return;
    this.#before = state;
    const lines = [...counts].sort().map(([flag, number]) => line("!", "flag-mark", `${number} ${visible(flag)}: ${flagMeaning(flag)}`));
    if (failed) lines.unshift(line("✕", "failed-mark", `${plural(failed, "explanation")} failed: the token says why`));
    this.root.replaceChildren(...lines);
  }
}

function line(mark, name, text) {
  return element("li", {}, element("span", { class: name, "aria-hidden": "true" }, mark), text);
}
