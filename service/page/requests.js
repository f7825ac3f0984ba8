// The requests in flight, and the table of the latest: outcome, tokens and times by phase.

import { element, find } from "/assets/elements.js";
import { clock, count, duration, milliseconds, number, words } from "/assets/format.js";

const PHASES = ["preparation", "load", "restart", "queue", "prefill", "decode"];

/** Tokens per second after the first token; null if it is unknown. */
export function speedOf(request) {
  return request.each_token_ms ? 1000 / request.each_token_ms : null;
}

function timing(request) {
  const spent = PHASES.map((phase) => request[`${phase}_ms`] ?? 0);
  const other = Math.max(0, request.total_ms - spent.reduce((sum, ms) => sum + ms, 0));
  const names = [...PHASES, "other"];
  const text = [...spent, other]
    .map((ms, at) => [ms, `${names[at]} ${milliseconds(ms)}`])
    .filter(([ms, words]) => ms > 0 || !/^(load|restart)/.test(words))
    .map(([, words]) => words)
    .join(", ");
  const bar = element("span", { className: "timing", title: text });
  [...spent, other].forEach((ms, at) => {
    const part = element("span", { className: names[at] });
    part.style.flexGrow = ms / (request.total_ms || 1);
    bar.append(part);
  });
  return element(
    "td",
    { className: "time" },
    element("span", { className: "visually-hidden" }, text),
    bar,
    milliseconds(request.total_ms),
  );
}

/** Where the prompt's tokens came from, and where it parted from the closest known prompt. */
function origin(request) {
  const sources = [
    ["cached in memory", request.memory_tokens],
    ["from disk", request.disk_tokens],
    ["shared", request.shared_tokens],
    ["computed", request.computed_tokens],
  ];
  const parts = sources.filter(([, tokens]) => tokens).map(([name, n]) => `${count(n)} ${name}`);
  const { parted } = request;
  if (parted && request.common_tokens) {
    const message = parted.message === null ? "" : ` in message ${parted.message}`;
    const role = parted.role === null ? "" : ` (${parted.role})`;
    const how = parted.differs ? "parted" : "new";
    parts.push(`${how} from token ${count(parted.token)}${message}${role}`);
  }
  return parts.join(", ");
}

/** One sequence in flight, with a bar of its prefill. */
function flight(sequence) {
  const { phase, prompt_tokens: total, ready_tokens: ready, completion_tokens: made } = sequence;
  const tokens = total === null ? "" : `${count(ready)} of ${count(total)} + ${count(made)} tokens`;
  const told = [tokens, duration(sequence.age_s)].filter(Boolean).join(", ");
  const bar = element("progress", { max: total ?? 1, value: ready });
  bar.setAttribute("aria-label", `prefill, ${tokens}`);
  return element(
    "li",
    {},
    element("span", {}, `${sequence.model}, ${phase}`),
    phase === "prefill" ? bar : element("span"),
    element("span", { className: "quiet" }, told),
  );
}

/** Show the sequences in flight; without any the card is hidden. */
export function showInFlight(sequences) {
  find("in-flight-card").hidden = sequences.length === 0;
  find("in-flight").replaceChildren(...sequences.map(flight));
}

function row(request) {
  const outcome = request.failed ? "outcome failed" : "outcome";
  const from = origin(request);
  const tokens = `${count(request.prompt_tokens)} + ${count(request.completion_tokens)}`;
  const speed = speedOf(request);
  const resumed = request.restarts ? element("span", { className: "resumed" }, "resumed") : "";
  return element(
    "tr",
    { title: from ? `${request.id}: ${from}` : request.id },
    element("td", {}, clock(request.at)),
    element("td", { className: "wide" }, request.model),
    element("td", {}, element("span", { className: outcome }, words(request.finish)), resumed),
    element("td", { className: "number" }, tokens),
    element("td", { className: "number first" }, milliseconds(request.first_token_ms)),
    element("td", { className: "number wide" }, speed === null ? "–" : `${number(speed)}/s`),
    timing(request),
  );
}

export class RequestTable {
  constructor() {
    this.body = find("recent").tBodies[0];
    this.filled = [find("recent"), find("recent-legend")];
    this.empty = find("recent-empty");
    this.shown = "";
  }

  show(requests) {
    const key = requests.map((request) => request.id + request.at).join();
    if (key === this.shown) return;
    this.shown = key;
    this.empty.hidden = requests.length > 0;
    for (const part of this.filled) part.hidden = requests.length === 0;
    this.body.replaceChildren(...requests.map(row));
  }
}
