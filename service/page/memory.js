// A bar of the device's memory by use, with the free part.

import { element, find, setText } from "/assets/elements.js";
import { size } from "/assets/format.js";

const PARTS = [
  ["weights", "model weights"],
  ["work", "KV caches and buffers"],
  ["cached", "cached by MLX"],
  ["free", "free"],
];

/** From `health.memory` and the models: the bytes of each part, the total and the peak. */
export function divide(memory, models) {
  const weights = models.reduce((sum, model) => sum + (model.weight_bytes ?? 0), 0);
  const used = Math.min(weights, memory.active_bytes);
  const parts = { weights: used, work: memory.active_bytes - used, cached: memory.cache_bytes };
  const taken = memory.active_bytes + memory.cache_bytes;
  const total = Math.max(memory.limit_bytes, memory.peak_bytes, taken);
  return { ...parts, free: total - taken, total, peak: memory.peak_bytes };
}

export class MemoryBar {
  constructor() {
    this.bars = {};
    this.labels = {};
    const bar = element("div", { className: "bar absent", role: "img" });
    const legend = element("ul", { className: "legend" });
    for (const [name, title] of PARTS) {
      this.bars[name] = element("span", { className: name, title });
      this.labels[name] = element("b", {}, "–");
      bar.append(this.bars[name]);
      legend.append(
        element("li", {}, element("span", { className: `key ${name}` }, title), this.labels[name]),
      );
    }
    this.peak = element("i", { className: "peak" });
    bar.append(this.peak);
    this.bar = bar;
    this.summary = element("p", { className: "quiet" });
    find("memory").replaceChildren(bar, legend, this.summary);
  }

  show(memory, models) {
    this.bar.classList.toggle("absent", memory === null);
    if (memory === null) {
      setText(this.summary, "No worker is ready.");
      for (const [name] of PARTS) setText(this.labels[name], "–");
      return;
    }
    const divided = divide(memory, models);
    for (const [name] of PARTS) {
      this.bars[name].style.flexGrow = divided[name] / divided.total;
      this.bars[name].hidden = divided[name] === 0;
      setText(this.labels[name], size(divided[name]));
    }
    this.peak.style.insetInlineStart = `${(100 * divided.peak) / divided.total}%`;
    const text =
      `${size(memory.active_bytes)} in use, peak ${size(divided.peak)}, ` +
      `limit ${memory.limit_bytes ? size(memory.limit_bytes) : "unknown"}`;
    this.bar.setAttribute("aria-label", text);
    setText(this.summary, text);
  }
}
