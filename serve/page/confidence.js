// How sure the model is of a translation, in words, and which words of the sentence it does not know.

import { element, percent } from "./dom.js";

const DEGREES = [[0.8, "Sure"], [0.5, "Fairly sure"], [0, "Unsure"]]; // each from this confidence on

/** "Unsure: 2 words unknown (4 % likely to be a good translation)"; "" if there is no translation, or the model does not say. */
export function inWords(translation) {
  const { confidence = null, unknown_words: unknown = [], refused = null } = translation ?? {};
  if (confidence === null) return "";
  const degree = refused ? "Not translated, too unsure" : DEGREES.find(([least]) => confidence >= least)[1];
  const count = unknown.length && `: ${unknown.length} ${unknown.length === 1 ? "word" : "words"} unknown`;
  return `${degree}${count || ""} (${percent(confidence)} likely to be a good translation)`;
}

/** The text in pieces, with `words`, in their order, as marks. */
export function marked(text, words) {
  const pieces = [];
  let end = 0;
  for (const word of words) {
    const place = find(text, word, end);
    if (place < 0) continue; // it was read in another spelling
    pieces.push(text.slice(end, place), element("mark", {}, word));
    end = place + word.length;
  }
  return [...pieces, text.slice(end)];
}

/** Where `word` is, rather where it begins a word than where it continues one. */
function find(text, word, begin) {
  let place = text.indexOf(word, begin);
  while (place > 0 && /\p{L}/u.test(text[place - 1]) && text.indexOf(word, place + 1) > 0) {
    place = text.indexOf(word, place + 1);
  }
  return place;
}
