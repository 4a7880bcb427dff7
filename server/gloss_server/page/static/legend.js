/** What the colours mean, and the sober sentence about fidelity. */

import { element } from "./element.js";
import { BANDS } from "./palette.js";

const FIDELITY =
  " says how much of the activation can be rebuilt from the explanation alone. It is not truth: " +
  "a faithful explanation may still say what is false.";

/**
 * The bands, lowest first, each in its colour.
 *
 * @param {string} [prefix] of its id.
 * @returns {HTMLElement}
 */
export function legend(prefix = "") {
  const bands = BANDS.map(({ name, label }) => element("li", { class: name }, label));
  return element(
    "div",
    { class: "fidelity-legend" },
    element("p", {}, element("strong", {}, "Fidelity (FVE)"), FIDELITY),
    element(
      "ul",
      { id: `${prefix}legend`, "aria-label": "Colours of fidelity" },
      ...bands,
      element("li", { class: "unscored" }, "not scored"),
    ),
  );
}
