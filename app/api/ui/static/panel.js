// One tab's panel: a form on one side, the answer on the other, and the same request as code below.
//
// What a panel does is told by a definition:
//   id, title, lead, action   names, and what the button says
//   wanted                    what kind of checkpoint would serve it
//   tasks                     any of these served makes the tab active
//   task(values)              which of them the model select is about
//   rows                      fields, or rows of fields (dom.js)
//   adapt(controls, model, served)   what depends on the model; optional
//   request(values)           {path, body} without the model, or null where there is nothing to send
//   show(answer, body)        a node for the answer, or
//   begin(output, body)       {add(event), end()} for a stream
//   extras(panel)             nodes that stand below the answer; optional

import { inWords, key, post, stream } from "./api.js";
import { LANGUAGES } from "./code.js";
import { fill, make, selectField } from "./dom.js";

export const shared = { models: [], defaults: {}, needsKey: () => {}, language: "curl", panels: [] };

export class Panel {
  constructor(definition) {
    this.definition = definition;
    this.fields = definition.rows.flatMap((one) => one.fields ?? [one]);
    this.controls = Object.fromEntries(this.fields.map((one) => [one.name, one.control]));
    this.controller = null;
    this.node = make("section", {
      id: `panel-${definition.id}`, role: "tabpanel", "aria-labelledby": `tab-${definition.id}`, hidden: true,
    }, make("p", { class: "lead" }, definition.lead), this.#form(), this.#code(), this.#notice());
    this.refresh();
  }

  get isServed() {
    return this.definition.tasks.some((task) => shared.models.some((one) => one.tasks.includes(task)));
  }

  // The models that came, or what was typed, decide what can be chosen and what the code says.
  refresh() {
    const isMissing = shared.models.length > 0 && !this.isServed;
    this.form.hidden = this.code.hidden = isMissing;
    this.notice.hidden = !isMissing;
    this.definition.adapt?.(this.controls, this.#model(), shared.models);
    const task = this.definition.task?.(this.#values()) ?? this.definition.tasks[0];
    const able = shared.models.filter((one) => one.tasks.includes(task)).map((one) => one.id);
    const first = shared.defaults[task];
    const sorted = able.includes(first) ? [first, ...able.filter((one) => one !== first)] : able;
    fill(this.model, sorted.map((one) => [one, one]));
    this.definition.adapt?.(this.controls, this.#model(), shared.models);
    this.tell();
  }

  // The code of the request as the form has it.
  tell() {
    const request = this.#request();
    if (!request) return;
    const url = new URL(request.path, document.baseURI).href;
    this.listing.textContent = LANGUAGES[shared.language](url, request.body, key.get() !== "");
    for (const radio of this.radios) radio.checked = radio.value === shared.language;
  }

  async run() {
    const request = this.#request();
    if (!request) return;
    const { definition, output } = this;
    this.tell();
    this.controller = new AbortController();
    this.#setBusy(true);
    const started = performance.now();
    try {
      const usage = definition.begin
        ? await this.#follow(request, definition.begin(output, request.body))
        : await this.#ask(request);
      this.#say(`${told(usage)}${Math.round(performance.now() - started)} ms`);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.controller = null;
      this.#setBusy(false);
    }
  }

  stop() {
    this.controller?.abort();
  }

  async #ask({ path, body }) {
    const answer = await post(path, body, this.controller.signal);
    this.output.replaceChildren(this.definition.show(answer, body));
    return answer.usage;
  }

  async #follow({ path, body }, view) {
    let usage = null;
    try {
      for await (const event of stream(path, body, this.controller.signal)) {
        view.add(event);
        usage = event.usage ?? usage;
        this.output.scrollTop = this.output.scrollHeight;
      }
    } finally {
      view.end?.();
    }
    return usage;
  }

  #fail(error) {
    if (error.name === "AbortError") {
      this.#say("Stopped.");
      return;
    }
    if (error.status === 401) shared.needsKey(inWords(error));
    if (!this.definition.begin) this.output.replaceChildren();
    this.output.append(make("p", { class: "error", role: "alert" }, inWords(error)));
    this.output.scrollTop = this.output.scrollHeight;
    this.#say("");
  }

  #request() {
    const request = this.definition.request(this.#values());
    if (!request) return null;
    const body = { model: this.#model()?.id, ...request.body };
    return { path: request.path, body: JSON.parse(JSON.stringify(body)) }; // what is undefined is left out
  }

  #values() {
    return Object.fromEntries(this.fields.map((one) => [one.name, one.read()]));
  }

  #model() {
    return shared.models.find((one) => one.id === this.model.value);
  }

  #setBusy(isBusy) {
    this.output.setAttribute("aria-busy", String(isBusy));
    this.button.textContent = isBusy ? "Stop" : this.definition.action;
    this.button.classList.toggle("stop", isBusy);
    if (isBusy) this.#say("…");
  }

  #say(text) {
    this.status.textContent = text;
  }

  #form() {
    const { definition } = this;
    const model = selectField("model", "Model");
    this.model = model.control;
    this.button = make("button", { type: "submit" }, definition.action);
    this.output = make("div", {
      class: "output", tabindex: "0", role: "region", "aria-label": "Answer", "aria-live": "polite", "aria-busy": "false",
    });
    this.status = make("p", { class: "status muted", role: "status" });
    this.form = make("form", {
      class: "work", novalidate: true,
      submit: (event) => {
        event.preventDefault();
        if (this.controller) this.stop();
        else this.run();
      },
      input: () => this.refresh(),
      keydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
        if (event.key === "Escape") this.stop();
      },
    },
    make("div", { class: "side" }, ...definition.rows.map((one) => one.node), model.node,
      make("div", { class: "actions" }, this.button,
        make("span", { class: "muted" }, make("kbd", {}, "Ctrl"), " ", make("kbd", {}, "Enter")))),
    make("div", { class: "side" }, make("h2", {}, "Answer"), this.output, this.status, ...(definition.extras?.(this) ?? [])));
    return this.form;
  }

  #code() {
    const name = `language-${this.definition.id}`;
    this.listing = make("pre");
    this.radios = Object.keys(LANGUAGES).map((language) => make("input", {
      type: "radio", name, value: language,
      change: () => {
        shared.language = language;
        for (const panel of shared.panels) panel.tell();
      },
    }));
    const copy = make("button", {
      type: "button", class: "plain",
      click: async () => {
        await navigator.clipboard.writeText(this.listing.textContent);
        copy.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, 1500);
      },
    }, "Copy");
    this.code = make("section", { class: "code", "aria-label": "The same request as code" },
      make("div", { class: "bar-of-code" }, make("fieldset", {}, make("legend", { class: "hidden" }, "The same request as"),
        ...this.radios.map((radio) => make("label", { class: "choice" }, radio, radio.value))), copy),
      this.listing);
    return this.code;
  }

  #notice() {
    const { wanted } = this.definition;
    this.notice = make("div", { class: "notice", hidden: true },
      make("p", {}, `No served model can do this. It takes ${wanted}.`),
      make("p", { class: "muted" }, "Start the service with one: ", make("code", {}, "quartet serve --model NAME=PATH"), ", or ",
        make("code", {}, "--model NAME=ORG/REPO"), " from the hub."));
    return this.notice;
  }
}

const told = (usage) => {
  if (!usage) return "";
  const made = usage.completion_tokens ? `, ${usage.completion_tokens} generated` : "";
  return `${usage.prompt_tokens} tokens read${made}, `;
};
