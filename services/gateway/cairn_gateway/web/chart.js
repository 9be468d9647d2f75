// A small line chart: nice ticks, a crosshair with values, bands where buckets hold more than one step.

import { axisOf, over } from "./axes.js";
import { color, h, number, svg } from "./dom.js";

const WIDTH = 480;
const HEIGHT = 210;
const LEFT = 46;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;

/** A chart of one metric. `update([{label, color, series}], marks)` draws; `series` is the API's Series. */
export class Chart {
  constructor(title) {
    this.log = false;
    this.lines = [];
    this.marks = [];
    this.now = h("span", { class: "now" });
    this.scale = h("button", { class: "quiet", title: "Logarithmic scale", onclick: () => this.toggle() }, "log");
    this.svg = svg("svg", { role: "img", "aria-label": title, preserveAspectRatio: "none" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.node = h("section", { class: "card chart" }, h("header", {}, h("b", {}, title), this.now, this.scale), this.svg, this.tip);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.size = new ResizeObserver(() => this.draw());
    this.size.observe(this.svg);
  }

  close() {
    this.size.disconnect();
  }

  toggle() {
    this.log = !this.log;
    this.scale.classList.toggle("on", this.log);
    this.draw();
  }

  update(lines, marks = [], axis = "step") {
    this.axis = axis;
    this.node.title = axis === "step" ? "" : `over ${axis}`;
    this.lines = lines.map(({ series, ...line }) => ({
      ...line,
      steps: series.steps,
      last: series.last.map(Number),
      min: series.exact ? null : series.min.map(Number),
      max: series.exact ? null : series.max.map(Number),
    }));
    this.marks = marks;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth || WIDTH;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const bounds = this.bounds();
    this.svg.replaceChildren();
    if (!bounds) return;
    const x = linear(bounds.x, [LEFT, width - RIGHT]);
    const y = linear(bounds.y, [HEIGHT - BOTTOM, TOP]);
    this.place = { x, y: (value) => y(this.log ? Math.log10(value) : value), width, steps: bounds.x };
    this.axes(bounds, { x, y, width });
    for (const step of this.marks) {
      if (step >= bounds.x[0] && step <= bounds.x[1]) {
        this.svg.append(svg("line", { class: "mark", x1: x(step), x2: x(step), y1: TOP, y2: HEIGHT - BOTTOM }));
      }
    }
    for (const line of this.lines) this.path(line);
    this.cross = svg("g", { visibility: "hidden" });
    this.svg.append(this.cross);
    if (this.at !== undefined) this.show(this.at);
    const only = this.lines.length === 1 ? this.lines[0] : null;
    this.now.textContent = only && only.last.length ? number(only.last[only.last.length - 1]) : "";
  }

  usable(value) {
    return Number.isFinite(value) && (!this.log || value > 0);
  }

  bounds() {
    const x = [Infinity, -Infinity];
    const y = [Infinity, -Infinity];
    for (const line of this.lines) {
      line.last.forEach((last, index) => {
        for (const value of [last, line.min?.[index], line.max?.[index]]) {
          if (value === undefined || !this.usable(value)) continue;
          widen(y, this.log ? Math.log10(value) : value);
          widen(x, line.steps[index]);
        }
      });
    }
    if (x[0] === Infinity) return null;
    if (x[0] === x[1]) x[1] = x[0] + 1;
    const room = (y[1] - y[0]) * 0.06 || Math.abs(y[0]) * 0.1 || 1;
    return { x, y: [y[0] - room, y[1] + room] };
  }

  axes(bounds, { x, y, width }) {
    for (const value of ticks(bounds.y, 5)) {
      const at = y(value);
      this.svg.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      const label = this.log ? number(10 ** value) : tickLabel(value, bounds.y);
      this.svg.append(svg("text", { x: LEFT - 7, y: at + 3.5, "text-anchor": "end" }, label));
    }
    const most = Math.max(2, Math.floor(width / 90));
    for (const value of ticks(bounds.x, most)) {
      if (this.axis === "step" && !Number.isInteger(value)) continue;
      this.svg.append(svg("text", { x: x(value), y: HEIGHT - 6, "text-anchor": "middle" }, tickLabel(value, bounds.x)));
    }
  }

  path(line) {
    const { x, y } = this.place;
    if (line.min) {
      const over = line.steps.map((step, i) => [step, line.max[i]]).filter(([, v]) => this.usable(v));
      const under = line.steps.map((step, i) => [step, line.min[i]]).filter(([, v]) => this.usable(v)).reverse();
      const outline = [...over, ...under].map(([step, v]) => `${x(step).toFixed(1)},${y(v).toFixed(1)}`);
      const band = svg("polygon", { class: "band", points: outline.join(" ") });
      band.style.fill = line.color;
      this.svg.append(band);
    }
    let d = "";
    let pen = false;
    line.steps.forEach((step, index) => {
      const value = line.last[index];
      if (!this.usable(value)) {
        pen = false;
        return;
      }
      d += `${pen ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    });
    const drawn = svg("path", { class: "line", d: line.steps.length === 1 ? `${d}h.01` : d });
    drawn.style.stroke = line.color;
    if (line.steps.length === 1) drawn.style.strokeWidth = "5";
    this.svg.append(drawn);
  }

  hover(event) {
    const box = this.svg.getBoundingClientRect();
    this.at = (event.clientX - box.left) / box.width;
    this.show(this.at);
  }

  leave() {
    this.at = undefined;
    this.tip.hidden = true;
    this.cross?.setAttribute("visibility", "hidden");
  }

  show(fraction) {
    if (!this.place) return;
    const { x, y, width, steps } = this.place;
    const wanted = steps[0] + ((fraction * width - LEFT) / (width - LEFT - RIGHT)) * (steps[1] - steps[0]);
    const near = this.lines.map((line) => nearest(line.steps, wanted)).map((index, i) => ({ line: this.lines[i], index }));
    const found = near.filter(({ index }) => index >= 0);
    if (!found.length) return;
    const closest = found.reduce((a, b) =>
      Math.abs(a.line.steps[a.index] - wanted) <= Math.abs(b.line.steps[b.index] - wanted) ? a : b);
    const step = closest.line.steps[closest.index];
    const at = x(step);
    this.cross.replaceChildren(svg("line", { class: "cross", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { line, index } of found) {
      if (!this.usable(line.last[index])) continue;
      const dot = svg("circle", { cx: x(line.steps[index]), cy: y(line.last[index]), r: 3.5 });
      dot.style.fill = line.color;
      this.cross.append(dot);
    }
    this.cross.setAttribute("visibility", "visible");
    this.label(found, { step, at, width });
  }

  label(found, { step, at, width }) {
    const rows = found.map(({ line, index }) => {
      const key = h("i", { class: "key" });
      key.style.background = line.color;
      return h("div", {}, key, h("span", {}, line.label), h("b", {}, number(line.last[index])));
    });
    this.tip.replaceChildren(h("div", { class: "dim" }, `${this.axis} ${step.toLocaleString("en")}`), ...rows);
    this.tip.hidden = false;
    const left = this.svg.offsetLeft ?? 0;
    const room = this.tip.offsetWidth + 14;
    this.tip.style.left = `${14 + left + (at + room > width ? at - room : at + 10)}px`;
    this.tip.style.top = "3rem";
  }
}

/** Charts of several runs, one for each metric, kept over updates. */
export class Charts {
  constructor() {
    this.node = h("div", { class: "charts" });
    this.byKey = new Map();
  }

  /** `runs` is [{name, label, axes}] in the order of their colours; `series` the API's list. */
  update(runs, series, marks = []) {
    const keys = [...new Set(series.map((one) => one.key))].sort(byImportance);
    for (const key of keys) {
      if (!this.byKey.has(key)) this.byKey.set(key, new Chart(key));
      const lines = runs.flatMap((run, index) => {
        const find = (wanted) => series.find((one) => one.run === run.name && one.key === wanted);
        const found = find(key);
        const axis = found && find(axisOf(run.axes, key));
        return found ? [{ label: run.label, color: color(index), series: axis ? over(found, axis) : found, axis: axis?.key }] : [];
      });
      const axis = lines.find((line) => line.axis)?.axis;
      this.byKey.get(key).update(lines, axis ? [] : marks, axis);
    }
    const nodes = keys.map((key) => this.byKey.get(key).node);
    if (nodes.some((node, index) => this.node.children[index] !== node)) this.node.replaceChildren(...nodes);
    for (const key of keys) this.byKey.get(key).draw();
  }

  close() {
    for (const chart of this.byKey.values()) chart.close();
  }
}

/** What a job used of its machine, beside what it measured. */
export function isSystem(key) {
  return key.startsWith("system/");
}

/** Losses and accuracies first, then by name. */
export function byImportance(a, b) {
  return rank(a) - rank(b) || (a < b ? -1 : 1);
}

function rank(key) {
  if (/acc|f1|auc|score|reward/i.test(key)) return 0;
  if (/loss|error|perplex/i.test(key)) return 1;
  return /lr|learning|time|epoch|grad/i.test(key) ? 3 : 2;
}

/** Ticks at 1, 2 or 5 times a power of ten, about `count` of them. */
export function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const many = rough / power;
  const step = power * (many < 1.5 ? 1 : many < 3.5 ? 2 : many < 7.5 ? 5 : 10);
  const made = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) made.push(Number(at.toPrecision(12)));
  return made;
}

function tickLabel(value, [low, high]) {
  const span = high - low;
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (size >= 1e6 || size < 1e-3) return number(value);
  const digits = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(span))));
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

function linear([a, b], [from, to]) {
  return (value) => from + ((value - a) / (b - a)) * (to - from);
}

function widen(range, value) {
  if (value < range[0]) range[0] = value;
  if (value > range[1]) range[1] = value;
}

function nearest(sorted, value) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - sorted[low - 1] < sorted[low] - value ? low - 1 : low;
}
