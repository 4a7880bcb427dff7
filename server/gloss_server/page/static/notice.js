/** What is wrong or waited for, in words, with what can be done about it. */

import { element } from "./element.js";
import { visible } from "./shown.js";

export class Notice {
  /** @type {HTMLElement} */
  root;

  /** @param {string} [prefix] of its id. */
  constructor(prefix = "") {
    this.root = element("div", {
      id: `${prefix}notice`,
      class: "notice",
      role: "alert",
      hidden: true,
    });
  }

  /**
   * @param {import("./fault.js").Fault} fault
   * @param {"warn"|"bad"} kind
   */
  show(fault, kind) {
    this.root.className = `notice ${kind}`;
    const reason = fault.reason || fault.code;
    this.root.replaceChildren(
      element("strong", {}, `${fault.title}. `),
      ...fault.sentences.map((said) => `${visible(said)} `),
      element("code", {}, visible(reason)),
    );
    this.root.hidden = false;
  }

  hide() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }
}
