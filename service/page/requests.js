// The table of the latest requests: outcome, tokens and times by phase.

import { element, find } from "/assets/elements.js";
import { clock, count, milliseconds, number, words } from "/assets/format.js";

const PHASES = ["queue", "prefill", "decode"];

/** Tokens per second after the first token; null if it is unknown. */
export function speedOf(request) {
  return request.each_token_ms ? 1000 / request.each_token_ms : null;
}

function timing(request) {
  const spent = PHASES.map((phase) => request[`${phase}_ms`] ?? 0);
  const other = Math.max(0, request.total_ms - spent.reduce((sum, ms) => sum + ms, 0));
  const names = [...PHASES, "other"];
  const text = [...spent, other].map((ms, at) => `${names[at]} ${milliseconds(ms)}`).join(", ");
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

function row(request) {
  const outcome = request.failed ? "outcome failed" : "outcome";
  const cached = request.cached_tokens ? `, ${count(request.cached_tokens)} cached` : "";
  const tokens = `${count(request.prompt_tokens)} + ${count(request.completion_tokens)}`;
  const speed = speedOf(request);
  const resumed = request.restarts ? element("span", { className: "resumed" }, "resumed") : "";
  return element(
    "tr",
    { title: `${request.id}${cached}` },
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
