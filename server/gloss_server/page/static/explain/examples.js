/** Stories of the embedded pair's world, held out of training; `gloss demo --stories` has more. */

export const EXAMPLES = Object.freeze([
  {
    name: "Leo the tailor",
    text:
      "Leo is a tailor. He meets Hugo. What will happen next? He eats fish. Then he stops. He " +
      "waits in the old village. Then he stops. A brown coin lies on the table. The wind is " +
      "soft. This makes him sad. The tailor looks at the coin again. He came here at dawn. He " +
      "likes the village. It is a cloudy dawn. Time goes by",
  },
  {
    name: "Anna's black book",
    text:
      "It was dawn in the castle. One rainy dawn Anna went out. She eats bread. This makes her " +
      "happy. Everyone calls her the sailor. She meets Leo. Nobody knows why. What a fine black" +
      " book! She looks at the book again. She is still happy. What will happen next? A bird " +
      "sings. She is still happy. What will happen next",
  },
  {
    name: "Eva the doctor",
    text:
      "The park is quiet. Eva the doctor woke up at midnight. This makes her curious. A dog " +
      "runs past. She finds a blue bell. She smiles. The doctor is still curious. She talks " +
      "with Leo. It is a cold midnight. It smells of cheese. Leo laughs. Nobody knows why. Leo " +
      "and Eva talk. Leo and Eva talk. The cheese is good",
  },
]);
