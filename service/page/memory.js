// The device's memory as a picture: what it is used for, and what is left.

import { element, find, setText } from "/assets/elements.js";
import { size } from "/assets/format.js";

const PARTS = [
  ["weights", "model weights"],
  ["work", "caches and work"],
  ["kept", "freed, kept by MLX"],
  ["free", "free"],
];

/** Of `health.memory` and the models: bytes by part, what the whole is, and the peak. */
export function divide(memory, models) {
  const weights = models.reduce((sum, model) => sum + (model.weight_bytes ?? 0), 0);
  const used = Math.min(weights, memory.active_bytes);
  const parts = { weights: used, work: memory.active_bytes - used, kept: memory.cache_bytes };
  const taken = memory.active_bytes + memory.cache_bytes;
  const whole = Math.max(memory.limit_bytes, memory.peak_bytes, taken);
  return { ...parts, free: whole - taken, whole, peak: memory.peak_bytes };
}

export class MemoryPicture {
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
      this.bars[name].style.flexGrow = divided[name] / divided.whole;
      this.bars[name].hidden = divided[name] === 0;
      setText(this.labels[name], size(divided[name]));
    }
    this.peak.style.insetInlineStart = `${(100 * divided.peak) / divided.whole}%`;
    const told =
      `${size(memory.active_bytes)} in use, ${size(divided.peak)} at its peak, ` +
      `of ${memory.limit_bytes ? size(memory.limit_bytes) : "an unknown whole"}`;
    this.bar.setAttribute("aria-label", told);
    setText(this.summary, told);
  }
}
