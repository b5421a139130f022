// The panel of pictures: one query at a time (words, a stored picture, a given one), its gallery.
//
// The address after "#" holds a query by words or by a stored picture, so that the browser's Back
// returns to the former search and a search can be passed on. A given picture has no address.

import { byId, chip, debounced, figure } from "./dom.js";
import { Editor } from "./editor.js";
import { Gallery } from "./gallery.js";
import { Message } from "./message.js";
import { Picture } from "./picture.js";
import { listenForPictures } from "./receive.js";

const EXAMPLES = ["engine + boat", "flower + drink", "boat", "vegetable"];
const REST = 150; // milliseconds a slider rests before the search is repeated
const VISIBLE = 1000; // milliseconds until what was added or deleted is seen by searches

export function openSearch(api) {
  new Panel(api).open();
}

class Panel {
  constructor(api) {
    this.api = api;
    this.words = byId("words");
    this.found = byId("found");
    this.readAs = byId("read-as");
    this.k = byId("k");
    this.cutoff = byId("cutoff");
    this.message = new Message(byId("search-message"));
    this.editor = new Editor(api, this.message, () => this.#changed());
    this.gallery = new Gallery(byId("gallery"), api, {
      like: (match) => this.#go(likeOf(match)),
      remove: (match) => this.editor.remove(match),
    });
    this.picture = new Picture(byId("picture"), api, {
      search: (word) => this.#go({ kind: "text", text: word }),
      add: (file, name) => this.editor.add(file, name),
      close: () => this.#close(),
    });
    this.query = null;
    this.running = null;
  }

  open() {
    byId("words-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.words.value.trim()) this.#go({ kind: "text", text: this.words.value.trim() });
    });
    byId("word-examples").replaceChildren(
      ...EXAMPLES.map((text) => chip(text, () => this.#go({ kind: "text", text }))),
    );
    const again = debounced(() => this.query && this.#run(), REST);
    for (const slider of [this.k, this.cutoff]) {
      slider.addEventListener("input", () => {
        this.#tellSliders();
        again();
      });
    }
    this.#tellSliders();
    listenForPictures(byId("search"), byId("file"), (file) => this.#given(file));
    addEventListener("popstate", () => this.#follow());
    this.#follow();
  }

  /** A search of the user's: it gets an address; if what was clicked goes, the focus moves on. */
  async #go(query) {
    const clicked = document.activeElement;
    const address = addressOf(query);
    if (address !== location.hash) history.pushState(null, "", address || location.pathname);
    const done = this.#begin(query);
    byId("search-top").scrollIntoView({ block: "nearest" });
    await done;
    if (!clicked.isConnected) this.found.focus({ preventScroll: true });
  }

  #given(file) {
    if (file.type.startsWith("image/")) this.#go({ kind: "image", file });
    else this.message.say(`${file.name} is not a picture.`, [], "error");
  }

  /** Searches for what the address says; without, for the first example, in silence if it fails. */
  #follow() {
    const query = queryOf(location.hash);
    this.#begin(query ?? { kind: "text", text: EXAMPLES[0] }, query === null);
  }

  #begin(query, tentative = false) {
    this.query = query;
    this.words.value = query.kind === "text" ? query.text : "";
    if (query.kind === "text") this.picture.hide();
    else this.picture.show(query);
    return this.#run(tentative);
  }

  async #run(tentative = false) {
    this.running?.abort();
    const running = new AbortController();
    this.running = running;
    this.message.clear();
    this.gallery.busy(true);
    const query = this.query;
    try {
      const options = { signal: running.signal, onWait: this.message.wait };
      const answer = await this.#ask(query, options);
      this.message.clear();
      this.#show(query, answer);
    } catch (error) {
      if (running.signal.aborted) return;
      this.gallery.show([]);
      this.found.textContent = "";
      this.readAs.hidden = true;
      if (!tentative || error.code !== "unknown_word") this.#explain(error, query);
    } finally {
      if (this.running === running) this.gallery.busy(false);
    }
  }

  #ask(query, options) {
    const limits = { k: Number(this.k.value), min_score: this.#cutoff() };
    if (query.kind === "text") return this.api.post("v1/search/text", { query: query.text, ...limits }, options);
    if (query.kind === "like") return this.api.post("v1/search/like", { id: query.id, ...limits }, options);
    return this.api.upload("v1/search/image", { file: query.file, ...limits }, options);
  }

  #show(query, { matches, read_as: read }) {
    this.gallery.show(matches);
    this.found.textContent = this.#summary(query, matches.length);
    this.readAs.hidden = !read || read === query.text;
    this.readAs.textContent = `Read as: ${read}`;
  }

  #explain(error, query) {
    if (error.code !== "unknown_word") {
      this.message.fail(error, [chip("Try again", () => this.#run())]);
      return;
    }
    const { word, suggestions = [] } = error.details;
    const hint = suggestions.length ? " Did you mean:" : " Try another one.";
    const chips = suggestions.map((one) =>
      chip(one, () => this.#go({ kind: "text", text: replaceWord(query.text, word, one) })),
    );
    this.message.say(`The word \u201c${word}\u201d is not known here.${hint}`, chips, "error");
  }

  #summary(query, count) {
    const least = this.#cutoff();
    const bound = least === null ? "" : ` that score at least ${figure(least)}`;
    const quoted = `\u201c${query.text ?? query.name ?? query.id}\u201d`;
    const likeness = { text: `nearest to ${quoted}`, like: `most like ${quoted}`, image: "most like yours" }[query.kind];
    const number = { 0: "No picture", 1: "One picture" }[count] ?? `${count} pictures`;
    return `${number} ${likeness}${bound}`;
  }

  /** null at the slider's left end, where nothing is cut off. */
  #cutoff() {
    return this.cutoff.value === this.cutoff.min ? null : Number(this.cutoff.value);
  }

  #tellSliders() {
    const least = this.#cutoff();
    byId("k-value").textContent = `${this.k.value} ${this.k.value === "1" ? "picture" : "pictures"}`;
    byId("cutoff-value").textContent = least === null ? "off" : figure(least);
    this.cutoff.setAttribute("aria-valuetext", least === null ? "off" : figure(least));
  }

  #close() {
    this.picture.hide();
    this.words.focus();
  }

  /** After an addition or a deletion: the same search again, once searches see the change. */
  #changed() {
    setTimeout(() => this.query && this.#refresh(), VISIBLE);
  }

  async #refresh() {
    const query = this.query;
    try {
      const answer = await this.#ask(query, {});
      if (this.query === query) this.#show(query, answer);
    } catch {
      // The gallery stays as it was; the next search says what is wrong.
    }
  }
}

const likeOf = (match) => ({ kind: "like", id: match.id, name: match.metadata.name ?? match.metadata.label ?? match.id });

function addressOf(query) {
  if (query.kind === "text") return `#q=${encodeURIComponent(query.text)}`;
  if (query.kind === "like") return `#like=${encodeURIComponent(query.id)}`;
  return "";
}

function queryOf(hash) {
  const given = new URLSearchParams(hash.slice(1).replaceAll("+", "%2B"));
  if (given.get("q")) return { kind: "text", text: given.get("q") };
  if (given.get("like")) return { kind: "like", id: given.get("like") };
  return null;
}

/** The query with `word`, wherever it stands by itself, replaced. */
function replaceWord(query, word, by) {
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const replaced = query.replace(new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, "giu"), by);
  return replaced === query ? by : replaced;
}
