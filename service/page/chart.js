// A live plot of the last minutes: lines or dots over seconds, and what lies under the pointer.

import { element, setText, shape } from "/assets/elements.js";

const WIDTH = 300;
const HEIGHT = 100;
const STEPS = [1, 2, 4, 6, 8, 10];

/** A round number that is not below `value`. */
export function roundUp(value, least) {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return STEPS.map((step) => step * power).find((round) => round >= wanted * 0.999);
}

/**
 * One chart. `series` are {name, value(second), dots}: a line carries on where there is
 * nothing, dots are only where there is something. `format` makes a value readable.
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

  /** Draw these seconds, one row each, oldest first. */
  draw(rows) {
    this.rows = rows;
    const values = this.series.map((one) => rows.map(one.value));
    const most = Math.max(0, ...values.flat().filter((value) => value !== null));
    const top = roundUp(most, this.least);
    values.forEach((line, at) => this.trace(this.marks[at], line, top));
    setText(this.topLabel, this.format(top));
    setText(this.middleLabel, this.format(top / 2));
    this.read();
    const told = this.readings.map((reading) => reading.textContent).join(", ");
    this.drawing.setAttribute("aria-label", `${this.title}, last five minutes: ${told}`);
  }

  trace({ line, area }, values, top) {
    const across = WIDTH / Math.max(1, values.length - 1);
    const points = values.map((value, at) =>
      value === null
        ? null
        : `${(at * across).toFixed(2)} ${(HEIGHT * (1 - value / top)).toFixed(2)}`,
    );
    if (area === null) {
      // A line of no length with round ends is a dot, whatever the drawing is stretched to.
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

  /** Each series under the pointer, else the most of the time shown. */
  read() {
    this.series.forEach((one, at) => setText(this.readings[at], this.tell(one)));
    const at = this.pointedRow;
    setText(this.when, at === null ? "" : `${this.rows.length - 1 - at} s ago`);
  }

  get pointedRow() {
    const last = this.rows.length - 1;
    return this.pointed === null || last < 0 ? null : Math.round(this.pointed * last);
  }

  tell(one) {
    const name = this.series.length > 1 ? `${one.name} ` : "";
    const at = this.pointedRow;
    if (at !== null) {
      const value = one.value(this.rows[at]);
      return name + (value === null ? "–" : this.format(value));
    }
    const known = this.rows.map(one.value).filter((value) => value !== null);
    if (known.length === 0) return "nothing yet";
    const most = this.format(Math.max(...known));
    return name ? `${name}≤ ${most}` : `up to ${most}`;
  }
}
