// The engine as it is now, read from /metrics every two seconds while the page is looked at.

import { getText, inWords } from "./api.js";
import { make, percent } from "./dom.js";

const SECONDS = 2;
const KEPT = 60;
const LINE = /^(\w+)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const SVG = "http://www.w3.org/2000/svg";

// Samples of Prometheus' text format, [{name, labels, value}], buckets left out.
export const parse = (text) => {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") || line.includes("_bucket{") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
};

// What a person wants to know of the samples, for all models together or for one.
export const summary = (samples, model = null) => {
  const some = (name) => samples.filter((one) => one.name === `quartet_${name}` && (!model || one.labels.model === model));
  const sum = (name) => some(name).reduce((total, one) => total + one.value, 0);
  return {
    running: sum("requests_running"),
    waiting: sum("requests_waiting"),
    cache: Math.max(0, ...some("kv_cache_usage_ratio").map((one) => one.value)),
    computed: sum("batch_tokens_sum"),
    requests: sum("requests_total"),
  };
};

const rate = (now, before, seconds) => (before ? Math.max(0, (now.computed - before.computed) / seconds) : 0);
const whole = (value) => Math.round(value).toLocaleString("en");

export class EngineView {
  isServed = true;
  #models = [];
  #last = null;
  #history = [];
  #timer = 0;

  constructor() {
    this.body = make("tbody");
    this.line = document.createElementNS(SVG, "polyline");
    this.most = make("span", {}, "0");
    const chart = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({
      viewBox: `0 0 ${KEPT - 1} 40`, preserveAspectRatio: "none", role: "img", "aria-label": "Tokens computed per second over the last two minutes",
    })) chart.setAttribute(name, value);
    chart.append(this.line);
    this.message = make("p", { class: "status muted", role: "status" });
    const heads = ["Model", "Running", "Waiting", "Cache", "Tokens/s", "Requests"];
    this.node = make("section", { id: "panel-engine", role: "tabpanel", "aria-labelledby": "tab-engine", hidden: true },
      make("p", { class: "lead" }, "What the engine is doing now. An adapter's tokens count with its base, in whose steps they are computed."),
      make("figure", { class: "chart" }, make("figcaption", {}, "Tokens computed per second over the last two minutes, at most ", this.most), chart),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "By model" },
        make("table", { class: "models" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
          this.body)),
      this.message);
    document.addEventListener("visibilitychange", () => this.watch());
  }

  refresh() {}

  tell() {}

  show(models) {
    this.#models = models.map((one) => one.id);
    this.watch();
  }

  watch() {
    clearTimeout(this.#timer);
    if (document.hidden || !this.#models.length) return;
    this.#poll().finally(() => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.watch(), 1000 * SECONDS);
    });
  }

  async #poll() {
    try {
      this.#draw(parse(await getText("metrics")), performance.now() / 1000);
      this.message.textContent = "";
    } catch (error) {
      this.#last = null;
      this.message.textContent = inWords(error);
      for (const name of ["running", "waiting", "cache", "tokens"]) document.getElementById(`strip-${name}`).textContent = "–";
    }
  }

  #draw(samples, time) {
    const last = this.#last;
    const seconds = last ? Math.max(0.1, time - last.time) : 1;
    const all = summary(samples);
    const rows = new Map(this.#models.map((id) => [id, summary(samples, id)]));
    const speed = rate(all, last?.all, seconds);
    this.#history = [...this.#history, speed].slice(-KEPT);
    this.#last = { all, rows, time };
    const strip = { running: whole(all.running), waiting: whole(all.waiting), cache: percent(all.cache, 0), tokens: whole(speed) };
    for (const [name, text] of Object.entries(strip)) document.getElementById(`strip-${name}`).textContent = text;
    this.body.replaceChildren(...[...rows].map(([id, row]) => make("tr", {}, make("th", { scope: "row" }, id),
      ...[whole(row.running), whole(row.waiting), percent(row.cache, 0), whole(rate(row, last?.rows.get(id), seconds)), whole(row.requests)]
        .map((text) => make("td", {}, text)))));
    const most = Math.max(1, ...this.#history);
    this.most.textContent = whole(Math.max(...this.#history));
    const first = KEPT - this.#history.length;
    this.line.setAttribute("points", this.#history.map((value, i) => `${first + i},${39 - (38 * value) / most}`).join(" "));
  }
}
