/** The fields that say which positions are explained and how: shown, read, checked. */

import { element, field } from "../element.js";
import { parsePositions } from "../positions.js";

const MOST_SEED = 2n ** 64n - 1n;

/** By name: the parameter of the address, the option of a request, the label. */
const FIELDS = [
  { name: "positions", label: "Positions", hint: "all, last, 3:20:2 or 1,5,9", placeholder: "all" },
  { name: "samples", option: "num_samples", label: "Samples", limit: "max_samples", placeholder: "1" },
  { name: "temperature", option: "temperature", label: "Temperature", placeholder: "1" },
  { name: "length", option: "max_new_tokens", label: "Longest, tokens", limit: "max_new_tokens", placeholder: "200" },
  { name: "seed", option: "seed", label: "Seed", placeholder: "drawn" },
];
export const OPTION_NAMES = FIELDS.map(({ name }) => name);

export class Options {
  #inputs = new Map();
  #errors = new Map();
  #limits = null;

  constructor() {
    this.root = element("fieldset", { class: "options" }, element("legend", { class: "unseen" }, "How to explain"));
    for (const { name, label, hint, placeholder } of FIELDS) {
      const inputMode = name === "positions" ? "text" : name === "temperature" ? "decimal" : "numeric";
      const input = element("input", { id: `option-${name}`, inputmode: inputMode, placeholder, autocomplete: "off", spellcheck: "false" });
      const error = element("small", { class: "error", id: `option-${name}-error`, hidden: true });
      const shown = field(label, input, hint);
      shown.append(error);
      shown.dataset.option = name;
      input.addEventListener("change", () => this.#check(name));
      this.#inputs.set(name, input);
      this.#errors.set(name, error);
      this.root.append(shown);
    }
  }

  /** @param {any} limits of the service, or null. */
  set limits(limits) {
    this.#limits = limits;
  }

  /** What stands in the fields, as the address has it. @returns {Object<string, string>} */
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
   * @returns {{positions: Object, options: Object}|null} null: a field is wrong; it has the focus.
   */
  read() {
    const wrong = FIELDS.find(({ name }) => !this.#check(name));
    if (wrong) {
      this.#inputs.get(wrong.name).focus();
      return null;
    }
    const { values } = this;
    const options = {};
    for (const { name, option } of FIELDS) {
      if (option && values[name]) options[option] = name === "seed" ? values[name] : Number(values[name]);
    }
    return { positions: parsePositions(values.positions), options };
  }

  /** Mark the field that the service has refused. @returns {boolean} whether there is one. */
  refuse(path, message) {
    const refused = FIELDS.find(({ name, option }) => path.split(".").includes(option ?? name));
    if (refused) this.#say(refused.name, message);
    return refused !== undefined;
  }

  #check(name) {
    let wrong = "";
    try {
      this.#parse(name, this.values[name]);
    } catch (error) {
      wrong = error.message;
    }
    this.#say(name, wrong);
    return !wrong;
  }

  #parse(name, value) {
    if (name === "positions") parsePositions(value);
    else if (value === "") return;
    else if (name === "temperature") {
      const number = Number(value);
      if (!(number === 0 || (number >= 1e-6 && number <= 100))) throw new Error(`got ${value}, expected 0, or 0.000001 to 100`);
    } else if (name === "seed") {
      if (!/^\d+$/.test(value) || BigInt(value) > MOST_SEED) throw new Error(`got ${value}, expected a whole number below 2^64`);
    } else {
      const most = this.#limits?.[FIELDS.find((one) => one.name === name).limit] ?? Infinity;
      const number = Number(value);
      if (!/^\d+$/.test(value) || number < 1 || number > most) {
        throw new Error(`got ${value}, expected ${Number.isFinite(most) ? `1 to ${most}` : "1 or more"}`);
      }
    }
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
