// A candidate's attention as words and weights that can be drawn.
//
// In: tokens of both sides and one row of weights per target token, the last column of which is
// the end mark. Out: {source, target, weights}, weights[target][source]. Case marks are no words:
// they are left out, attention to one counts for its word, and its word gets the capital back.

const MARKS = new Set(["_cap_", "_up_"]);
const SPECIAL = new Set(["_pad_", "_bos_", "_eos_", "_unk_", ...MARKS]);
const END_SHOWN = 0.1; // the end mark is drawn only where a word attends to it this much

/** Returns null for a candidate without attention. */
export function align(sourceTokens, candidate) {
  if (!candidate.attention?.length) return null;
  const columns = [...sourceTokens, "_eos_"];
  const source = [];
  const places = []; // for each column, the word that its weight counts for
  columns.forEach((token) => {
    places.push(source.length);
    if (!MARKS.has(token)) source.push(token);
  });
  const rows = candidate.attention.map((row) => {
    const summed = new Array(source.length).fill(0);
    row.forEach((weight, column) => (summed[places[column]] += weight));
    return summed;
  });
  const kept = candidate.tokens.map((token, place) => place)
    .filter((place) => place < rows.length && !SPECIAL.has(candidate.tokens[place]));
  const weights = kept.map((place) => rows[place]);
  const target = spell(candidate.tokens).filter((_, place) => kept.includes(place));
  const words = spell(columns).filter((_, column) => !MARKS.has(columns[column]));
  words[words.length - 1] = "end";
  if (!weights.some((row) => row.at(-1) >= END_SHOWN)) {
    words.pop();
    weights.forEach((row) => row.pop());
  }
  return { source: words, target, weights, hasEnd: words.length === source.length };
}

/** Tokens as they are read: capitals put back, the word-start sign of subwords taken away. */
function spell(tokens) {
  return tokens.map((token, place) => {
    const word = token.replace(/^▁/u, "") || token;
    const mark = tokens[place - 1];
    if (mark === "_up_") return word.toLocaleUpperCase();
    if (mark === "_cap_") return word.charAt(0).toLocaleUpperCase() + word.slice(1);
    return word;
  });
}

/** The partners of a word with their weights, heaviest first, as [{index, word, weight}]. */
export function partners({ source, target, weights }, side, index) {
  const found = side === "target"
    ? source.map((word, place) => ({ index: place, word, weight: weights[index][place] }))
    : target.map((word, place) => ({ index: place, word, weight: weights[place][index] }));
  return found.sort((one, other) => other.weight - one.weight);
}
