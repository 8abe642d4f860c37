// The panels whose answer comes as a whole.

import {
  bars, checkField, fill, lineField, lines, make, marked, matrix, numberField, percent, row, selectField, textField,
} from "./dom.js";
import { sources, targets } from "./languages.js";

const MOST_BARS = 12;

export const translate = {
  id: "translate",
  title: "Translate",
  lead: "From one language to another, sentence by sentence.",
  action: "Translate",
  tasks: ["translate"],
  wanted: "an mBART, M2M100, NLLB or Marian, or a T5 that names its language pairs in config.json",
  rows: [
    row(selectField("source", "From"), selectField("target", "To")),
    textField("text", "Text", "Good morning. I would like a cup of tea, please.\nThe weather is nice today.", 6),
    numberField("n", "Number of translations", 1, { min: 1, max: 8 }),
  ],
  adapt: (controls, model) => {
    if (!model) return;
    fill(controls.source, sources(model.languages));
    fill(controls.target, targets(model.languages, controls.source.value || undefined));
  },
  request: ({ text, source, target, n }) => ({
    path: "v1/translate",
    body: { text, source, target, ...(n > 1 ? { n, num_beams: Math.max(4, n) } : {}) },
  }),
  show: ({ translations: [{ text, alternatives = [], detected }] }) => {
    const parts = [make("p", { class: "text" }, text)];
    if (detected) parts.push(make("p", { class: "muted" }, `From ${detected.language}, ${percent(detected.confidence, 0)} sure`));
    if (alternatives.length) {
      parts.push(make("h3", {}, "Alternatives"),
        make("ol", { class: "others" }, ...alternatives.map((one) => make("li", { class: "text" }, one.text))));
    }
    return make("div", {}, ...parts);
  },
};

export const classify = {
  id: "classify",
  title: "Classify",
  lead: "Finds the label that fits a text: one of the model's, or one of your own without any training.",
  action: "Classify",
  tasks: ["classify", "zero-shot"],
  wanted: "an encoder with a sequence classification head; for labels of your own one that knows entailment, or an embedding model",
  rows: [
    textField("text", "Text", "My card was declined at the shop, what now?", 3),
    selectField("mode", "Labels", [["model", "The model's"], ["own", "My own"]]),
    textField("labels", "My labels, one per line", "banking\ntravel\ncooking\nsports", 4),
    row(numberField("top_k", "Show top", 5, { min: 1 }), checkField("multi_label", "Several labels may fit")),
  ],
  task: ({ mode }) => (mode === "own" ? "zero-shot" : "classify"),
  adapt: (controls, _model, served) => {
    const can = (task) => served.some((one) => one.tasks.includes(task));
    if (served.length && controls.mode.value === "model" && !can("classify")) controls.mode.value = "own";
    controls.labels.disabled = controls.mode.value === "model";
  },
  request: ({ text, mode, labels, top_k, multi_label }) => ({
    path: "v1/classify",
    body: {
      text, ...(mode === "own" ? { labels: lines(labels) } : {}), top_k, ...(multi_label ? { multi_label } : {}),
    },
  }),
  show: ({ results: [labels] }) => bars(labels.slice(0, MOST_BARS).map(({ label, score }) => [label.replaceAll("_", " "), score])),
};

export const answer = {
  id: "questions",
  title: "Questions",
  lead: "Finds the words of a text that answer a question.",
  action: "Find the answer",
  tasks: ["qa"],
  wanted: "an encoder with a span head, as for SQuAD",
  rows: [
    lineField("question", "Question", "Who wrote the first program?"),
    textField("context", "Text", "The Analytical Engine was designed by Charles Babbage in 1837, and never built. "
      + "Ada Lovelace wrote the first program for it in 1843: a way to compute Bernoulli numbers with a machine of brass.", 7),
    row(numberField("top_k", "Show top", 3, { min: 1, max: 100 }), checkField("allow_no_answer", "May have no answer")),
  ],
  request: ({ question, context, top_k, allow_no_answer }) => ({
    path: "v1/qa",
    body: { question, context, top_k, ...(allow_no_answer ? { allow_no_answer } : {}) },
  }),
  show: ({ answers: [answers] }, { context }) => make("div", {},
    marked(context, answers.map((one, rank) => ({ ...one, rank })).reverse()),
    bars(answers.map((one) => [one.answer || "(no answer)", one.score]))),
};

export const entities = {
  id: "entities",
  title: "Entities",
  lead: "Finds the names in a text, and what kind each is.",
  action: "Find names",
  tasks: ["ner"],
  wanted: "an encoder with a token classification head, as for CoNLL-2003",
  rows: [
    textField("text", "Text", "Ada Lovelace met Charles Babbage in London in 1833.", 5),
    selectField("aggregation", "Aggregation", ["simple", "first", "average", "max", "none"].map((one) => [one, one])),
  ],
  request: ({ text, aggregation }) => ({ path: "v1/ner", body: { text, aggregation } }),
  show: ({ entities: [found] }, { text }) => make("div", {},
    marked(text, found.map((one) => ({ ...one, label: one.entity }))),
    found.length ? bars(found.map((one) => [`${one.text} (${one.entity})`, one.score])) : make("p", { class: "muted" }, "No names.")),
};

export const fillMask = {
  id: "fill-mask",
  title: "Fill mask",
  lead: "The likeliest words in place of the mask token.",
  action: "Fill the mask",
  tasks: ["fill-mask"],
  wanted: "an encoder with a masked-LM head",
  rows: [
    textField("text", "Text, with the model's mask token once", "She opened the window to let in some fresh [MASK].", 3),
    numberField("top_k", "Show top", 5, { min: 1, max: 1000 }),
  ],
  request: ({ text, top_k }) => ({ path: "v1/fill-mask", body: { text, top_k } }),
  show: ({ results: [words] }) => bars(words.map(({ token, score }) => [token, score])),
};

export const embed = {
  id: "embeddings",
  title: "Embeddings",
  lead: "How close sentences are in meaning.",
  action: "Compare",
  tasks: ["embed"],
  wanted: "an encoder without a head, such as a sentence-transformers model",
  rows: [
    textField("input", "Sentences, one per line", "The cat sleeps on the sofa.\nA kitten is napping on the couch.\n"
      + "The stock market fell sharply today.\nShares lost value on Monday.\nI had soup for lunch.", 8),
  ],
  request: ({ input }) => ({ path: "v1/embeddings", body: { input: lines(input) } }),
  show: ({ data }, { input }) => {
    const unit = data.map(({ embedding }) => {
      const length = Math.hypot(...embedding);
      return embedding.map((value) => value / length);
    });
    return matrix(input, (i, j) => unit[i].reduce((sum, value, k) => sum + value * unit[j][k], 0));
  },
};

export const rerank = {
  id: "rerank",
  title: "Rerank",
  lead: "Sorts documents by how well they answer a query.",
  action: "Rank",
  tasks: ["rerank"],
  wanted: "a cross-encoder (a sequence classification head of one label), or an embedding model",
  rows: [
    lineField("query", "Query", "How do I change my password?"),
    textField("documents", "Documents, one per line", "Our offices are closed on Sundays.\nPasswords are changed under Settings, Security.\n"
      + "Forgot your login? Ask for a reset link by mail.\nInvoices are sent at the end of the month.", 7),
  ],
  request: ({ query, documents }) => ({ path: "v1/rerank", body: { query, documents: lines(documents) } }),
  show: ({ results }, { documents }) => bars(results.map((one) => [documents[one.index], one.relevance_score])),
};
