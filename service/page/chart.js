// A live chart of the last minutes: lines or dots by second, and the values under the pointer.

import { element, setText, shape } from "/assets/elements.js";

const WIDTH = 300;
const HEIGHT = 100;
const STEPS = [1, 2, 4, 6, 8, 10];

/** The next round number that is at least `value` and `least`. */
export function roundUp(value, least) {
  const minimum = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(minimum));
  return STEPS.map((step) => step * power).find((round) => round >= minimum * 0.999);
}

/**
 * One chart. `series` are {name, value(second), dots}: a line has a value for every second, dots
 * only for seconds whose value is not null. `format` converts a value to text. The axis ends at
 * `least` or above.
 */
export class Chart {
  constructor(figure, { title, series, format, least }) {
    Object.assign(this, { title, series, format, least, rows: [], pointed: null });
    this.readings = series.map((_, at) =>
      element("span", { className: series.length > 1 ? `key series-${at}` : "" }),
    );
    this.when = element("span");
    this.marks = series.map((one, at) => ({
      line: shape("path", { class: `${one.dots ? "dots" : "line"} series-${at}` }),
      area: one.dots ? null : shape("path", { class: `area series-${at}` }),
    }));
    this.cursor = shape("path", { class: "cursor", d: "" });
    const grid = [0, 0.5, 1].map((share) =>
      shape("path", { class: "grid", d: `M0 ${share * HEIGHT}H${WIDTH}` }),
    );
    this.drawing = shape(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ...grid,
      ...this.marks.flatMap(({ area, line }) => (area ? [area, line] : [line])),
      this.cursor,
    );
    this.topLabel = element("span", { className: "top-label" });
    this.middleLabel = element("span", { className: "middle-label" });
    figure.replaceChildren(
      element(
        "figcaption",
        {},
        element("h2", {}, title),
        element("p", { className: "reading" }, ...this.readings, this.when),
      ),
      element("div", { className: "plot" }, this.drawing, this.topLabel, this.middleLabel),
      element(
        "div",
        { className: "axis quiet" },
        element("span", {}, "5 min ago"),
        element("span", {}, "now"),
      ),
    );
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    this.drawing.addEventListener("pointerleave", () => this.point(null));
  }

  /** Draw `rows`, one per second, oldest first. */
  draw(rows) {
    this.rows = rows;
    const values = this.series.map((one) => rows.map(one.value));
    const most = Math.max(0, ...values.flat().filter((value) => value !== null));
    const top = roundUp(most, this.least);
    values.forEach((line, at) => this.trace(this.marks[at], line, top));
    setText(this.topLabel, this.format(top));
    setText(this.middleLabel, this.format(top / 2));
    this.read();
    const readings = this.readings.map((reading) => reading.textContent).join(", ");
    this.drawing.setAttribute("aria-label", `${this.title}, last five minutes: ${readings}`);
  }

  trace({ line, area }, values, top) {
    const across = WIDTH / Math.max(1, values.length - 1);
    const points = values.map((value, at) =>
      value === null
        ? null
        : `${(at * across).toFixed(2)} ${(HEIGHT * (1 - value / top)).toFixed(2)}`,
    );
    if (area === null) {
      // A line of length 0 with round ends is a dot, however the drawing is stretched.
      line.setAttribute("d", points.map((point) => (point ? `M${point}h0` : "")).join(""));
      return;
    }
    const path = points.map((point) => point ?? "").join("L");
    line.setAttribute("d", `M${path}`);
    area.setAttribute("d", `M0 ${HEIGHT}L${path}L${WIDTH} ${HEIGHT}Z`);
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    const share = event === null ? null : (event.clientX - box.left) / box.width;
    this.pointed = share === null ? null : Math.min(1, Math.max(0, share));
    const x = this.pointed === null ? null : (this.pointed * WIDTH).toFixed(2);
    this.cursor.setAttribute("d", x === null ? "" : `M${x} 0V${HEIGHT}`);
    this.read();
  }

  /** Show each series' value under the pointer, or else its maximum. */
  read() {
    this.series.forEach((one, at) => setText(this.readings[at], this.reading(one)));
    const at = this.pointedRow;
    setText(this.when, at === null ? "" : `${this.rows.length - 1 - at} s ago`);
  }

  get pointedRow() {
    const last = this.rows.length - 1;
    return this.pointed === null || last < 0 ? null : Math.round(this.pointed * last);
  }

  reading(one) {
    const name = this.series.length > 1 ? `${one.name} ` : "";
    const at = this.pointedRow;
    if (at !== null) {
      const value = one.value(this.rows[at]);
      return name + (value === null ? "–" : this.format(value));
    }
    const known = this.rows.map(one.value).filter((value) => value !== null);
    if (known.length === 0) return "no data yet";
    const most = this.format(Math.max(...known));
    return name ? `${name}≤ ${most}` : `up to ${most}`;
  }
}
