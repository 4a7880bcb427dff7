/** Pinned tokens, side by side, in the order of the text. */

import { button, element } from "../element.js";
import { samplesOf, tokenName } from "./panel.js";

export class Pins {
  #list = element("ul", { class: "pin-list" });
  #listener;

  /**
   * @param {Object} listener
   * @param {(position: number) => void} listener.select
   * @param {(position: number) => void} listener.pin takes a pinned one off.
   * @param {() => void} listener.clear takes all off.
   */
  constructor(listener) {
    this.#listener = listener;
    this.root = element(
      "section",
      { id: "pins", class: "card pins", "aria-labelledby": "pins-title", hidden: true },
      element(
        "header",
        {},
        element("h2", { id: "pins-title" }, "Pinned, to compare"),
        button("clear-pins", "Unpin all", listener.clear, { class: "quiet" }),
      ),
      this.#list,
    );
  }

  /**
   * @param {import("../reading.js").Reading} reading
   * @param {number[]} pinned
   * @param {(text: string) => Node} show
   */
  show(reading, pinned, show) {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.id : "";
    this.root.hidden = pinned.length === 0;
    this.#list.replaceChildren(...pinned.map((position) => this.#card(reading, position, show)));
    // A card is made anew whenever something comes; whoever was in it stays there.
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  #card(reading, position, show) {
    const go = element(
      "button",
      {
        id: `go-to-${position}`,
        type: "button",
        class: "quiet go",
        on: { click: () => this.#listener.select(position) },
      },
      tokenName(reading, position),
      element("small", {}, ` at ${position}`),
    );
    const off = button(`unpin-${position}`, "×", () => this.#listener.pin(position), {
      class: "quiet",
      "aria-label": `Unpin position ${position}`,
    });
    return element(
      "li",
      { class: "pinned-card" },
      element("header", {}, go, off),
      samplesOf(reading, position, show),
    );
  }
}
