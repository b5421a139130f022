// Attention as a table: a row for each word of the translation, a column for each of the sentence.

import { element, percent } from "./dom.js";

export class HeatMap {
  constructor(stage, languages) {
    this.stage = stage;
    this.languages = languages;
  }

  draw({ source, target, weights, hasEnd }) {
    const head = source.map((word, index) => header("source", word, index, this.languages.source));
    if (hasEnd) head.at(-1).classList.add("end");
    const rows = target.map((word, row) =>
      element("tr", {}, header("target", word, row, this.languages.target), ...weights[row].map((weight, column) => cell(weight, row, column))),
    );
    this.table = element(
      "table",
      { className: "heat" },
      element("caption", { className: "visually-hidden" }, "Weight in percent of each word of the sentence (columns) for each word of the translation (rows)"),
      element("thead", {}, element("tr", {}, element("td"), ...head)),
      element("tbody", {}, ...rows),
    );
    this.table.style.setProperty("--columns", source.length);
    this.stage.replaceChildren(
      element("div", { className: "scroller", tabIndex: 0, role: "region", "aria-label": "Heat map of the attention" }, this.table),
    );
  }

  /** A table lays itself out. */
  fit() {}

  /** `active`: {side, index, partners, column?}, or null for none. */
  highlight(active) {
    this.table.classList.toggle("focused", active !== null);
    for (const button of this.table.querySelectorAll(".word")) {
      const { side, index } = button.dataset;
      const own = active?.side === side && active.index === Number(index);
      const partner = active && active.side !== side && active.partners.find((one) => one.index === Number(index));
      const weight = partner && partner.weight >= 0.02 ? partner.weight : 0;
      button.classList.toggle("active", own || (side === "source" && active?.column === Number(index)));
      button.classList.toggle("partner", weight > 0);
      button.style.setProperty("--weight", weight.toFixed(3));
    }
    for (const one of this.table.querySelectorAll("[data-column]")) {
      const { row, column } = one.dataset;
      const place = active?.side === "target" ? row : column;
      one.classList.toggle("lit", active !== null && Number(place) === active.index);
    }
  }
}

function header(side, word, index, lang) {
  const button = element("button", { type: "button", className: "word", tabIndex: index ? -1 : 0, dataset: { side, index }, lang }, word);
  return element("th", { scope: side === "source" ? "col" : "row" }, button);
}

function cell(weight, row, column) {
  const made = element("td", { dataset: { row, column }, title: percent(weight) }, element("span", {}, String(Math.round(100 * weight))));
  made.style.setProperty("--weight", weight.toFixed(3));
  made.classList.toggle("strong", weight > 0.5);
  return made;
}
