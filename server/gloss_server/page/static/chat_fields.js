/** A chat to fill in: messages of a role and what it says. */

import { button, element } from "./element.js";
import { TextArea } from "./text_area.js";

/** Each has a field of its own. */
const MOST_MESSAGES = 1000;
const LONGEST_ROLE = 64;
const ROLES = ["user", "assistant", "system"];

export class ChatFields {
  /** What each message says. @type {Map<Element, TextArea>} */
  #said = new Map();
  #list = element("ol", { class: "messages", "aria-label": "Messages" });
  #number = 0;

  #prefix;

  /** @param {string} prefix of its buttons' ids. */
  constructor(prefix) {
    this.#prefix = prefix;
    const add = () =>
      this.#add(this.messages.at(-1)?.role === "user" ? "assistant" : "user", "").focus();
    this.root = element(
      "div",
      { class: "chat" },
      this.#list,
      button(`${prefix}add-message`, "Add a message", add),
    );
    this.#add("user", "");
  }

  /** @returns {{role: string, content: string}[]} */
  get messages() {
    return [...this.#list.children].map((item) => ({
      role: item.querySelector("select").value,
      content: this.#said.get(item).value,
    }));
  }

  set messages(messages) {
    this.#list.replaceChildren();
    this.#said.clear();
    for (const { role, content } of messages) this.#add(role, content);
  }

  /** Where somebody begins. */
  focus() {
    this.#said.get(this.#list.firstElementChild).focus();
  }

  #add(role, content) {
    const number = ++this.#number;
    const choice = element("select", { "aria-label": `Role of message ${number}` });
    const roles = ROLES.includes(role) ? ROLES : [...ROLES, role];
    for (const name of roles) choice.append(element("option", { value: name }, name));
    choice.value = role;
    const text = new TextArea({
      id: `${this.#prefix}message-${number}`,
      rows: 2,
      "aria-label": `What message ${number} says`,
    });
    text.value = content;
    const item = element("li", {}, choice, text.root);
    this.#said.set(item, text);
    item.append(
      button(`${this.#prefix}remove-message-${number}`, "Remove", () => this.#remove(item), {
        class: "quiet",
      }),
    );
    this.#list.append(item);
    return text;
  }

  #remove(item) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    if (next === null) return;
    item.remove();
    this.#said.delete(item);
    this.#said.get(next).focus();
  }
}

/**
 * @param {string} text JSON.
 * @returns {{role: string, content: string}[]|null} null: it is no chat, or beyond measure.
 */
export function parseChat(text) {
  try {
    const messages = JSON.parse(text);
    const fits = ({ role, content }) =>
      typeof role === "string" && role.length <= LONGEST_ROLE && typeof content === "string";
    const isChat = Array.isArray(messages) && messages.length > 0 && messages.every(fits);
    return isChat && messages.length <= MOST_MESSAGES ? messages : null;
  } catch {
    return null;
  }
}
