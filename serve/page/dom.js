// Small helpers for making elements and for figures; nothing here knows of the panels.

/** An element with properties (or attributes, where there is no such property) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** "97 %" */
export const percent = (share) => `${Math.round(100 * share)}\u202f%`;

/** "0.73", with a real minus sign */
export const figure = (number) => number.toFixed(2).replace("-", "\u2212");

/** Calls `action` once `milliseconds` after the last call; `now()` calls it at once. */
export function debounced(action, milliseconds) {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
  later.now = () => {
    clearTimeout(timer);
    action();
  };
  return later;
}

/** A button that looks like a chip and calls `action`. */
export function chip(text, action, properties = {}) {
  return element("button", { type: "button", className: "chip", onclick: action, ...properties }, text);
}
