// Requests to the server this page came from: the key, streams, and errors in words.

const STORED = "quartet-key";

export const key = {
  get: () => sessionStorage.getItem(STORED) || "",
  set: (value) => (value ? sessionStorage.setItem(STORED, value) : sessionStorage.removeItem(STORED)),
};

export class ServerError extends Error {
  constructor(status, body, retryAfter = null) {
    const error = body?.error ?? {};
    super(typeof error === "string" ? error : error.message ?? `The server answered ${status}.`);
    this.status = status;
    this.param = error.param ?? null;
    this.retryAfter = retryAfter;
  }
}

export const inWords = (error) => {
  if (!(error instanceof ServerError)) {
    return error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message;
  }
  const about = error.param && !error.message.includes(error.param) ? ` (${error.param})` : "";
  const isName = error.param && error.message.startsWith(error.param);
  const first = error.message.charAt(0);
  const message = (isName ? first : first.toUpperCase()) + error.message.slice(1) + about;
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return `${message}${/[.!?]$/.test(message) ? "" : "."}${later}`;
};

const send = async (path, options = {}) => {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new ServerError(response.status, body, response.headers.get("retry-after"));
  }
  return response;
};

const posted = (body, signal) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

export const get = async (path) => (await send(path)).json();
export const getText = async (path) => (await send(path)).text();
export const post = async (path, body, signal) => (await send(path, posted(body, signal))).json();

// The events of a stream. It ends with [DONE] or with an error; one that just stops is broken.
export async function* stream(path, body, signal) {
  const reader = (await send(path, posted(body, signal))).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const told = JSON.parse(event.slice("data: ".length));
      if (told.error) throw new ServerError(0, told);
      yield told;
    }
  }
  throw new Error("The answer broke off.");
}
