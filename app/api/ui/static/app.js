// The page: tabs, the key, what is served.

import { get, inWords, key } from "./api.js";
import { make } from "./dom.js";
import { EngineView } from "./engine.js";
import { chat, generate, summarize } from "./generation.js";
import { Panel, shared } from "./panel.js";
import { answer, classify, embed, entities, fillMask, rerank, translate } from "./tasks.js";

const AGAIN_MS = 2000;
const DEFINITIONS = [generate, chat, translate, summarize, classify, answer, entities, fillMask, embed, rerank];
const byId = (id) => document.getElementById(id);

const engine = new EngineView();
shared.panels = DEFINITIONS.map((definition) => new Panel(definition));
const pages = [...shared.panels.map((panel) => [panel.definition, panel]), [{ id: "engine", title: "Engine" }, engine]];

const select = (id, isMoved = false) => {
  for (const [one, panel] of pages) {
    const isChosen = one.id === id;
    const tab = byId(`tab-${one.id}`);
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    panel.node.hidden = !isChosen;
    if (isChosen && isMoved) {
      tab.focus();
      tab.scrollIntoView({ block: "nearest", inline: "center" });
    }
  }
  history.replaceState(null, "", `#${id}`);
};

const move = (event) => {
  const ids = pages.map(([one]) => one.id);
  const at = ids.findIndex((id) => byId(`tab-${id}`).tabIndex === 0);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  select(ids[(to + ids.length) % ids.length], true);
};

const tabs = byId("tabs");
tabs.append(...pages.map(([{ id, title }]) => make("button", {
  type: "button", id: `tab-${id}`, role: "tab", "aria-controls": `panel-${id}`, tabindex: "-1", click: () => select(id, true),
}, title)));
tabs.addEventListener("keydown", move);
byId("panels").replaceChildren(...pages.map(([, panel]) => panel.node));

const fromHash = () => {
  const id = location.hash.slice(1);
  select(pages.some(([one]) => one.id === id) ? id : "generate");
};
window.addEventListener("hashchange", fromHash);
fromHash();

const load = async () => {
  try {
    const [{ data }, info] = await Promise.all([get("v1/models"), get("info")]);
    shared.models = data;
    shared.defaults = info.default_models;
    byId("served").textContent = `${data.length} ${data.length === 1 ? "model" : "models"} on ${info.device}, version ${info.version}`;
  } catch (error) {
    byId("served").textContent = inWords(error);
    if (error.status === 401) shared.needsKey(inWords(error));
    else setTimeout(load, AGAIN_MS);
    return;
  }
  byId("key-button").hidden = key.get() === "";
  for (const [{ id, title }, panel] of pages) {
    panel.refresh();
    byId(`tab-${id}`).classList.toggle("missing", !panel.isServed);
    byId(`tab-${id}`).replaceChildren(title, ...(panel.isServed ? [] : [make("span", { class: "hidden" }, ", not served")]));
  }
  engine.show(shared.models);
};

const dialog = byId("key-dialog");
shared.needsKey = (message) => {
  byId("key-button").hidden = false;
  byId("key-message").textContent = message;
  byId("key").value = key.get();
  if (!dialog.open) dialog.showModal();
};
byId("key-button").addEventListener("click", () => shared.needsKey(""));
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  dialog.close();
  load();
});

load();
