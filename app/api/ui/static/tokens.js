// Generated text, token by token: how likely each was, and what else could have stood there.

import { bars, make } from "./dom.js";

const FULL_SHADE = 8; // nats of surprise: one chance in three thousand
const HINT = "Shaded words were less likely. Point at one, or go through them with the arrow keys, to see what else "
  + "could have stood there.";

export class Inspector {
  constructor() {
    this.node = make("div", { class: "inspector", "aria-live": "polite" });
    this.clear();
  }

  clear(text = HINT) {
    this.node.replaceChildren(make("p", { class: "muted" }, text));
  }

  tell(tokens) {
    const [token] = tokens;
    const others = token.top.filter((one) => one.token !== token.token);
    const rows = [token, ...others].slice(0, 5).map((one) => [visible(one.token), Math.exp(one.logprob)]);
    this.node.replaceChildren(bars(rows));
  }
}

// Tokens are {token, logprob, top: [{token, logprob}]}. A text of several tokens, such as a character that takes two,
// is told by the first of them.
export class TokenText {
  constructor(inspector) {
    this.inspector = inspector;
    this.text = "";
    this.node = make("span", {
      class: "tokens",
      pointerover: (event) => this.#choose(event.target.closest(".token")),
      click: (event) => this.#choose(event.target.closest(".token")),
      focusin: (event) => this.#choose(event.target.closest(".token")),
    });
    this.told = new Map();
    this.pending = [];
  }

  add(text, tokens = []) {
    this.text += text;
    const known = [...this.pending, ...tokens];
    this.pending = text ? [] : known;
    if (!text) return;
    if (!known.length) this.node.append(text);
    else if (known.map((one) => one.token).join("") === text) for (const one of known) this.#append(one.token, [one]);
    else this.#append(text, known);
  }

  move(step) {
    const all = [...this.node.querySelectorAll(".token")];
    const at = all.indexOf(document.activeElement);
    all[at < 0 ? 0 : Math.max(0, Math.min(all.length - 1, at + step))]?.focus();
  }

  #append(text, tokens) {
    const span = make("span", { class: "token", tabindex: "-1" }, text);
    span.style.setProperty("--part", Math.min(1, -tokens[0].logprob / FULL_SHADE));
    this.told.set(span, tokens);
    this.node.append(span);
  }

  #choose(span) {
    if (!span) return;
    this.node.querySelector(".chosen")?.classList.remove("chosen");
    span.classList.add("chosen");
    this.inspector.tell(this.told.get(span));
  }
}

const visible = (token) => (token.trim() === "" ? JSON.stringify(token) : token.trim());
