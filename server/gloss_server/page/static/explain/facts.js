/** What the service has loaded, as far as it matters to who reads explanations. */

import { element } from "../element.js";
import { visible } from "../shown.js";
import { count } from "../words.js";
import { facts } from "./sample_card.js";

const SOURCES = { sidecar: "stated by the checkpoint", setting: "set on the server", released: "of the released pair" };

export class ModelFacts {
  #body = element("div", {}, element("p", { class: "quietly" }, "Not known yet."));

  constructor() {
    this.root = element("details", { id: "model-facts", class: "card model-facts", open: true }, element("summary", {}, "What is loaded"), this.#body);
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
    const number = (value) => (value === null || value === undefined ? "not known" : count(value));
    const baseline = model.fve_baseline === null ? "not known, so there is no FVE" : `${model.fve_baseline.toPrecision(3)}, ${SOURCES[model.fve_baseline_source] ?? "of a newer server"}`;
    this.#body.replaceChildren(
      facts([
        ["Model", visible(model.model)],
        ["Target", model.target ? `${visible(model.target.architecture)}, ${model.target.num_layers} blocks` : "none, so no text can be read"],
        ["Read after block", number(model.layer_index)],
        ["Activation", `${count(model.d_model)} numbers`],
        ["FVE baseline", baseline],
        ["Trained from position", number(model.min_position)],
        ["Usual norm", model.norm_median === null ? "not known" : model.norm_median.toFixed(2)],
        ["Longest text", model.limits.max_text_tokens ? `${count(model.limits.max_text_tokens)} tokens` : "none is read"],
        ["Runs on", `${visible(model.device)}, ${visible(model.dtype)}`],
        ["Version", visible(model.version)],
      ]),
      element("p", { class: "fingerprint" }, "Fingerprint ", element("code", {}, visible(model.fingerprint))),
    );
  }
}
