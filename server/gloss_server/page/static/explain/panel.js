/** What is known of one token: its place, and its samples side by side. */

import { button, element } from "../element.js";
import { shownText } from "../shown.js";
import { decimal } from "../words.js";
import { facts, fveChip, sampleCard } from "../sample_card.js";

export class Panel {
  #body = element("div", { class: "panel-body" });
  #title = element("h2", { id: "panel-title", class: "panel-title" });
  #pin;
  #position = null;

  /**
   * @param {Object} listener
   * @param {(step: number) => void} listener.move to the token before or after.
   * @param {(position: number) => void} listener.pin
   */
  constructor(listener) {
    this.#pin = button(
      "pin",
      "Pin",
      () => this.#position !== null && listener.pin(this.#position),
      { "aria-pressed": "false" },
    );
    this.root = element(
      "section",
      { id: "panel", class: "card panel", "aria-labelledby": "panel-title" },
      element(
        "header",
        {},
        this.#title,
        element(
          "div",
          { class: "row" },
          button("previous-token", "‹", () => listener.move(-1), {
            "aria-label": "Previous token",
            class: "quiet",
          }),
          button("next-token", "›", () => listener.move(1), {
            "aria-label": "Next token",
            class: "quiet",
          }),
          this.#pin,
        ),
      ),
      this.#body,
    );
    this.clear();
  }

  /** No token is chosen. */
  clear() {
    this.#position = null;
    this.root.classList.add("empty");
    this.#pin.hidden = true;
    this.#title.replaceChildren("No token chosen");
    this.#body.replaceChildren(
      element(
        "p",
        { class: "quietly" },
        "Point at a token, click it, or move along the text with the arrow keys. P pins the token.",
      ),
    );
  }

  /**
   * @param {import("../reading.js").Reading} reading
   * @param {number} position
   * @param {boolean} isPinned
   * @param {(text: string) => Node} show how explanations become nodes.
   */
  show(reading, position, isPinned, show) {
    const opened = this.#position === position ? openDetails(this.#body) : [];
    this.#position = position;
    this.root.classList.remove("empty");
    this.#pin.hidden = false;
    this.#pin.textContent = isPinned ? "Unpin" : "Pin";
    this.#pin.setAttribute("aria-pressed", String(isPinned));
    this.#title.replaceChildren(tokenName(reading, position));
    this.#body.replaceChildren(placeFacts(reading, position), samplesOf(reading, position, show));
    for (const index of opened) this.#body.querySelectorAll("details")[index].open = true;
  }
}

/** A token as a heading. */
export function tokenName(reading, position) {
  const name = element("span", { class: "token-name" });
  const token = (reading.tokens.get(position) ?? "").slice(0, 80);
  name.append(token ? shownText(token) : "∅");
  return name;
}

/** Its samples side by side, or why there are none. */
export function samplesOf(reading, position, show) {
  const samples = reading.samples.get(position);
  if (!samples) {
    const why = reading.wanted.includes(position)
      ? "Not read yet."
      : "This position was not asked for.";
    return element("p", { class: "quietly" }, why);
  }
  const cards = samples.map((sample, number) =>
    sampleCard(sample, number, samples.length === 1, show),
  );
  return element("div", { class: "samples" }, ...cards);
}

function placeFacts(reading, position) {
  const place = reading.places.get(position);
  const mean = reading.numSamples > 1 ? [["Mean FVE", fveChip(reading.fve(position))]] : [];
  const id = place?.token_id ?? reading.tokenIds[position];
  return facts([
    ["Position", String(position)],
    ["Token id", id === undefined ? "–" : String(id)],
    ["Norm", decimal(place?.norm, 2)],
    [
      "Block",
      place?.layer_index === undefined || place.layer_index === null
        ? "–"
        : String(place.layer_index),
    ],
    ...mean,
  ]);
}

function openDetails(body) {
  return [...body.querySelectorAll("details")].flatMap((one, index) => (one.open ? [index] : []));
}
