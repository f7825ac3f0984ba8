// The state of the service: status, tiles, charts, memory, models, worker and requests.

import { Chart } from "/assets/chart.js";
import { element, find, setText } from "/assets/elements.js";
import { count, duration, milliseconds, number, size } from "/assets/format.js";
import { MemoryBar } from "/assets/memory.js";
import { RequestTable, showInFlight } from "/assets/requests.js";

const SPEED_WINDOW_S = 3;
const FIRST_TOKEN_WINDOW_S = 60;
const EMPTY_SECOND = { tokens: 0, first_tokens: 0, first_token_s: 0 };

const firstTokenMs = (row) =>
  row.first_tokens === 0 ? null : (1000 * row.first_token_s) / row.first_tokens;

/** One row per second up to the last complete one. Seconds without data repeat the last state. */
export function fill(seconds, now, window) {
  const rows = [];
  const last = Math.floor(now) - 1;
  let state = { running: 0, waiting: 0 };
  for (let at = last - window + 1; at <= last; at += 1) {
    const second = seconds.get(at);
    if (second) state = { running: second.running, waiting: second.waiting };
    rows.push(second ?? { ...EMPTY_SECOND, ...state, at });
  }
  return rows;
}

const ofModel = (model) => (state) => state.id === model.id;

function describeModel(model, state) {
  const pinned = state?.pinned ? ["pinned"] : [];
  if (model.loaded) {
    const loadTime = `loaded in ${milliseconds(model.load_ms)}`;
    const context = `context ${count(model.context_length)}`;
    const facts = [model.family, size(model.weight_bytes), context, loadTime, ...pinned];
    return [facts.join(", "), ...describeBatching(model.batching)].join(". ");
  }
  const reason = state?.reason ? [state.reason] : [];
  switch (state?.status) {
    case "loading":
      return [
        `loading, ${size(state.loaded_bytes)} of ${size(state.size_bytes)}`,
        ...reason,
      ].join(", ");
    case "failed":
      return ["failed to load", ...reason].join(": ");
    default:
      return ["not loaded", ...pinned].join(", ");
  }
}

/** What the check of a model does not let its requests share, and why. */
function describeBatching(batching) {
  if (!batching) return [];
  const { reasons, unchecked } = batching;
  const pending = unchecked.length ? [`Not checked yet, so not used: ${unchecked.join(", ")}`] : [];
  return [...reasons.map((reason) => reason.replace(/\.$/, "")), ...pending];
}

function showPairs(target, pairs) {
  const text = pairs.map(([name, value]) => `${name}\n${value}`).join("\n");
  if (target.dataset.shown === text) return;
  target.dataset.shown = text;
  target.replaceChildren(
    ...pairs.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}

export class Overview {
  constructor() {
    this.seconds = new Map();
    this.device = null;
    this.memory = new MemoryBar();
    this.requests = new RequestTable();
    this.charts = [
      new Chart(find("chart-speed"), {
        title: "Tokens per second",
        series: [{ name: "tokens", value: (row) => row.tokens }],
        format: count,
        least: 10,
      }),
      new Chart(find("chart-first"), {
        title: "Time to first token",
        series: [{ name: "mean", value: firstTokenMs, dots: true }],
        format: milliseconds,
        least: 10,
      }),
      new Chart(find("chart-batch"), {
        title: "Running and waiting",
        series: [
          { name: "running", value: (row) => row.most_running ?? row.running },
          { name: "waiting", value: (row) => row.most_waiting ?? row.waiting },
        ],
        format: number,
        least: 2,
      }),
    ];
  }

  /** The last second that is complete; `/status` is requested for later ones. */
  get lastComplete() {
    return Math.max(1, ...this.seconds.keys()) - 1;
  }

  show(status) {
    for (const second of status.seconds) this.seconds.set(second.at, second);
    const oldest = Math.floor(status.now) - status.window_s;
    for (const at of this.seconds.keys()) if (at < oldest) this.seconds.delete(at);
    const rows = fill(this.seconds, status.now, status.window_s);
    this.showState(status.health);
    this.showTiles(status, rows);
    for (const chart of this.charts) chart.draw(rows);
    this.memory.show(status.health.memory, status.models);
    this.showModels(status.models, status.health.models ?? []);
    this.showWorker(status);
    showInFlight(status.in_flight);
    this.requests.show(status.recent);
  }

  showState({ status, version, device, reason }) {
    const pill = find("state");
    pill.dataset.state = status;
    pill.title = reason ?? "";
    setText(pill, status);
    // Without a worker, the device of the last one is shown.
    if (device) this.device = `${device.name}, ${device.backend}`;
    setText(find("about"), [`version ${version}`, this.device].filter(Boolean).join(" · "));
  }

  /** Show that the service does not answer, so that the rest of the page is out of date. */
  showUnreachable() {
    find("state").dataset.state = "unreachable";
    setText(find("state"), "not reachable");
  }

  showTiles({ health, max_running }, rows) {
    const latest = rows.slice(-SPEED_WINDOW_S);
    const speed = latest.reduce((sum, row) => sum + row.tokens, 0) / SPEED_WINDOW_S;
    const recent = rows.slice(-FIRST_TOKEN_WINDOW_S);
    const seconds = recent.reduce((sum, row) => sum + row.first_token_s, 0);
    const answers = recent.reduce((sum, row) => sum + row.first_tokens, 0);
    setText(find("tile-speed"), number(speed));
    setText(find("tile-first"), milliseconds(answers ? (1000 * seconds) / answers : null));
    setText(find("tile-running"), `${health.requests.running} of ${max_running}`);
    setText(find("tile-waiting"), count(health.requests.waiting));
  }

  /** `states` are the worker's states of the models; empty without a worker. */
  showModels(models, states) {
    const text = JSON.stringify([models, states]);
    const list = find("models");
    if (list.dataset.shown === text) return;
    list.dataset.shown = text;
    list.replaceChildren(
      ...models.map((model) =>
        element(
          "li",
          { className: model.loaded ? "loaded" : (states.find(ofModel(model))?.status ?? "") },
          element("b", {}, model.id),
          element(
            "span",
            { className: "quiet" },
            describeModel(model, states.find(ofModel(model))),
          ),
        ),
      ),
    );
  }

  showWorker({ health }) {
    const { pid, uptime_s, restarts, last_exit } = health.worker;
    const pairs = [
      ["Process", pid === null ? "none" : `${pid}, up ${duration(uptime_s)}`],
      ["Restarts", count(restarts)],
    ];
    if (last_exit) {
      const after = `while ${last_exit.phase}, after ${duration(last_exit.uptime_s)}`;
      pairs.push(["Last exit", `${last_exit.reason}, ${after}`]);
    } else {
      pairs.push(["Last exit", "none"]);
    }
    if (health.reason) pairs.push(["Failure", health.reason]);
    if (health.worker.ranks.length > 1) pairs.push(...health.worker.ranks.map(describeRank));
    showPairs(find("worker"), pairs);
  }
}

function describeRank({ rank, host, pid, state, away_s, restarts }) {
  const parts = [away_s === null ? state : `away for ${duration(away_s)}`];
  if (pid !== null) parts.push(`process ${pid}`);
  parts.push(`on ${host}`);
  const causes = Object.entries(restarts).map(([cause, times]) => `${cause} ${count(times)}`);
  if (causes.length) parts.push(`lost: ${causes.join(", ")}`);
  return [`Rank ${rank}`, parts.join(", ")];
}
