/** The form that starts a watch: a prompt, how the model speaks, how it is explained. */

import { button, element } from "../element.js";
import { DRAWING, Fields } from "../fields.js";
import { TextInput } from "../text_input.js";
import { PROMPTS } from "./prompts.js";

const WORDS = {
  label: "Prompt",
  about: "What the model goes on from",
  placeholder: "What the model goes on from",
};
/** As gloss watch has them. */
const DEFAULTS = { tokens: 200, heat: 0.7, pace: 20, every: 1, samples: 1, temperature: 1 };
/** Tokens of an explanation, where a request states none. */
const SERVICE_LENGTH = 200;
const SEED_WORDS = 2;

/** @type {readonly import("../fields.js").FieldSpec[]} */
const SPEAKING = [
  {
    name: "tokens",
    kind: "whole",
    option: "target_options.max_new_tokens",
    label: "Longest, tokens",
    limit: "max_watch_tokens",
    placeholder: "200",
  },
  {
    name: "heat",
    kind: "temperature",
    option: "target_options.temperature",
    label: "Temperature",
    placeholder: "0.7",
  },
  {
    name: "pace",
    kind: "rate",
    option: "tokens_per_second",
    label: "Tokens a second",
    hint: "0: as many as it can",
    placeholder: "20",
  },
];
/** @type {readonly import("../fields.js").FieldSpec[]} */
const EXPLAINING = [
  { name: "every", kind: "whole", label: "Every n-th token", placeholder: "1" },
  ...DRAWING,
  {
    name: "pending",
    kind: "whole",
    option: "max_pending",
    label: "Most that wait",
    placeholder: "64",
    hint: "more are skipped",
  },
  { name: "seed", kind: "seed", label: "Seed", placeholder: "drawn" },
  {
    name: "positions",
    kind: "positions",
    option: "prompt_positions",
    label: "Of the prompt, too",
    hint: "all, last, 3:20:2 or 1,5,9",
    placeholder: "none",
  },
];

export class Composer {
  /** @type {HTMLElement} */
  root;

  #input;
  #speaking = new Fields("watch-model", "How the model speaks", SPEAKING);
  #explaining = new Fields("watch", "How its activations are explained", EXPLAINING);
  #limits = null;
  #cannot = element(
    "small",
    { id: "watch-cannot", class: "error", hidden: true },
    "No model that speaks is loaded: start gloss serve with --target, and target_generates on.",
  );

  /**
   * @param {Object} listener
   * @param {(options: import("./request.js").WatchOptions) => void} listener.start
   * @param {() => void} listener.edited something in the form has changed.
   */
  constructor(listener) {
    this.#input = new TextInput("watch-", WORDS, 4, listener.edited);
    this.#input.root.append(this.#prompts(listener.edited));
    const submit = (event) => {
      event.preventDefault();
      const options = this.read();
      if (options) listener.start(options);
    };
    const start = button("watch-start", "Start", () => {}, { type: "submit", class: "primary" });
    const settings = element(
      "div",
      { class: "settings" },
      element("h2", {}, "The model"),
      this.#speaking.root,
      element("h2", {}, "Its explanations"),
      this.#explaining.root,
      element("div", { class: "row" }, start),
      this.#cannot,
    );
    const attributes = {
      id: "watch-composer",
      class: "card composer",
      "aria-label": "Start a watch",
      novalidate: true,
    };
    this.root = element(
      "form",
      { ...attributes, on: { submit, input: listener.edited } },
      this.#input.root,
      settings,
    );
    this.#input.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    });
  }

  /** What stands in the form, as the address has it. @returns {Object<string, string>} */
  get values() {
    return { ...this.#input.values, ...this.#speaking.values, ...this.#explaining.values };
  }

  set values(values) {
    this.#input.values = values;
    this.#speaking.values = values;
    this.#explaining.values = values;
  }

  /** The first words of the prompt, for a heading. */
  get title() {
    return this.#input.title;
  }

  /** @param {any} model what GetModelInfo says, or null. */
  set model(model) {
    this.#limits = this.#speaking.limits = this.#explaining.limits = model?.limits ?? null;
    this.#cannot.hidden = model === null || model.target_generates;
    if (model === null) return;
    const {
      max_watch_tokens: mostSaid,
      max_new_tokens: mostExplained,
      watch_max_pending: mostPending,
    } = model.limits;
    this.#speaking.placeholder("tokens", Math.min(DEFAULTS.tokens, mostSaid || DEFAULTS.tokens));
    this.#explaining.placeholder("length", Math.min(SERVICE_LENGTH, mostExplained));
    this.#explaining.placeholder("pending", mostPending);
  }

  /** Where somebody begins. */
  focus() {
    this.#input.focus();
  }

  /** Mark the field that the service has refused. */
  refuse(path, message) {
    return this.#speaking.refuse(path, message) || this.#explaining.refuse(path, message);
  }

  /** @returns {import("./request.js").WatchOptions|null} null: something is wrong, and says so. */
  read() {
    if (!this.#input.check() || !this.#speaking.check() || !this.#explaining.check()) return null;
    const { values } = this;
    const stated = (name) =>
      values[name] === "" ? (DEFAULTS[name] ?? null) : Number(values[name]);
    const most = this.#limits?.max_watch_tokens || DEFAULTS.tokens;
    return {
      prompt: this.#input.input,
      promptPositions: values.positions,
      every: stated("every"),
      maxPending: stated("pending"),
      tokensPerSecond: stated("pace"),
      targetTemperature: stated("heat"),
      targetMaxNewTokens: Math.min(stated("tokens"), values.tokens === "" ? most : Infinity),
      numSamples: stated("samples"),
      temperature: stated("temperature"),
      maxNewTokens: stated("length"),
      seed: values.seed || drawnSeed(),
    };
  }

  #prompts(edited) {
    const use = ({ text }) => {
      this.#input.values = { text };
      edited();
      this.#input.focus();
    };
    const buttons = PROMPTS.map((one, index) =>
      button(`watch-example-${index + 1}`, one.name, () => use(one), { class: "quiet" }),
    );
    return element(
      "div",
      { class: "row examples", role: "group", "aria-label": "Examples" },
      element("small", {}, "Try"),
      ...buttons,
    );
  }
}

/** Drawn here and not by the service: a watch that goes on needs it again. */
function drawnSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(SEED_WORDS));
  return String((BigInt(high & 0x1fffff) << 32n) | BigInt(low));
}
