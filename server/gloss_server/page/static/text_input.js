/** What a model reads: a text, or a chat. */

import { ChatFields, parseChat } from "./chat_fields.js";
import { button, element } from "./element.js";
import { TextArea } from "./text_area.js";

export class TextInput {
  /** @type {HTMLElement} */
  root;

  #text;
  #textField;
  #chat;
  #isChat = false;
  #modes;
  #empty;

  /**
   * @param {string} prefix of its elements' ids.
   * @param {Object} words
   * @param {string} words.label of the text.
   * @param {string} words.about what both are for.
   * @param {string} words.placeholder
   * @param {number} rows of the text.
   * @param {() => void} changed it is another now, although nobody typed.
   */
  constructor(prefix, { label, about, placeholder }, rows, changed) {
    const id = `${prefix}text`;
    this.#text = new TextArea({ id, rows, spellcheck: "false", placeholder });
    this.#textField = element(
      "div",
      { class: "field" },
      element("label", { for: id, class: "unseen" }, label),
      this.#text.root,
    );
    this.#chat = new ChatFields(prefix);
    this.#empty = element(
      "small",
      { class: "error", id: `${prefix}text-error`, hidden: true },
      "Expected some text.",
    );
    const choose = (isChat) => {
      this.#choose(isChat);
      changed();
    };
    this.#modes = element(
      "div",
      { class: "modes", role: "group", "aria-label": about },
      button(`${prefix}mode-text`, "Text", () => choose(false)),
      button(`${prefix}mode-chat`, "Chat", () => choose(true)),
    );
    this.root = element(
      "div",
      { class: "text-input" },
      this.#modes,
      this.#textField,
      this.#chat.root,
      this.#empty,
    );
    this.#choose(false);
  }

  /** What stands in it, as the address has it. @returns {Object<string, string>} */
  get values() {
    return this.#isChat
      ? { chat: JSON.stringify(this.#chat.messages) }
      : { text: this.#text.value };
  }

  set values({ text, chat }) {
    const messages = chat ? parseChat(chat) : null;
    if (messages) this.#chat.messages = messages;
    this.#text.value = text ?? "";
    this.#choose(messages !== null);
  }

  /** As a request has it. @returns {{text: string}|{chat: {role: string, content: string}[]}} */
  get input() {
    return this.#isChat ? { chat: this.#chat.messages } : { text: this.#text.value };
  }

  /** Its words, for a heading. */
  get title() {
    return this.#isChat
      ? this.#chat.messages.map(({ content }) => content).join(" · ")
      : this.#text.value;
  }

  /** Whether there is something to read; if not, it says so. */
  check() {
    const isEmpty = this.#isChat
      ? this.#chat.messages.every(({ content }) => !content)
      : !this.#text.value;
    this.#empty.hidden = !isEmpty;
    if (isEmpty) this.focus();
    return !isEmpty;
  }

  /** Where somebody begins. */
  focus() {
    if (this.#isChat) this.#chat.focus();
    else this.#text.focus();
  }

  #choose(isChat) {
    this.#isChat = isChat;
    this.#textField.hidden = isChat;
    this.#chat.root.hidden = !isChat;
    const [text, chat] = this.#modes.children;
    text.setAttribute("aria-pressed", String(!isChat));
    chat.setAttribute("aria-pressed", String(isChat));
  }
}
