/**
 * A field for a text of anybody's. A browser lays the whole of it out, so that one with heaps of
 * marks or of lines stops the page for minutes: such a text is kept aside, and sent as it is.
 */

import { button, element } from "./element.js";
import { visible } from "./shown.js";
import { weighsTooMuch } from "./weight.js";
import { count } from "./words.js";

const SHOWN_CHARACTERS = 500;

export class TextArea {
  #field;
  /** @type {string|null} The whole text, where it is not in the field. */
  #aside = null;
  #told = element("span", {});
  #note;

  /** @param {Object<string, unknown>} attributes of the field; `id` is of its button, too. */
  constructor({ id, ...attributes }) {
    const labels = { id, dir: "auto", "aria-describedby": `${id}-aside` };
    this.#field = element("textarea", { ...labels, ...attributes });
    this.#note = element(
      "small",
      { id: `${id}-aside`, hidden: true },
      this.#told,
      button(`${id}-clear`, "Clear", () => this.#clear(), { class: "quiet" }),
    );
    this.#field.addEventListener("beforeinput", (event) => this.#insert(event));
    this.root = element("div", {}, this.#field, this.#note);
  }

  get value() {
    return this.#aside ?? this.#field.value;
  }

  set value(text) {
    const isHeavy = weighsTooMuch(text);
    this.#aside = isHeavy ? text : null;
    this.#field.value = isHeavy ? `${visible(text.slice(0, SHOWN_CHARACTERS))} …` : text;
    this.#field.readOnly = isHeavy;
    this.#note.hidden = !isHeavy;
    this.#told.textContent =
      `${count(text.length)} characters, more than can be shown here: ` +
      "this is how they begin, and all are read. ";
  }

  focus() {
    this.#field.focus();
  }

  #clear() {
    this.value = "";
    this.#changed();
    this.focus();
  }

  /** What is pasted is looked at before it is laid out. */
  #insert(event) {
    if (!event.data || event.data.length < 2) return;
    const { value, selectionStart: start, selectionEnd: end } = this.#field;
    const text = value.slice(0, start) + event.data + value.slice(end);
    if (!weighsTooMuch(text)) return;
    event.preventDefault();
    this.value = text;
    this.#changed();
  }

  #changed() {
    this.#field.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
