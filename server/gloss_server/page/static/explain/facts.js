/** What the service has loaded, as far as it matters to who reads explanations. */

import { element } from "../element.js";
import { visible } from "../shown.js";
import { count, plural } from "../words.js";
import { facts } from "../sample_card.js";

const SOURCES = {
  sidecar: "stated by the checkpoint",
  setting: "set on the server",
  released: "of the released pair",
};

export class ModelFacts {
  #body = element("div", {}, element("p", { class: "quietly" }, "Not known yet."));

  constructor() {
    this.root = element(
      "details",
      { id: "model-facts", class: "card model-facts", open: true },
      element("summary", {}, "What is loaded"),
      this.#body,
    );
  }

  /**
   * @param {any} model what GetModelInfo says; null: not known.
   * @param {import("../fault.js").Fault|null} fault why it is not.
   */
  show(model, fault) {
    if (!model) {
      const said = fault ? [`${fault.title}.`, ...fault.sentences].join(" ") : "Not known yet.";
      this.#body.replaceChildren(element("p", { class: "quietly" }, visible(said)));
      return;
    }
    this.#body.replaceChildren(
      facts(pairs(model)),
      element(
        "p",
        { class: "fingerprint" },
        "Fingerprint ",
        element("code", {}, visible(model.fingerprint)),
      ),
    );
  }
}

/** @returns {[string, string][]} */
function pairs(model) {
  const { target, limits } = model;
  const number = (value) => (value === null ? "not known" : count(value));
  const norm = model.norm_median;
  return [
    ["Model", visible(model.model)],
    ["Target", target ? blocks(target) : "none, so no text can be read"],
    ["Read after block", number(model.layer_index)],
    ["Activation", `${count(model.d_model)} numbers`],
    ["FVE baseline", baseline(model)],
    ["Trained from position", number(model.min_position)],
    ["Usual norm", norm === null ? "not known" : norm.toFixed(2)],
    ["Longest text", limits.max_text_tokens ? plural(limits.max_text_tokens, "token") : "–"],
    ["Runs on", visible(`${model.device}, ${model.dtype}`)],
    ["Version", visible(model.version)],
  ];
}

function blocks({ architecture, num_layers: numLayers }) {
  return visible(`${architecture}, ${plural(numLayers, "block")}`);
}

function baseline({ fve_baseline: value, fve_baseline_source: source }) {
  if (value === null) return "not known, so there is no FVE";
  return `${value.toPrecision(3)}, ${SOURCES[source] ?? "of a newer server"}`;
}
