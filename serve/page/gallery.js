// The pictures that were found, as a list of cards: each is searched by when clicked, and can be
// deleted. A card's bar is its score, 0 to 1.

import { element, figure } from "./dom.js";

export class Gallery {
  /** @param actions {like(match), remove(match)} */
  constructor(list, api, actions) {
    this.list = list;
    this.api = api;
    this.actions = actions;
  }

  show(matches) {
    this.list.replaceChildren(...matches.map((match) => this.#card(match)));
  }

  busy(waiting) {
    this.list.setAttribute("aria-busy", String(waiting));
  }

  #card(match) {
    const name = nameOf(match);
    const img = element("img", { alt: "", width: 128, height: 128, loading: "lazy", decoding: "async" });
    this.api.showImage(img, match.image);
    const bar = element("span", { className: "measure", "aria-hidden": "true" });
    bar.style.setProperty("--share", Math.max(0, match.score).toFixed(3));
    const like = element(
      "button",
      { type: "button", className: "like", title: `More like ${name}`, onclick: () => this.actions.like(match) },
      img,
      bar,
      element("span", { className: "name" }, name),
      element("span", { className: "figure" }, figure(match.score)),
      element("span", { className: "visually-hidden" }, ": more like this"),
    );
    const remove = element(
      "button",
      { type: "button", className: "remove", title: `Delete ${name}`, "aria-label": `Delete ${name}`, onclick: () => this.actions.remove(match) },
      "\u00d7",
    );
    return element("li", { dataset: { id: match.id } }, like, remove);
  }
}

export const nameOf = ({ id, metadata }) => String(metadata?.name ?? metadata?.label ?? id);
