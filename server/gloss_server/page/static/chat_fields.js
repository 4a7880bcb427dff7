/** A chat to fill in: messages of a role and what it says. */

import { button, element } from "./element.js";

const ROLES = ["user", "assistant", "system"];

export class ChatFields {
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
      content: item.querySelector("textarea").value,
    }));
  }

  set messages(messages) {
    this.#list.replaceChildren();
    for (const { role, content } of messages) this.#add(role, content);
  }

  #add(role, content) {
    const number = ++this.#number;
    const choice = element("select", { "aria-label": `Role of message ${number}` });
    const roles = ROLES.includes(role) ? ROLES : [...ROLES, role];
    for (const name of roles) choice.append(element("option", { value: name }, name));
    choice.value = role;
    const text = element("textarea", {
      rows: 2,
      dir: "auto",
      "aria-label": `What message ${number} says`,
    });
    text.value = content;
    const item = element("li", {}, choice, text);
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
    next.querySelector("textarea").focus();
  }
}

/**
 * @param {string} text JSON.
 * @returns {{role: string, content: string}[]|null} null: it is no chat.
 */
export function parseChat(text) {
  try {
    const messages = JSON.parse(text);
    const fits = ({ role, content }) => typeof role === "string" && typeof content === "string";
    return Array.isArray(messages) && messages.length && messages.every(fits) ? messages : null;
  } catch {
    return null;
  }
}
