// Attention as curves between the words of two rows; between two columns where rows do not fit.

import { element, percent } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const FAINTEST = 0.04; // a weight below this has no curve
const NAMED = 0.02; // a partner below this shows no figure

export class Lines {
  constructor(stage, languages) {
    this.stage = stage;
    this.languages = languages;
  }

  draw(alignment) {
    this.alignment = alignment;
    this.source = this.#row("source", "Words of the sentence", alignment.source);
    this.target = this.#row("target", "Words of the translation", alignment.target);
    if (alignment.hasEnd) this.source.lastChild.classList.add("end");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.box = element("div", { className: "lines" }, this.source, this.target, this.svg);
    this.stage.replaceChildren(this.box);
    this.fit();
  }

  /** Rows of large words, of small ones, or columns: what there is room for; then the curves. */
  fit() {
    const fitting = ["large", "small"].find((size) => {
      this.box.className = `lines ${size}`;
      return Math.max(this.source.offsetWidth, this.target.offsetWidth) <= this.box.clientWidth;
    });
    if (!fitting) this.box.className = "lines tall";
    this.#curves(!fitting);
    this.highlight(this.active ?? null);
  }

  /** `active`: {side, index, partners}, or null for none. */
  highlight(active) {
    this.active = active;
    this.box.classList.toggle("focused", active !== null);
    for (const button of this.box.querySelectorAll(".word")) {
      const { side, index } = button.dataset;
      const own = active?.side === side && active.index === Number(index);
      const partner = active && active.side !== side && active.partners.find((one) => one.index === Number(index));
      const weight = partner && partner.weight >= NAMED ? partner.weight : 0;
      button.classList.toggle("active", own);
      button.classList.toggle("partner", weight > 0);
      button.style.setProperty("--weight", weight.toFixed(3));
      button.lastChild.textContent = weight ? percent(weight) : "";
    }
    for (const curve of this.svg.children) {
      curve.classList.toggle("lit", active !== null && Number(curve.dataset[active.side]) === active.index);
    }
  }

  #row(side, label, words) {
    const buttons = words.map((word, index) =>
      element(
        "button",
        { type: "button", className: "word", tabIndex: index ? -1 : 0, dataset: { side, index } },
        element("span", {}, word),
        element("span", { className: "weight" }),
      ),
    );
    const lang = this.languages[side];
    return element("div", { className: `words-${side}`, role: "group", "aria-label": label, lang }, ...buttons);
  }

  #curves(tall) {
    const frame = this.box.getBoundingClientRect();
    const from = [...this.source.children].map((word) => anchor(word, frame, tall ? "right" : "bottom"));
    const to = [...this.target.children].map((word) => anchor(word, frame, tall ? "left" : "top"));
    const curves = [];
    this.alignment.weights.forEach((row, target) =>
      row.forEach((weight, source) => {
        if (weight >= FAINTEST) curves.push(curve(from[source], to[target], tall, { weight, source, target }));
      }),
    );
    curves.sort((one, other) => one.dataset.weight - other.dataset.weight); // the heaviest on top
    this.svg.replaceChildren(...curves);
  }
}

function anchor(word, frame, edge) {
  const box = word.getBoundingClientRect();
  const x = { right: box.right, left: box.left }[edge] ?? (box.left + box.right) / 2;
  const y = { bottom: box.bottom, top: box.top }[edge] ?? (box.top + box.bottom) / 2;
  return { x: x - frame.left, y: y - frame.top };
}

function curve(from, to, tall, data) {
  const path = document.createElementNS(SVG, "path");
  const middle = tall ? (from.x + to.x) / 2 : (from.y + to.y) / 2;
  const first = tall ? `${middle} ${from.y}` : `${from.x} ${middle}`;
  const second = tall ? `${middle} ${to.y}` : `${to.x} ${middle}`;
  path.setAttribute("d", `M${from.x} ${from.y}C${first} ${second} ${to.x} ${to.y}`);
  path.setAttribute("stroke-width", (0.75 + 3 * data.weight).toFixed(2));
  path.setAttribute("stroke-opacity", (0.12 + 0.88 * data.weight).toFixed(2));
  Object.assign(path.dataset, data);
  return path;
}
