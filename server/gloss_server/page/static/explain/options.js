/** The fields that say which positions are explained and how. */

import { DRAWING, Fields } from "../fields.js";
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
  ...DRAWING,
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
