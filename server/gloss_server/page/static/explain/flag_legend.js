/** Which flags and failures there are in a text, as lines below it. */

import { element } from "../element.js";
import { visible } from "../shown.js";
import { flagMeaning, plural } from "../words.js";

export class FlagLegend {
  root = element("ul", { id: "flags", class: "flag-legend", "aria-label": "Flags in this text" });
  #before = "";

  /** @param {import("../reading.js").Reading} reading */
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
    const lines = [...counts]
      .sort()
      .map(([flag, number]) =>
        line("", "flag-mark", `${number} ${visible(flag)}: ${flagMeaning(flag)}`),
      );
    if (failed)
      lines.unshift(
        line("✕", "failed-mark", `${plural(failed, "explanation")} failed: the token says why`),
      );
    this.root.replaceChildren(...lines);
  }
}

function line(mark, name, text) {
  return element("li", {}, element("span", { class: name, "aria-hidden": "true" }, mark), text);
}
