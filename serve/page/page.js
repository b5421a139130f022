// The page's start: asks what is served here and opens the panels for it.

import { Api } from "./api.js";
import { byId, element } from "./dom.js";
import { openSearch } from "./search.js";
import { openTranslator } from "./translate.js";

const api = new Api(askKey);

/** Shows the field for a key and resolves with what was entered. */
function askKey(refused) {
  const form = byId("key-form");
  const input = byId("key");
  byId("key-note").textContent = refused ? "That key was not accepted." : "It is kept until this tab is closed.";
  form.hidden = false;
  input.value = "";
  input.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      resolve(input.value.trim());
    };
  });
}

async function start() {
  const banner = byId("unreachable");
  banner.hidden = true;
  try {
    const { translator, search } = await api.get("v1/models", { onWait: tellWait });
    banner.hidden = true;
    document.querySelector("main").hidden = false; // before: what is measured must be laid out
    open("translator", translator, (about) => openTranslator(api, about));
    open("search", search, () => openSearch(api));
    tellServed(translator, search);
  } catch (error) {
    const again = element("button", { type: "button", onclick: start }, "Try again");
    banner.replaceChildren(element("p", {}, error.message), again);
    banner.hidden = false;
  }
}

function tellWait(seconds) {
  const banner = byId("unreachable");
  banner.replaceChildren(element("p", {}, `The server is not ready yet. Asking again in ${seconds} s.`));
  banner.hidden = false;
}

function open(id, application, opener) {
  const panel = byId(id);
  const version = application?.versions?.[0];
  panel.querySelector(".content").hidden = !version;
  panel.querySelector(".absent").hidden = Boolean(version);
  if (version) opener(version.about ?? {});
}

function tellServed(translator, search) {
  const told = [];
  for (const [name, application] of [["Translator", translator], ["Collection", search]]) {
    const versions = application?.versions?.map((version) => version.name) ?? [];
    if (versions.length) told.push(`${name}: ${versions.join(", ")}`);
  }
  const items = search?.versions?.[0]?.about?.items;
  if (items !== undefined) told.push(`${items.toLocaleString("en")} pictures`);
  byId("served").textContent = told.join(" · ");
  const attribution = search?.versions?.[0]?.about?.attribution;
  byId("attribution").hidden = !attribution;
  byId("attribution").textContent = [attribution ?? ""].flat().join("; ");
}

start();
