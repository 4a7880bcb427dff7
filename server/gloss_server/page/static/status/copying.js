/** A hash that can be copied. */

import { button, element } from "../element.js";
import { visible } from "../shown.js";

const SAID_MS = 1500;

/**
 * @param {string} id of the button.
 * @param {string} name what is copied.
 * @param {string} text
 * @param {(text: string) => void} announce
 * @returns {HTMLElement}
 */
export function copyable(id, name, text, announce) {
  const code = element("code", { title: visible(text) }, visible(text));
  const copy = async () => {
    const isCopied = await copied(text, code);
    const said = isCopied ? "Copied" : "Selected";
    made.textContent = said;
    announce(`${said}: ${name}`);
    setTimeout(() => {
      made.textContent = "Copy";
    }, SAID_MS);
  };
  const made = button(id, "Copy", copy, { class: "quiet copy", "aria-label": `Copy ${name}` });
  return element("span", { class: "copyable" }, code, made);
}

/** Browsers keep the clipboard from plain http of other machines: then the text is selected. */
async function copied(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}
