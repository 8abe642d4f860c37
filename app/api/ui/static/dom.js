// Elements, the fields of a form, and what answers are shown with. Text only ever goes in as text.

export const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

export const percent = (part, digits = 1) => `${(100 * part).toFixed(digits)} %`;

let numFields = 0;

// A field has a name, a node for the form, a control, and read() for its value; undefined is left out of the request.
const field = (name, label, control, read) => {
  control.id = `field-${numFields++}`;
  const node = make("div", { class: "field" }, make("label", { for: control.id }, label), control);
  return { name, control, node, read: () => read(control) };
};

export const textField = (name, label, value, rows = 4) =>
  field(name, label, make("textarea", { rows, spellcheck: "false" }, value), (control) => control.value);

export const lineField = (name, label, value) =>
  field(name, label, make("input", { value, spellcheck: "false", autocomplete: "off" }), (control) => control.value);

export const numberField = (name, label, value, limits = {}) =>
  field(name, label, make("input", { type: "number", value, ...limits }), (control) =>
    control.value === "" ? undefined : Number(control.value));

export const selectField = (name, label, options = []) => {
  const one = field(name, label, make("select"), (control) => control.value || undefined);
  fill(one.control, options);
  return one;
};

export const checkField = (name, label, checked = false) => {
  const control = make("input", { type: "checkbox", checked });
  return { name, control, read: () => control.checked, node: make("label", { class: "check" }, control, label) };
};

export const row = (...fields) => ({ fields, node: make("div", { class: "row" }, ...fields.map((one) => one.node)) });

// Options are [value, text]; what was chosen stays chosen where it is still there.
export const fill = (select, options) => {
  const key = JSON.stringify(options);
  if (select.dataset.options === key) return;
  const chosen = select.value;
  select.dataset.options = key;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
};

export const lines = (text) => text.split("\n").map((line) => line.trim()).filter((line) => line);

// Rows of [text, part of 1]; the bar is a picture of the number beside it.
export const bars = (rows) =>
  make("ol", { class: "bars" }, ...rows.map(([text, part]) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--part", Math.max(0, Math.min(1, part)));
    return make("li", {}, make("span", { class: "name" }, text), bar, make("span", { class: "number" }, percent(part)));
  }));

// Offsets of the server count characters, those of JavaScript count UTF-16 units. Spans are {start, end, label?, rank?}.
export const marked = (text, spans) => {
  const characters = Array.from(text);
  const slice = (start, end) => characters.slice(start, end).join("");
  const parts = [];
  let at = 0;
  for (const span of [...spans].sort((one, other) => one.start - other.start)) {
    if (span.start < at || span.end <= span.start) continue;
    parts.push(slice(at, span.start));
    const mark = make("mark", span.rank ? { class: "other" } : {}, slice(span.start, span.end));
    if (span.label) mark.append(make("small", {}, ` ${span.label}`));
    parts.push(mark);
    at = span.end;
  }
  parts.push(slice(at));
  return make("p", { class: "text" }, ...parts);
};

const twoDigits = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2).replace("-", "−");

// A table of cosines; a text is named by its number in the columns.
export const matrix = (texts, value) => {
  const cell = (i, j) => {
    const node = make("td", {}, twoDigits(value(i, j)));
    node.style.setProperty("--part", Math.max(0, value(i, j)));
    return node;
  };
  const head = make("tr", {}, make("td"), ...texts.map((_, j) => make("th", { scope: "col" }, String(j + 1))));
  const rows = texts.map((text, i) =>
    make("tr", {}, make("th", { scope: "row", title: text }, `${i + 1}. ${text}`), ...texts.map((_, j) => cell(i, j))));
  return make("table", { class: "matrix" }, make("caption", {}, "Cosine similarity"), make("thead", {}, head),
    make("tbody", {}, ...rows));
};
