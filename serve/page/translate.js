// The translator's panel: typed text goes out after a short rest, its translation comes in as it is
// written, then with attention and the other candidates. A newer text gives the older request up.

import { align } from "./alignment.js";
import { Attention } from "./attention.js";
import { inWords, marked } from "./confidence.js";
import { byId, chip, debounced, element, figure } from "./dom.js";
import { Message } from "./message.js";

const REST = 250; // milliseconds without a key before the text is sent
const ASKED = { beam: 5, n_best: 3, attention: true, stream: true, partial: true };
const EXAMPLES = {
  fr: [
    "Quelle boîte préfère le boulanger timide\u00a0?",
    "Où travaille ta sœur\u00a0?",
    "Quel jeune peintre a étudié\u00a0?",
    "Où ce policier a-t-il envoyé le vieux couteau jaune à tes filles\u00a0?",
  ],
};

/** @param about what GET /v1/models says of the first version: the languages, among others */
export function openTranslator(api, about) {
  new Panel(api, about.source_language ?? "", about.target_language ?? "").open();
}

class Panel {
  constructor(api, source, target) {
    this.api = api;
    this.languages = { source, target };
    this.input = byId("source");
    this.output = byId("translation");
    this.said = byId("translation-said");
    this.marks = byId("source-marks");
    this.confidence = byId("confidence");
    this.unknown = byId("unknown-words");
    this.candidates = byId("candidates");
    this.message = new Message(byId("translator-message"));
    this.attention = new Attention(this.languages);
    this.running = null;
    this.sent = "";
  }

  open() {
    const [source, target] = [languageName(this.languages.source), languageName(this.languages.target)];
    if (source && target) byId("translator-title").textContent = `${source} into ${target}`;
    if (source) this.input.placeholder = `Type a sentence in ${source}`;
    this.input.lang = this.languages.source;
    this.output.lang = this.languages.target;
    const later = debounced(() => this.#translate(), REST);
    this.input.addEventListener("input", () => {
      this.marks.replaceChildren();
      this.#grow();
      later();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault(); // one sentence: a line break would be none
      later.now();
    });
    addEventListener("resize", () => this.#grow());
    const examples = EXAMPLES[this.languages.source] ?? [];
    byId("sentence-examples").replaceChildren(
      ...examples.map((text) => chip(text, () => this.#take(text), { lang: this.languages.source })),
    );
    if (!this.input.value && examples.length) this.input.value = examples[0];
    this.#grow();
    this.#translate();
  }

  #take(text) {
    this.input.value = text;
    this.#grow();
    this.#translate();
  }

  #grow() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }

  async #translate() {
    const text = this.input.value.replace(/\s+/g, " ").trim();
    if (text === this.sent && this.running) return;
    this.running?.abort();
    this.running = null;
    this.sent = text;
    this.message.clear();
    if (!text) {
      this.#show(null);
      return;
    }
    const running = new AbortController();
    this.running = running;
    this.attention.fade();
    this.candidates.classList.add("stale");
    this.output.classList.add("writing");
    try {
      const options = { signal: running.signal, onWait: this.message.wait };
      for await (const line of this.api.stream("v1/translate", { text, ...ASKED }, options)) {
        this.message.clear();
        if (line.partial !== undefined) this.output.textContent = line.partial;
        if (line.translation) this.#show(line.translation);
      }
    } catch (error) {
      if (running.signal.aborted) return;
      this.#show(null);
      this.message.fail(error, [chip("Try again", () => this.#translate())]);
    } finally {
      if (this.running === running) {
        this.running = null;
        this.output.classList.remove("writing");
      }
    }
  }

  /** Shows a finished translation, or that there is none. */
  #show(translation) {
    const found = translation?.candidates ?? [];
    this.output.classList.remove("writing");
    this.candidates.classList.remove("stale");
    this.candidates.hidden = found.length < 2;
    this.candidates.querySelector(".list").replaceChildren(
      ...found.map((candidate, place) => this.#choice(translation, candidate, place)),
    );
    const unknown = translation?.unknown_words ?? [];
    this.unknown.hidden = !unknown.length;
    this.unknown.textContent = `New to this model, and copied where it could: ${unknown.join(", ")}`;
    this.marks.replaceChildren(...marked(this.input.value, unknown));
    this.confidence.textContent = inWords(translation);
    this.confidence.hidden = !this.confidence.textContent;
    this.said.textContent = found.length ? `Translation: ${translation.text}` : "";
    if (found.length) this.#choose(translation, found[0]);
    else {
      this.output.textContent = "";
      this.attention.show(null);
    }
  }

  #choose(translation, candidate) {
    this.output.textContent = candidate.text;
    if (!candidate.complete) this.output.append(element("span", { className: "cut" }, " … cut at the longest length"));
    this.attention.show(align(translation.source_tokens, candidate));
    // The confidence is of the best translation.
    this.confidence.hidden = !this.confidence.textContent || candidate !== translation.candidates[0];
  }

  #choice(translation, candidate, place) {
    const input = element("input", { type: "radio", name: "candidate", checked: place === 0 });
    input.addEventListener("change", () => this.#choose(translation, candidate));
    const share = Math.exp(Math.min(0, candidate.score));
    const bar = element("span", { className: "measure", "aria-hidden": "true" });
    bar.style.setProperty("--share", share.toFixed(3));
    return element(
      "label",
      { className: "candidate" },
      input,
      element("span", { className: "text", lang: this.languages.target }, candidate.text),
      bar,
      element("span", { className: "figure" }, figure(share)),
    );
  }
}

/** "French" for "fr"; a name stays as it is. */
function languageName(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}
