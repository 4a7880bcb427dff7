/** One explanation with its evidence, wherever it stands: beside its token, or pinned. */

import { element } from "./element.js";
import { colour } from "./palette.js";
import { passage, visible } from "./shown.js";
import { decimal, finishMeaning, flagMeaning } from "./words.js";
import { saidSoFar } from "./reading.js";

/**
 * @param {import("./reading.js").Sample} sample
 * @param {number} number of the sample.
 * @param {boolean} isAlone no other sample stands beside it.
 * @param {(text: string) => Node} show how its text becomes nodes.
 * @returns {HTMLElement}
 */
export function sampleCard(sample, number, isAlone, show) {
  const { row } = sample;
  const heading = isAlone ? null : element("h3", {}, `Sample ${number + 1}`);
  const card = element(
    "article",
    { class: "sample", "aria-label": `Sample ${number + 1}` },
    heading,
  );
  if (row?.error) {
    card.append(
      element(
        "p",
        { class: "notice bad" },
        element("strong", {}, "It failed. "),
        visible(row.error.message),
        " ",
        element("small", {}, visible(row.error.reason || row.error.code)),
      ),
    );
    return card;
  }
  const said = saidSoFar(sample);
  if (said) card.append(passage(said, show));
  else
    card.append(element("p", { class: "quietly" }, row ? "It says nothing." : "Not written yet."));
  if (!row) return card;
  card.append(
    facts([
      ["FVE", fveChip(row.fve)],
      ["Cosine", decimal(row.cosine, 3)],
      ["MSE", decimal(row.mse, 3)],
      ["Log-prob", row.logprob === null ? "–" : `${decimal(row.logprob, 2)} nats`],
      ["Tokens", String(row.token_ids.length)],
      ["Ended by", finishMeaning(row.finish_reason)],
    ]),
  );
  if (row.flags.length) card.append(flagList(row.flags));
  card.append(rawText(row.raw_text));
  return card;
}

/** @param {[string, string|Node][]} pairs @returns {HTMLElement} */
export function facts(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [name, value] of pairs)
    list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return list;
}

/** @param {number|null} fve @returns {HTMLElement} */
export function fveChip(fve) {
  const chip = element("span", { class: "chip" }, decimal(fve, 2));
  colour(chip, fve);
  return chip;
}

function flagList(flags) {
  const items = flags.map((flag) =>
    element(
      "li",
      {},
      element("span", { class: "flag-mark", "aria-hidden": "true" }),
      flagMeaning(flag),
      " ",
      element("code", {}, visible(flag)),
    ),
  );
  return element("ul", { class: "flags", "aria-label": "Flags" }, ...items);
}

/** Built when it is opened: it is as long as the explanation, and seldom wanted. */
function rawText(text) {
  const details = element(
    "details",
    { class: "raw" },
    element("summary", {}, "As generated, tags included"),
  );
  details.addEventListener(
    "toggle",
    () => details.open && details.childElementCount === 1 && details.append(passage(text)),
    { once: true },
  );
  return details;
}
