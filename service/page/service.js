// The service's API: requests that carry the key, and the events of a stream.

const KEY = "mlxd-key";
const UNAUTHORIZED = 401;

/** An answer that says what is wrong. */
export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get needsKey() {
    return this.status === UNAUTHORIZED;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** The response; one that is no success is thrown. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? {};
  throw new Refused(response.status, error.message ?? response.statusText, error.code);
}

/** What the service does, with its seconds after that Unix time. */
export async function readStatus(after) {
  const response = await ask(`/status?after=${after}`);
  return response.json();
}

/** The events of a streamed chat, each as it comes. */
export async function* streamChat(body, signal) {
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Refused(response.status, event.error.message, event.error.code);
    yield event;
  }
  throw new Refused(0, "The connection ended before the answer did.", "connection_lost");
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice("data: ".length);
  }
}
