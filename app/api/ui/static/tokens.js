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

  // What was written, and where that is one token, its rivals.
  tell(text, tokens) {
    const others = tokens.length > 1 ? [] : tokens[0].top.filter((one) => one.token !== tokens[0].token);
    const written = { token: text, logprob: total(tokens) };
    const rows = [written, ...others].slice(0, 5).map((one) => [visible(one.token), Math.exp(one.logprob)]);
    this.node.replaceChildren(bars(rows));
  }
}

// Tokens are {token, logprob, top: [{token, logprob}]}. A character of several tokens is one piece, as likely as all of
// them together.
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
  }

  // A piece of text as it came, with its tokens. What has no text, such as the token that ends it, is not shown.
  add(text, tokens = []) {
    this.text += text;
    let rest = text;
    const joint = [];
    for (const one of tokens) {
      if (joint.length || !one.token || !rest.startsWith(one.token)) {
        joint.push(one);
        continue;
      }
      this.#append(one.token, [one]);
      rest = rest.slice(one.token.length);
    }
    if (rest && joint.length) this.#append(rest, joint);
    else this.node.append(rest);
  }

  move(step) {
    const all = [...this.node.querySelectorAll(".token")];
    const at = all.indexOf(document.activeElement);
    all[at < 0 ? 0 : Math.max(0, Math.min(all.length - 1, at + step))]?.focus();
  }

  #append(text, tokens) {
    const span = make("span", { class: "token", tabindex: "-1" }, text);
    span.style.setProperty("--part", Math.min(1, -total(tokens) / FULL_SHADE));
    this.told.set(span, tokens);
    this.node.append(span);
  }

  #choose(span) {
    if (!span) return;
    this.node.querySelector(".chosen")?.classList.remove("chosen");
    span.classList.add("chosen");
    this.inspector.tell(span.textContent, this.told.get(span));
  }
}

const total = (tokens) => tokens.reduce((sum, one) => sum + one.logprob, 0);
const visible = (token) => (token.trim() === "" ? JSON.stringify(token) : token.trim());
