/** What is wrong or waited for, in words, with what can be done about it. */

import { element } from "../element.js";
import { visible } from "../shown.js";

export class Notice {
  /** @type {HTMLElement} */
  root;

  /** @param {string} [prefix] of its id. */
  constructor(prefix = "") {
    this.root = element("div", { id: `${prefix}notice`, class: "notice", role: "alert", hidden: true });
  }

  /**
   * @param {import("../fault.js").Fault} fault
   * @param {"warn"|"bad"} kind
   * @param {string} [going] how the page goes on by itself.
   * @param {...HTMLElement} actions
   */
  show(fault, kind, going = "", ...actions) {
    this.root.className = `notice ${kind}`;
    const reason = fault.reason || fault.code;
    this.root.replaceChildren(
      element("strong", {}, `${fault.title}. `),
      ...[fault.message, fault.hint, going].filter(Boolean).map((said) => `${visible(said)} `),
      element("code", {}, visible(reason)),
      ...actions,
    );
    this.root.hidden = false;
  }

  hide() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }
}
