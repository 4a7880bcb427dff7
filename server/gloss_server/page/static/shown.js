/**
 * Other people's text on the screen: as text, isolated from the direction of what is around it,
 * with the marks that a browser would obey rather than show made visible, and of bounded length.
 */

import { element } from "./element.js";

/** Control, format (bidi overrides among them), private use, line and paragraph ends. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u;
const ESCAPES = { "\n": "↵", "\r": "␍", "\t": "⇥" };
/** More marks than any script sets on a letter. */
const MARKS = /(\p{M}{8})\p{M}+/gu;
/** A text of nothing but these, as most are, needs no look at each character. */
const PLAIN = /^[ -~\u00a1-\u00ac\u00ae-\u02ff\u2010-\u2027\u2030-\u205e]*$/;
const FIRST_CHARACTERS = 2000;
/** What is added at a time. */
const MORE_CHARACTERS = 100_000;
/** After as many, hidden characters are written without an element of their own. */
const MOST_MARKS = 1000;

/**
 * A text as nodes: plain pieces, and hidden characters as small marks.
 *
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function shownText(text) {
  const fragment = document.createDocumentFragment();
  if (PLAIN.test(text)) {
    fragment.append(text);
    return fragment;
  }
  let plain = "";
  let left = MOST_MARKS;
  for (const char of text.replace(MARKS, "$1…")) {
    if (!HIDDEN.test(char) || left === 0) {
      plain += HIDDEN.test(char) ? escape(char) : char;
      continue;
    }
    left -= 1;
    fragment.append(plain, element("span", { class: "mark" }, visible(char)));
    plain = "";
  }
  fragment.append(plain);
  return fragment;
}

/**
 * The same as one string, for labels.
 *
 * @param {string} text
 */
export function visible(text) {
  if (PLAIN.test(text)) return text;
  return [...text].map((char) => (HIDDEN.test(char) ? escape(char) : char)).join("");
}

/**
 * A paragraph of somebody's text, its direction its own. A long one is cut, with a button for more.
 *
 * @param {string} text
 * @param {(text: string) => Node} [show] how a piece becomes nodes.
 * @returns {HTMLElement}
 */
export function passage(text, show = shownText) {
  const shown = element("p", { class: "passage", dir: "auto" });
  const showUpTo = (length) => {
    if (text.length <= length) return shown.replaceChildren(show(text));
    const total = text.length.toLocaleString("en");
    const isLast = text.length <= length + MORE_CHARACTERS;
    const words = isLast ? `Show all ${total} characters` : `Show more of ${total} characters`;
    const more = element("button", { type: "button", class: "quiet" }, words);
    more.addEventListener("click", () => {
      showUpTo(length + MORE_CHARACTERS);
      // It scrolls now, by keys too, and the button that had the focus is gone.
      shown.tabIndex = 0;
      shown.focus({ preventScroll: true });
    });
    shown.replaceChildren(show(text.slice(0, length)), "… ", more);
  };
  showUpTo(FIRST_CHARACTERS);
  return shown;
}

function escape(char) {
  const code = char.codePointAt(0);
  return (
    ESCAPES[char] ??
    (code < 0x100
      ? `\\x${hex(code, 2)}`
      : code < 0x10000
        ? `\\u${hex(code, 4)}`
        : `\\U${hex(code, 8)}`)
  );
}

function hex(code, digits) {
  return code.toString(16).padStart(digits, "0");
}
