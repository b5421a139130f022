// The attention of a translation, as lines or as a heat map; both answer to hovering and focus.
//
// A view draws the words as buttons with data-side and data-index, and may mark cells with
// data-row and data-column. All else stands here: which word is active, moving between words by
// arrow keys (each row of words is one tab stop), and saying the weights in words.

import { partners } from "./alignment.js";
import { byId, percent } from "./dom.js";
import { HeatMap } from "./heatmap.js";
import { Lines } from "./lines.js";

const HINT = "Point at a word, or move to it with Tab and the arrow keys.";
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

export class Attention {
  /** @param {{source: string, target: string}} languages their codes, for lang attributes */
  constructor(languages) {
    this.root = byId("alignment");
    this.stage = byId("stage");
    this.caption = byId("partners");
    this.languages = languages;
    this.alignment = null;
    this.view = new Lines(this.stage, languages);
    for (const input of this.root.querySelectorAll("input[name=view]")) {
      input.addEventListener("change", () => this.#change(input.value));
    }
    this.stage.addEventListener("pointerover", (event) => this.#activate(event.target));
    this.stage.addEventListener("focusin", (event) => this.#activate(event.target));
    this.stage.addEventListener("click", (event) => this.#activate(event.target));
    this.stage.addEventListener("pointerleave", () => this.#activate(document.activeElement));
    this.stage.addEventListener("focusout", () => this.#activate(null));
    this.stage.addEventListener("keydown", (event) => this.#move(event));
    new ResizeObserver(() => this.alignment && this.view.fit()).observe(this.stage);
  }

  /** Draws an alignment (alignment.js); null hides all. */
  show(alignment) {
    this.alignment = alignment;
    this.root.hidden = alignment === null;
    this.root.classList.remove("stale");
    if (alignment) this.view.draw(alignment);
    this.#activate(null);
  }

  /** Marks what is shown as belonging to the sentence before. */
  fade() {
    this.root.classList.add("stale");
  }

  #change(name) {
    this.view = name === "heat" ? new HeatMap(this.stage, this.languages) : new Lines(this.stage, this.languages);
    this.show(this.alignment);
  }

  #activate(target) {
    const word = target?.closest?.("[data-side]");
    const cell = target?.closest?.("[data-column]");
    if (!this.alignment) return;
    if (this.stage.contains(word)) this.#highlightWord(word.dataset.side, Number(word.dataset.index));
    else if (this.stage.contains(cell)) this.#highlightCell(Number(cell.dataset.row), Number(cell.dataset.column));
    else {
      this.view.highlight(null);
      this.caption.textContent = HINT;
    }
  }

  #highlightWord(side, index) {
    const found = partners(this.alignment, side, index);
    this.view.highlight({ side, index, partners: found });
    const told = found.filter(({ weight }) => weight >= 0.02).slice(0, 4)
      .map(({ word, weight }) => `${word} ${percent(weight)}`).join(", ");
    const arrow = side === "target" ? "from" : "to";
    this.caption.textContent = `${this.alignment[side][index]}: ${told ? `${arrow} ${told}` : "no word attends to it"}`;
  }

  #highlightCell(row, column) {
    const { source, target, weights } = this.alignment;
    const weight = weights[row][column];
    this.view.highlight({ side: "target", index: row, column, partners: partners(this.alignment, "target", row) });
    this.caption.textContent = `${target[row]}: from ${source[column]} ${percent(weight)}`;
  }

  #move(event) {
    const word = event.target.closest("[data-side]");
    if (!word) return;
    const row = [...this.stage.querySelectorAll(`[data-side=${word.dataset.side}]`)];
    const here = row.indexOf(word);
    const there = event.key === "Home" ? 0 : event.key === "End" ? row.length - 1 : here + (STEPS[event.key] ?? NaN);
    const next = row[there];
    if (Number.isNaN(there)) return;
    event.preventDefault();
    if (!next) return;
    word.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
