// The chat: a conversation that this page alone keeps; its answers stream, and can be stopped.

import { element, find, setText } from "/assets/elements.js";
import { count, milliseconds, number, words } from "/assets/format.js";
import { streamChat } from "/assets/service.js";

const NEAR_END_PX = 80;
// A shorter time tells how the browser read, not how fast the answer came.
const SHORTEST_MEASURE_MS = 50;

/** One message on the screen; text is put there once a frame. */
class Bubble {
  constructor(role, text = "") {
    this.text = text;
    this.body = element("div", { className: "text" }, text);
    this.meta = element("p", { className: "meta quiet" });
    this.node = element(
      "article",
      { className: `message ${role}`, "aria-label": role === "user" ? "You" : "Answer" },
      this.body,
      this.meta,
    );
    this.drawing = false;
    this.thoughts = null;
  }

  /** What the model thinks before it answers: folded away, and no part of the conversation. */
  think(text) {
    if (this.thoughts === null) {
      this.thoughts = element("p", { className: "quiet" });
      const folded = element("details", {}, element("summary", {}, "Reasoning"), this.thoughts);
      this.node.prepend(folded);
    }
    this.thoughts.append(text);
    follow(this.node.parentElement);
  }

  add(text) {
    this.text += text;
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawing = false;
    setText(this.body, this.text);
    follow(this.node.parentElement);
  }
}

/** Keep the end in sight, unless somebody reads further up. */
function follow(list, always = false) {
  if (list === null) return;
  const below = list.scrollHeight - list.scrollTop - list.clientHeight;
  if (always || below < NEAR_END_PX) list.scrollTop = list.scrollHeight;
}

export class Chat {
  constructor({ onRefused, onBusy }) {
    this.history = [];
    this.onRefused = onRefused;
    this.onBusy = onBusy;
    this.stopper = null;
    this.answer = null;
    this.list = find("messages");
    this.empty = this.list.querySelector(".empty");
    this.prompt = find("prompt");
    this.button = find("send");
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stopper) this.stop();
      else this.send();
    });
    find("fresh").addEventListener("click", () => this.clear());
    this.prompt.addEventListener("input", () => this.grow());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.stopper) this.send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.stopper) this.stop();
    });
  }

  get busy() {
    return this.stopper !== null;
  }

  /** The models to choose from; the choice is kept. */
  offer(models) {
    const select = find("model");
    const ids = models.map((model) => model.id);
    if (select.dataset.told === ids.join()) return;
    select.dataset.told = ids.join();
    const chosen = select.value;
    select.replaceChildren(...ids.map((id) => element("option", { value: id }, id)));
    if (ids.includes(chosen)) select.value = chosen;
  }

  /** Tell in the open answer what the service is doing, if that is why nothing comes. */
  tellState(status) {
    if (this.answer === null) return;
    const held = status === "restarting";
    this.answer.node.classList.toggle("held", held);
    if (held) setText(this.answer.meta, "The worker restarts; this answer goes on where it was.");
  }

  stop() {
    this.stopper?.abort();
  }

  clear() {
    this.stop();
    this.history = [];
    this.list.replaceChildren(this.empty);
    this.prompt.focus();
  }

  grow() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight}px`;
  }

  async send() {
    const content = this.prompt.value.trim();
    if (content === "") return;
    this.prompt.value = "";
    this.grow();
    this.history.push({ role: "user", content });
    const answer = new Bubble("assistant");
    this.empty.remove();
    this.list.append(new Bubble("user", content).node, answer.node);
    follow(this.list, true);
    const history = this.history;
    const text = await this.receive(answer, history);
    // What was not answered is not part of the conversation.
    if (text) history.push({ role: "assistant", content: text });
    else history.pop();
  }

  body(history) {
    const instructions = find("instructions").value.trim();
    const system = instructions ? [{ role: "system", content: instructions }] : [];
    const longest = find("longest").valueAsNumber;
    const temperature = find("temperature").valueAsNumber;
    return {
      model: find("model").value || "default",
      messages: [...system, ...history],
      ...(Number.isNaN(longest) ? {} : { max_completion_tokens: longest }),
      ...(Number.isNaN(temperature) ? {} : { temperature }),
    };
  }

  /** Stream one answer into its bubble; its text, however it ended. */
  async receive(answer, history) {
    const began = performance.now();
    let first = null;
    let last = began;
    let reason = null;
    let usage = null;
    this.begin(answer);
    try {
      for await (const event of streamChat(this.body(history), this.stopper.signal)) {
        usage = event.usage ?? usage;
        for (const choice of event.choices) {
          reason = choice.finish_reason ?? reason;
          const { content, reasoning_content: thought } = choice.delta;
          if (!content && !thought) continue;
          last = performance.now();
          first ??= last;
          this.resume(answer);
          if (thought) answer.think(thought);
          if (content) answer.add(content);
        }
      }
      answer.draw();
      setText(answer.meta, describe({ reason, usage, began, first, last }));
    } catch (error) {
      this.fail(answer, error);
    } finally {
      this.end(answer);
    }
    return answer.text;
  }

  begin(answer) {
    this.stopper = new AbortController();
    this.answer = answer;
    answer.node.classList.add("streaming");
    answer.node.setAttribute("aria-busy", "true");
    this.button.classList.add("stop");
    setText(this.button, "Stop");
    this.onBusy();
  }

  /** Text comes again after a pause. */
  resume(answer) {
    if (!answer.node.classList.contains("held")) return;
    answer.node.classList.remove("held");
    setText(answer.meta, "");
  }

  end(answer) {
    answer.draw();
    answer.node.classList.remove("streaming", "held");
    answer.node.removeAttribute("aria-busy");
    this.stopper = null;
    this.answer = null;
    this.button.classList.remove("stop");
    setText(this.button, "Send");
    this.onBusy();
  }

  fail(answer, error) {
    const stopped = error.name === "AbortError";
    answer.node.classList.toggle("failed", !stopped);
    setText(answer.meta, stopped ? "stopped" : error.message);
    if (!stopped) this.onRefused(error);
  }
}

/** "12 + 84 tokens, first after 92 ms, 61 tokens/s, stop" */
function describe({ reason, usage, began, first, last }) {
  const told = [];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    const kept = cached ? ` (${count(cached)} cached)` : "";
    told.push(`${count(usage.prompt_tokens)}${kept} + ${count(usage.completion_tokens)} tokens`);
  }
  if (first !== null) told.push(`first after ${milliseconds(first - began)}`);
  if (usage && first !== null && last - first > SHORTEST_MEASURE_MS) {
    const speed = (1000 * (usage.completion_tokens - 1)) / (last - first);
    told.push(`${number(speed)} tokens/s`);
  }
  if (reason) told.push(words(reason));
  return told.join(" · ");
}
