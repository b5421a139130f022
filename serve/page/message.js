// What a panel says about itself in words: an error, a wait, something done that can be undone.
// An error is announced at once (role=alert), the rest when the reader has time (role=status).

import { element } from "./dom.js";

export class Message {
  /** @param {HTMLElement} box an empty element, hidden while there is nothing to say */
  constructor(box) {
    this.box = box;
  }

  /** Says `text`; `actions` are buttons beneath it. */
  say(text, actions = [], kind = "status") {
    // The role must stand before the text comes, or readers do not announce it.
    this.box.setAttribute("role", kind === "error" ? "alert" : "status");
    this.box.classList.toggle("error", kind === "error");
    this.box.hidden = false;
    this.box.replaceChildren(element("p", {}, text));
    if (actions.length) this.box.append(element("div", { className: "chips" }, ...actions));
  }

  /** Says what went wrong. A request that was given up is no error. */
  fail(error, actions = []) {
    if (error.name === "AbortError") return;
    this.say(error.message, actions, "error");
  }

  wait = (seconds) => {
    const time = seconds === 1 ? "a second" : `${seconds} seconds`;
    this.say(`The server is busy. Trying again in ${time}.`);
  };

  clear() {
    this.box.hidden = true;
    this.box.replaceChildren();
  }
}
