/** What the service has loaded: model, checkpoints with their fingerprints, limits of a call. */

import { element } from "../element.js";
import { passage, visible } from "../shown.js";
import { count, decimal } from "../words.js";
import { copyable } from "./copying.js";
import { bytes, span } from "./format.js";

const SOURCES = Object.freeze({
  sidecar: "its checkpoint says so",
  setting: "set by --fve-baseline",
  released: "the table of the released pairs",
});

/**
 * @param {any} model as GetModelInfo says it.
 * @param {(text: string) => void} announce
 * @returns {HTMLElement[]} cards.
 */
export function factCards(model, announce) {
  const fingerprint = (id, name, text) => copyable(`copy-${id}`, name, text, announce);
  return [
    card("Service", [
      ["model", model.model],
      ["fingerprint", fingerprint("service", "the service's fingerprint", model.fingerprint)],
      ["version", `gloss ${model.version}`],
      ["device", model.device],
      ["numbers", `${model.dtype}${quantized(model)}`],
      ["kernels", model.kernels],
      ["draws", model.batch_invariant ? "never depend on the batch" : "may round with the batch"],
    ]),
    card("Activations", [
      ["read at layer", model.layer_index ?? "not stated"],
      ["width", count(model.d_model)],
      ["injected", `${model.injection_mode}, norm ${decimal(model.injection_scale, 1)}`],
      ["usual norm", model.norm_median === null ? "not stated" : decimal(model.norm_median, 2)],
      ["first position", model.min_position ?? "not stated"],
      ["FVE baseline", baseline(model)],
      [
        "prompt",
        `${count(model.prefix_tokens)} tokens shared, ${count(model.suffix_tokens)} of each`,
      ],
    ]),
    checkpointCard("av", "AV, the verbalizer", model.av, fingerprint),
    checkpointCard("ar", "AR, the reconstructor", model.ar, fingerprint),
    checkpointCard(
      "target",
      "Target, the explained model",
      model.target,
      fingerprint,
      targetFact(model),
    ),
    card("Limits", limits(model.limits)),
  ];
}

function card(title, facts) {
  return element("section", { class: "card fact-card" }, element("h3", {}, title), factList(facts));
}

function checkpointCard(id, title, checkpoint, fingerprint, more = []) {
  if (!checkpoint)
    return element(
      "section",
      { class: "card fact-card" },
      element("h3", {}, title),
      element("p", { class: "none" }, "None is loaded."),
    );
  const made = card(title, [
    ["fingerprint", fingerprint(id, `the fingerprint of ${title}`, checkpoint.fingerprint)],
    ["architecture", checkpoint.architecture],
    ["blocks", count(checkpoint.num_layers)],
    ["width", count(checkpoint.d_model)],
    ["vocabulary", count(checkpoint.vocab_size)],
    ...more,
  ]);
  if (checkpoint.template) {
    made.append(
      element(
        "details",
        {},
        element("summary", {}, "Prompt template"),
        passage(checkpoint.template),
      ),
    );
  }
  return made;
}

function factList(facts) {
  const rows = facts.map(([name, value]) =>
    element(
      "div",
      {},
      element("dt", {}, name),
      element("dd", {}, value instanceof Node ? value : visible(String(value))),
    ),
  );
  return element("dl", {}, ...rows);
}

function targetFact(model) {
  return model.target
    ? [["generates", model.target_generates ? "yes, it can be watched" : "no, it only reads"]]
    : [];
}

function limits(limit) {
  return [
    ["activations of a call", count(limit.max_items)],
    ["samples of each", count(limit.max_samples)],
    ["tokens of an explanation", count(limit.max_new_tokens)],
    ["tokens of a text", count(limit.max_text_tokens)],
    ["tokens of a watch", count(limit.max_watch_tokens)],
    ["waiting in a watch", count(limit.watch_max_pending)],
    ["explanations in flight", count(limit.max_queued_explanations)],
    ["tokens in flight", count(limit.max_queued_tokens)],
    ["request", bytes(limit.max_request_bytes)],
    ["deadline", span(limit.default_deadline_seconds)],
    ["deadline of a watch", span(limit.watch_deadline_seconds)],
  ];
}

function baseline(model) {
  if (model.fve_baseline === null) return "none is known";
  const source = SOURCES[model.fve_baseline_source] ?? "of a newer server";
  return `${decimal(model.fve_baseline, 4)} (${source})`;
}

function quantized(model) {
  return model.quantization && model.quantization !== "none"
    ? `, weights ${model.quantization}`
    : "";
}
