// The chat. Only this page stores the conversation; answers are streamed and can be stopped.

import { element, find, setText } from "/assets/elements.js";
import { count, milliseconds, number, words } from "/assets/format.js";
import { streamChat } from "/assets/service.js";

const NEAR_END_PX = 80;
// Over a shorter time the speed would measure the browser's reads, not the generation.
const MIN_MEASURED_MS = 50;

/** One message on the screen. Its text is updated once per frame. */
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
    this.reasoning = null;
    this.bar = null;
  }

  /** Show how far the prefill of a prompt is, which takes more than one report. */
  showProgress({ processed, cache, total }) {
    if (processed >= total) {
      this.hideProgress();
    } else if (processed > cache) {
      this.bar ??= element("progress", { "aria-label": "Reading the prompt" });
      this.bar.max = total;
      this.bar.value = processed;
      if (!this.bar.isConnected) this.node.prepend(this.bar);
    }
  }

  hideProgress() {
    this.bar?.remove();
    this.bar = null;
  }

  /** Add text to the collapsed reasoning, which is not part of the conversation. */
  addReasoning(text) {
    if (this.reasoning === null) {
      this.reasoning = element("p", { className: "quiet" });
      const details = element("details", {}, element("summary", {}, "Reasoning"), this.reasoning);
      this.node.prepend(details);
    }
    this.reasoning.append(text);
    scrollToEnd(this.node.parentElement);
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
    scrollToEnd(this.node.parentElement);
  }
}

/** Scroll to the end, unless the user has scrolled up. */
function scrollToEnd(list, always = false) {
  if (list === null) return;
  const below = list.scrollHeight - list.scrollTop - list.clientHeight;
  if (always || below < NEAR_END_PX) list.scrollTop = list.scrollHeight;
}

export class Chat {
  constructor({ onError, onBusy }) {
    this.history = [];
    this.onError = onError;
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

  /** Show the models to select from, and keep the selected one. */
  showModels(models) {
    const select = find("model");
    const ids = models.map((model) => model.id);
    if (select.dataset.ids === ids.join()) return;
    select.dataset.ids = ids.join();
    const selected = select.value;
    select.replaceChildren(...ids.map((id) => element("option", { value: id }, id)));
    if (ids.includes(selected)) select.value = selected;
  }

  /** Show in the streaming answer that the worker restarts. */
  showState(status) {
    if (this.answer === null) return;
    const paused = status === "restarting";
    this.answer.node.classList.toggle("paused", paused);
    if (paused) setText(this.answer.meta, "The worker is restarting; then this answer continues.");
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
    scrollToEnd(this.list, true);
    const history = this.history;
    const text = await this.receive(answer, history);
    // A message without an answer is not part of the conversation.
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

  /** Stream one answer into its bubble. Returns its text, also after an error. */
  async receive(answer, history) {
    const started = performance.now();
    let first = null;
    let last = started;
    let reason = null;
    let usage = null;
    this.begin(answer);
    try {
      for await (const event of streamChat(this.body(history), this.stopper.signal)) {
        usage = event.usage ?? usage;
        if (event.prompt_progress) answer.showProgress(event.prompt_progress);
        for (const choice of event.choices) {
          reason = choice.finish_reason ?? reason;
          const { content, reasoning_content: reasoning } = choice.delta;
          if (!content && !reasoning) continue;
          last = performance.now();
          first ??= last;
          this.resume(answer);
          if (reasoning) answer.addReasoning(reasoning);
          if (content) answer.add(content);
        }
      }
      answer.draw();
      setText(answer.meta, describe({ reason, usage, started, first, last }));
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

  /** Remove the note about a restart when text arrives again. */
  resume(answer) {
    if (!answer.node.classList.contains("paused")) return;
    answer.node.classList.remove("paused");
    setText(answer.meta, "");
  }

  end(answer) {
    answer.hideProgress();
    answer.draw();
    answer.node.classList.remove("streaming", "paused");
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
    if (!stopped) this.onError(error);
  }
}

/** "12 + 84 tokens · first token after 92 ms · 61 tokens/s · stop" */
function describe({ reason, usage, started, first, last }) {
  const parts = [];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    const note = cached ? ` (${count(cached)} cached)` : "";
    parts.push(`${count(usage.prompt_tokens)}${note} + ${count(usage.completion_tokens)} tokens`);
  }
  if (first !== null) parts.push(`first token after ${milliseconds(first - started)}`);
  if (usage && first !== null && last - first > MIN_MEASURED_MS) {
    const speed = (1000 * (usage.completion_tokens - 1)) / (last - first);
    parts.push(`${number(speed)} tokens/s`);
  }
  if (reason) parts.push(words(reason));
  return parts.join(" · ");
}
