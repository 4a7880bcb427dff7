/** The fields that say which positions are explained and how. */

import { Fields } from "../fields.js";
import { parsePositions } from "../positions.js";

/** @type {readonly import("../fields.js").FieldSpec[]} */
const SPECS = [
  {
    name: "positions",
    kind: "positions",
    label: "Positions",
    hint: "all, last, 3:20:2 or 1,5,9",
    placeholder: "all",
  },
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
  { name: "seed", kind: "seed", label: "Seed", placeholder: "drawn" },
];

export class Options extends Fields {
  constructor() {
    super("option", "How to explain", SPECS);
  }

  /**
   * @returns {{positions: Object, options: Object}|null} null: a field is wrong; it has the focus.
   */
  read() {
    if (!this.check()) return null;
    const { positions, samples, temperature, length, seed } = this.values;
    const stated = {
      num_samples: samples && Number(samples),
      temperature: temperature && Number(temperature),
      max_new_tokens: length && Number(length),
      seed,
    };
    const options = Object.fromEntries(Object.entries(stated).filter(([, value]) => value !== ""));
    return { positions: parsePositions(positions), options };
  }
}
