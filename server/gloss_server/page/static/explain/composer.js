/** The form that asks for explanations: a text or a chat, examples, options; or a file to read. */

import { button, element } from "../element.js";
import { TextInput } from "../text_input.js";
import { EXAMPLES } from "./examples.js";
import { Options } from "./options.js";

const WORDS = { label: "Text", about: "What the model reads", placeholder: "What the model reads" };

export class Composer {
  #input;

  /**
   * @param {Object} listener
   * @param {(asked: import("./run.js").Asked) => void} listener.ask
   * @param {(file: File) => void} listener.open a file of rows was chosen.
   * @param {() => void} listener.edited something in the form has changed.
   */
  constructor(listener) {
    this.options = new Options();
    this.#input = new TextInput("", WORDS, 6, listener.edited);
    this.#input.root.append(this.#examples(listener.edited));
    const submit = (event) => {
      event.preventDefault();
      const asked = this.read();
      if (asked) listener.ask(asked);
    };
    this.root = element(
      "form",
      {
        id: "composer",
        class: "card composer",
        "aria-label": "Ask for explanations",
        novalidate: true,
        on: { submit, input: listener.edited },
      },
      this.#input.root,
      element(
        "div",
        { class: "settings" },
        this.options.root,
        element(
          "div",
          { class: "row" },
          button("run", "Explain", () => {}, {
            type: "submit",
            class: "primary",
            title: "Ctrl + Enter",
          }),
          fileChooser(listener.open),
        ),
      ),
    );
    this.#input.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    });
  }

  /** What stands in the form, as the address has it. @returns {Object<string, string>} */
  get values() {
    return { ...this.#input.values, ...this.options.values };
  }

  set values(values) {
    this.#input.values = values;
    this.options.values = values;
  }

  /** The first words of what is asked, for a heading. */
  get title() {
    return this.#input.title;
  }

  /** Where somebody begins. */
  focus() {
    this.#input.focus();
  }

  /** @returns {import("./run.js").Asked|null} null: something is wrong, and says so. */
  read() {
    const how = this.#input.check() ? this.options.read() : null;
    return how && { input: this.#input.input, ...how };
  }

  #examples(edited) {
    const use = ({ text }) => {
      this.#input.values = { text };
      edited();
      this.#input.focus();
    };
    const buttons = EXAMPLES.map((one, index) =>
      button(`example-${index + 1}`, one.name, () => use(one), { class: "quiet" }),
    );
    return element(
      "div",
      { class: "row examples", role: "group", "aria-label": "Examples" },
      element("small", {}, "Try"),
      ...buttons,
    );
  }
}

/** A button that opens a file of rows; the same by dropping one on the view. */
function fileChooser(open) {
  const input = element("input", {
    id: "import",
    type: "file",
    accept: ".jsonl,.ndjson,application/jsonl",
    class: "unseen",
    tabindex: "-1",
    "aria-label": "JSONL of gloss explain",
  });
  input.addEventListener("change", () => {
    if (input.files.length) open(input.files[0]);
    input.value = "";
  });
  return element(
    "span",
    {},
    input,
    button("open-import", "Open JSONL", () => input.click(), {
      title: "Reads what gloss explain --output wrote, without a server",
    }),
  );
}
