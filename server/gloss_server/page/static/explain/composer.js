/** The form that asks for explanations: a text or a chat, examples, options; or a file to read. */

import { button, element } from "../element.js";
import { ChatFields, parseChat } from "./chat_fields.js";
import { EXAMPLES } from "./examples.js";
import { Options } from "./options.js";

export class Composer {
  #text = element("textarea", { id: "text", rows: 6, dir: "auto", spellcheck: "false", placeholder: "What the model reads" });
  #chat = new ChatFields();
  #textField = element("div", { class: "field" }, element("label", { for: "text", class: "unseen" }, "Text"), this.#text);
  #isChat = false;
  #modes;
  #empty = element("small", { class: "error", id: "text-error", hidden: true }, "Expected some text.");

  /**
   * @param {Object} listener
   * @param {(asked: import("./run.js").Asked) => void} listener.ask
   * @param {(file: File) => void} listener.open a file of rows was chosen.
   * @param {() => void} listener.edited something in the form has changed.
   */
  constructor(listener) {
    this.options = new Options();
    this.#modes = element(
      "div",
      { class: "modes", role: "group", "aria-label": "What the model reads" },
      button("mode-text", "Text", () => this.#choose(false)),
      button("mode-chat", "Chat", () => this.#choose(true)),
    );
    const submit = (event) => {
      event.preventDefault();
      const asked = this.read();
      if (asked) listener.ask(asked);
    };
    this.root = element(
      "form",
      { id: "composer", class: "card composer", "aria-label": "Ask for explanations", novalidate: true, on: { submit, input: listener.edited } },
      element("div", { class: "input" }, this.#modes, this.#textField, this.#chat.root, this.#empty, this.#examples(listener.edited)),
      element(
        "div",
        { class: "settings" },
        this.options.root,
        element("div", { class: "row" }, button("run", "Explain", () => {}, { type: "submit", class: "primary" }), fileChooser(listener.open)),
      ),
    );
    this.#text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    });
    this.#choose(false);
  }

  /** What stands in the form, as the address has it. @returns {Object<string, string>} */
  get values() {
    const input = this.#isChat ? { chat: JSON.stringify(this.#chat.messages) } : { text: this.#text.value };
    return { ...input, ...this.options.values };
  }

  set values(values) {
    const messages = values.chat ? parseChat(values.chat) : null;
    if (messages) this.#chat.messages = messages;
    this.#text.value = values.text ?? "";
    this.options.values = values;
    this.#choose(messages !== null);
  }

  /** The first words of what is asked, for a heading. */
  get title() {
    return this.#isChat ? this.#chat.messages.map(({ content }) => content).join(" · ") : this.#text.value;
  }

  /** Where somebody begins. */
  focus() {
    if (this.#isChat) this.#chat.root.querySelector("textarea").focus();
    else this.#text.focus();
  }

  /** @returns {import("./run.js").Asked|null} null: something is wrong, and says so. */
  read() {
    const messages = this.#chat.messages;
    const isEmpty = this.#isChat ? messages.every(({ content }) => !content) : !this.#text.value;
    this.#empty.hidden = !isEmpty;
    if (isEmpty) this.focus();
    const how = isEmpty ? null : this.options.read();
    if (how === null) return null;
    return { input: this.#isChat ? { chat: messages } : { text: this.#text.value }, ...how };
  }

  #choose(isChat) {
    this.#isChat = isChat;
    this.#textField.hidden = isChat;
    this.#chat.root.hidden = !isChat;
    const [text, chat] = this.#modes.children;
    text.setAttribute("aria-pressed", String(!isChat));
    chat.setAttribute("aria-pressed", String(isChat));
  }

  #examples(edited) {
    const use = ({ text }) => {
      this.#choose(false);
      this.#text.value = text;
      edited();
      this.#text.focus();
    };
    const buttons = EXAMPLES.map((one, index) => button(`example-${index + 1}`, one.name, () => use(one), { class: "quiet" }));
    return element("div", { class: "row examples", role: "group", "aria-label": "Examples" }, element("small", {}, "Try"), ...buttons);
  }
}

/** A button that opens a file of rows; the same by dropping one on the view. */
function fileChooser(open) {
  const input = element("input", { id: "import", type: "file", accept: ".jsonl,.ndjson,application/jsonl", class: "unseen", tabindex: "-1", "aria-label": "JSONL of gloss explain" });
  input.addEventListener("change", () => {
    if (input.files.length) open(input.files[0]);
    input.value = "";
  });
  return element("span", {}, input, button("open-import", "Open JSONL", () => input.click(), { title: "Reads what gloss explain --output wrote, without a server" }));
}
