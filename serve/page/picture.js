// The picture that is searched by, beneath the search field: what it is (its nearest words, each a
// search), and for a picture of the user's the form that adds it to the collection.

import { imagePath } from "./api.js";
import { chip, element, figure } from "./dom.js";

const KINDS = [
  ["labels", "the names it was trained on"],
  ["classes", "ImageNet\u2019s classes"],
  ["wordnet", "all nouns"],
];
const WORDS = 6;

export class Picture {
  /** @param actions {search(word), add(file, name) -> Promise<boolean>, close()} */
  constructor(box, api, actions) {
    this.box = box;
    this.api = api;
    this.actions = actions;
    this.running = null;
    this.candidates = KINDS[0][0];
  }

  /** @param query {kind: "like", id, name} or {kind: "image", file} */
  show(query) {
    this.hide();
    this.query = query;
    const name = query.kind === "like" ? query.name ?? query.id : query.file.name || "pasted picture";
    const img = element("img", { alt: name, width: 96, height: 96 });
    if (query.kind === "like") this.api.showImage(img, imagePath(query.id));
    else {
      this.url = URL.createObjectURL(query.file);
      img.onerror = () => img.classList.add("missing");
      img.src = this.url;
    }
    this.words = element("div", { className: "chips", "aria-live": "polite" });
    const close = element("button", { type: "button", className: "remove", "aria-label": "Put this picture away", title: "Put this picture away", onclick: this.actions.close }, "\u00d7");
    const told = element("div", {}, element("h3", {}, name), this.#among(), this.words);
    if (query.kind === "image") told.append(this.#adder(query.file, name));
    this.box.replaceChildren(img, told, close);
    this.box.hidden = false;
    this.#classify();
  }

  hide() {
    this.running?.abort();
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
    this.box.hidden = true;
    this.box.replaceChildren();
  }

  #among() {
    const select = element("select", {}, ...KINDS.map(([value, text]) => element("option", { value }, text)));
    select.value = this.candidates;
    select.addEventListener("change", () => {
      this.candidates = select.value;
      this.#classify();
    });
    return element("label", { className: "among" }, "It looks like, among ", select);
  }

  async #classify() {
    this.running?.abort();
    const running = new AbortController();
    this.running = running;
    const { words } = this;
    words.setAttribute("aria-busy", "true");
    const asked = this.query.kind === "like" ? { id: this.query.id } : { file: this.query.file };
    try {
      const found = await this.api.upload("v1/classify", { ...asked, k: WORDS, candidates: this.candidates }, { signal: running.signal });
      words.replaceChildren(...found.words.map((word) => this.#word(word)));
    } catch (error) {
      if (!running.signal.aborted) words.replaceChildren(element("p", { className: "note" }, error.message));
    } finally {
      if (!running.signal.aborted) words.removeAttribute("aria-busy");
    }
  }

  #word({ word, score }) {
    return chip(word, () => this.actions.search(word), { title: `Score ${figure(score)}; search for it` });
  }

  #adder(file, name) {
    const input = element("input", { type: "text", value: name.replace(/\.[a-z0-9]+$/i, "").replaceAll(/[_-]+/g, " "), required: true, maxLength: 200, autocomplete: "off" });
    const button = element("button", { type: "submit" }, "Add to the collection");
    const form = element("form", { className: "adder" }, element("label", {}, element("span", {}, "Its name"), input), button);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      const added = await this.actions.add(file, input.value.trim());
      button.disabled = false;
      if (!added) return;
      form.remove();
      this.box.querySelector(".remove").focus();
    });
    return form;
  }
}
