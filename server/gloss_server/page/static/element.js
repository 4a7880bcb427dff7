/**
 * Elements without markup: every string becomes text, so nothing that a model or a caller wrote is
 * ever parsed.
 */

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {Object<string, unknown>} [attributes] `class`, `data-x`, `aria-x`, `hidden` and the like;
 *   false, null and undefined leave one out, true sets it empty, `on` is an object of listeners.
 * @param {...(Node|string|null)} children strings become text; null is left out.
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (value !== false && value !== null && value !== undefined) {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * A labelled form field: the label stands above its control, a hint below.
 *
 * @param {string} label
 * @param {HTMLElement} control it has an id.
 * @param {string} [hint]
 * @returns {HTMLElement}
 */
export function field(label, control, hint = "") {
  const said = hint ? element("small", { id: `${control.id}-hint` }, hint) : null;
  if (said) control.setAttribute("aria-describedby", said.id);
  return element(
    "div",
    { class: "field" },
    element("label", { for: control.id }, label),
    control,
    said,
  );
}

/**
 * A button.
 *
 * @param {string} id
 * @param {string} text
 * @param {(event: Event) => void} onClick
 * @param {Object<string, unknown>} [attributes]
 * @returns {HTMLButtonElement}
 */
export function button(id, text, onClick, attributes = {}) {
  return element("button", { id, type: "button", ...attributes, on: { click: onClick } }, text);
}
