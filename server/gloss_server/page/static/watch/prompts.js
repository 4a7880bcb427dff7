/** Prompts of the embedded pair's world. */

export const PROMPTS = Object.freeze([
  { name: "Mia the baker", text: "Mia is a baker. She" },
  { name: "A castle at dawn", text: "It was dawn in the castle. One rainy dawn Anna went out." },
  { name: "Leo meets Hugo", text: "Leo is a tailor. He meets Hugo." },
]);
