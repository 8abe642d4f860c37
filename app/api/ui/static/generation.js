// The panels whose answer comes as a stream: continued texts, chats, summaries.

import { make, numberField, row, textField } from "./dom.js";
import { Inspector, TokenText } from "./tokens.js";

const TOP = 4;

const parameters = (max, temperature) => [
  row(numberField("max_tokens", "Max tokens", max, { min: 1 }),
    numberField("temperature", "Temperature", temperature, { min: 0, max: 2, step: 0.1 })),
  row(numberField("top_p", "Top p", "", { min: 0, max: 1, step: 0.05 }), numberField("seed", "Seed", "", { step: 1 })),
];

const withTokens = () => {
  const inspector = new Inspector();
  const state = { text: null };
  const extras = ({ output }) => {
    output.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !state.text) return;
      event.preventDefault();
      state.text.move(step);
    });
    return [inspector.node];
  };
  const begin = () => {
    inspector.clear();
    state.text = new TokenText(inspector);
    return state.text;
  };
  return { extras, begin };
};

const makeGenerate = () => {
  const tokens = withTokens();
  return {
    id: "generate",
    title: "Generate",
    lead: "Continues a text, token by token.",
    action: "Generate",
    tasks: ["generate"],
    wanted: "a decoder such as GPT-2 or Llama, or an encoder-decoder",
    rows: [
      textField("prompt", "Text", "Once upon a time there was a little", 5),
      ...parameters(60, 0.7),
      numberField("no_repeat_ngram_size", "No-repeat n-gram size", 3, { min: 0, max: 64 }),
    ],
    request: ({ prompt, ...rest }) => ({ path: "v1/generate", body: { prompt, ...rest, logprobs: TOP, stream: true } }),
    begin: (output, { prompt }) => {
      const text = tokens.begin();
      output.replaceChildren(make("p", { class: "text" }, make("span", { class: "muted" }, prompt), text.node));
      return { add: ({ results: [piece] }) => text.add(piece.text, piece.logprobs) };
    },
    extras: tokens.extras,
  };
};

const makeChat = () => {
  const tokens = withTokens();
  let messages = [];
  let field = null;
  const asked = (message) => (message.trim() ? [...messages, { role: "user", content: message }] : null);
  const said = (name, content) =>
    make("div", { class: "message" }, make("p", { class: "muted" }, name), make("p", { class: "text" }, content));
  return {
    id: "chat",
    title: "Chat",
    lead: "A conversation; each answer sees all that was said before.",
    action: "Send",
    tasks: ["chat"],
    wanted: "a decoder, or an encoder-decoder, with a chat template",
    rows: [textField("message", "Message", "Who are you, and what can you do?", 4),
      textField("system", "Instructions", "", 2), ...parameters(200, 0.7)],
    request: ({ message, system, ...rest }) => {
      const turns = asked(message);
      if (!turns) return null;
      const first = system.trim() ? [{ role: "system", content: system }] : [];
      return {
        path: "v1/chat/completions",
        body: {
          messages: [...first, ...turns], ...rest, logprobs: true, top_logprobs: TOP, stream: true,
          stream_options: { include_usage: true },
        },
      };
    },
    adapt: (controls) => { field = controls.message; },
    begin: (output, body) => {
      const question = body.messages.at(-1);
      const text = tokens.begin();
      const turn = make("div", { class: "turn" }, said("You", question.content), said(body.model, text.node));
      output.append(turn);
      field.value = "";
      return {
        add: ({ choices: [choice] }) => {
          if (choice) text.add(choice.delta.content ?? "", (choice.logprobs?.content ?? []).map(named));
        },
        end: () => {
          if (text.text) {
            messages = [...messages, question, { role: "assistant", content: text.text }];
            return;
          }
          turn.remove();
          field.value = question.content;
        },
      };
    },
    extras: (panel) => {
      const clear = () => {
        messages = [];
        panel.output.replaceChildren();
        panel.refresh();
      };
      return [...tokens.extras(panel), make("div", { class: "actions" },
        make("button", { type: "button", class: "plain", click: clear }, "New chat"))];
    },
  };
};

const named = ({ token, logprob, top_logprobs }) => ({ token, logprob, top: top_logprobs });

const makeSummarize = () => ({
  id: "summarize",
  title: "Summarize",
  lead: "The gist of a longer text.",
  action: "Summarize",
  tasks: ["summarize"],
  wanted: "a BART, Pegasus or T5 that was trained for summaries, or a chat model that is told to",
  rows: [
    textField("text", "Text", "The house by the river is old. It was built in 1843 for a miller and his family, and stood empty "
      + "for forty years. Last spring the town bought it, mended the roof and opened a library in its rooms. On most days "
      + "children from the school across the bridge now read there in the afternoon.", 9),
    numberField("max_tokens", "Max tokens", "", { min: 1 }),
  ],
  request: ({ text, max_tokens }) => ({ path: "v1/summarize", body: { text, max_tokens, stream: true } }),
  begin: (output) => {
    const node = make("p", { class: "text" });
    output.replaceChildren(node);
    return { add: ({ summaries: [piece] }) => node.append(piece.text) };
  },
});

export const generate = makeGenerate();
export const chat = makeChat();
export const summarize = makeSummarize();
