/** Form fields that say how something is done: shown, read, checked, and refused by name. */

import { element, field } from "./element.js";
import { parsePositions } from "./positions.js";

const MOST_SEED = 2n ** 64n - 1n;

/**
 * @typedef {Object} FieldSpec
 * @property {string} name of its parameter in the address.
 * @property {"positions"|"whole"|"rate"|"temperature"|"seed"} kind
 * @property {string} label
 * @property {string} placeholder what an empty one means.
 * @property {string} [hint]
 * @property {string} [option] of a request, its path; its name, where there is none.
 * @property {string} [limit] of the service's limits, the most it can be.
 */

/** How explanations are drawn, wherever they are asked for. @type {readonly FieldSpec[]} */
export const DRAWING = [
  {
    name: "samples",
    kind: "whole",
    option: "num_samples",
    label: "Samples",
    limit: "max_samples",
    placeholder: "1",
  },
  { name: "temperature", kind: "temperature", label: "Temperature", placeholder: "1" },
  {
    name: "length",
    kind: "whole",
    option: "max_new_tokens",
    label: "Longest, tokens",
    limit: "max_new_tokens",
    placeholder: "200",
  },
];

export class Fields {
  /** @type {HTMLElement} */
  root;

  /** @type {any} of the service; null: not known. */
  limits = null;

  #specs;
  #inputs = new Map();
  #errors = new Map();

  /**
   * @param {string} prefix of their ids.
   * @param {string} legend what they decide.
   * @param {readonly FieldSpec[]} specs
   */
  constructor(prefix, legend, specs) {
    this.#specs = specs;
    this.root = element(
      "fieldset",
      { class: "options" },
      element("legend", { class: "unseen" }, legend),
    );
    for (const { name, kind, label, hint, placeholder } of specs) {
      const input = element("input", {
        id: `${prefix}-${name}`,
        inputmode: INPUT_MODES[kind],
        placeholder,
        autocomplete: "off",
        spellcheck: "false",
      });
      const error = element("small", {
        class: "error",
        id: `${prefix}-${name}-error`,
        role: "alert",
        hidden: true,
      });
      const shown = field(label, input, hint);
      shown.append(error);
      shown.dataset.option = name;
      input.addEventListener("change", () => this.#check(name));
      this.#inputs.set(name, input);
      this.#errors.set(name, error);
      this.root.append(shown);
    }
  }

  /** What stands in them, as the address has it. @returns {Object<string, string>} */
  get values() {
    return Object.fromEntries([...this.#inputs].map(([name, input]) => [name, input.value.trim()]));
  }

  set values(values) {
    for (const [name, input] of this.#inputs) {
      input.value = values[name] ?? "";
      this.#say(name, "");
    }
  }

  /**
   * What an empty field means, once it is known.
   *
   * @param {string} name
   * @param {string|number} text
   */
  placeholder(name, text) {
    this.#inputs.get(name).placeholder = text;
  }

  /** Whether all can be used; else the first that cannot has the focus. */
  check() {
    const wrong = this.#specs.filter(({ name }) => !this.#check(name));
    if (wrong.length) this.#inputs.get(wrong[0].name).focus();
    return !wrong.length;
  }

  /** Mark the field that the service has refused. @returns {boolean} whether there is one. */
  refuse(path, message) {
    const refused = this.#specs.find(
      ({ name, option = name }) => path === option || path.split(".").includes(option),
    );
    if (refused) this.#say(refused.name, message);
    return refused !== undefined;
  }

  #check(name) {
    const spec = this.#specs.find((one) => one.name === name);
    const value = this.#inputs.get(name).value.trim();
    let wrong = "";
    try {
      if (value !== "") CHECKS[spec.kind](value, this.limits?.[spec.limit] ?? Infinity);
    } catch (error) {
      wrong = error.message;
    }
    this.#say(name, wrong);
    return !wrong;
  }

  #say(name, wrong) {
    const input = this.#inputs.get(name);
    const error = this.#errors.get(name);
    error.textContent = wrong;
    error.hidden = !wrong;
    if (wrong) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (wrong) input.setAttribute("aria-errormessage", error.id);
    else input.removeAttribute("aria-errormessage");
  }
}

const INPUT_MODES = {
  positions: "text",
  whole: "numeric",
  rate: "decimal",
  temperature: "decimal",
  seed: "numeric",
};

/** Each throws an Error that says what was got and expected. */
const CHECKS = {
  positions: parsePositions,
  whole(value, most) {
    const number = Number(value);
    if (/^\d+$/.test(value) && number >= 1 && number <= most) return;
    throw new Error(
      `got ${value}, expected ${Number.isFinite(most) ? `1 to ${most}` : "1 or more"}`,
    );
  },
  rate(value) {
    const number = Number(value);
    if (!(number >= 0 && number <= 1e6)) throw new Error(`got ${value}, expected 0 or more`);
  },
  temperature(value) {
    const number = Number(value);
    if (number === 0 || (number >= 1e-6 && number <= 100)) return;
    throw new Error(`got ${value}, expected 0, or 0.000001 to 100`);
  },
  seed(value) {
    if (!/^\d+$/.test(value) || BigInt(value) > MOST_SEED)
      throw new Error(`got ${value}, expected a whole number below 2^64`);
  },
};
