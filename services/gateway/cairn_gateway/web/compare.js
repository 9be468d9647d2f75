// Runs side by side: their curves in one chart for each metric, and a table of what differs.

import { call } from "./api.js";
import { Charts, byImportance } from "./chart.js";
import { color, duration, h, idOf, number, paced, param, stateMark } from "./dom.js";
import { isLess } from "./runs.js";
import { Tail } from "./tail.js";

export class CompareView {
  constructor(team, uids) {
    this.team = team;
    this.uids = uids;
    this.charts = new Charts();
    this.tail = new Tail(team, uids, 500);
    this.head = h("tr");
    this.body = h("tbody");
    this.node = h("div", {},
      h("div", { class: "head" }, h("h1", {}, uids.length === 1 ? "1 run" : `${uids.length} runs side by side`)),
      h("div", { class: "card scroll" }, h("table", { class: "compare" }, h("thead", {}, this.head), this.body)),
      h("p"), this.charts.node);
    this.redraw = paced(() => this.draw(), 1500);
  }

  async open() {
    await this.draw();
  }

  close() {
    this.redraw.stop();
    this.charts.close();
  }

  event(type, data) {
    if (type.startsWith("run.") && this.uids.includes(data.uid || idOf(data.run))) this.redraw();
    if (type === "reset") this.redraw();
  }

  /** The comparison, and the curves. */
  load() {
    return Promise.all([
      call("POST", `/teams/${this.team}/runs:compare`, { body: { runs: this.uids } }),
      this.tail.read(),
    ]);
  }

  /** A run's name, leading to it. */
  named(run, label) {
    return h("a", { href: `#/runs/${encodeURIComponent(idOf(run))}` }, label);
  }

  async draw() {
    const [comparison, series] = await this.load();
    const rows = comparison.rows;
    const metrics = [...comparison.metric_keys].sort(byImportance);
    this.head.replaceChildren(
      h("th", { scope: "col" }, "Run"), h("th", { scope: "col" }, "State"),
      ...comparison.param_keys.map((key) => h("th", { class: "num", scope: "col" }, key)),
      ...metrics.map((key) => h("th", { class: "num", scope: "col" }, `best ${key}`)),
      h("th", { class: "num", scope: "col" }, "Attempts"), h("th", { class: "num", scope: "col" }, "Duration"));
    const tops = new Map(metrics.map((key) => [key, top(rows, key)]));
    this.body.replaceChildren(...rows.map((row, index) => this.row(row, index, { comparison, metrics, tops })));
    this.charts.update(rows.map((row) => ({ name: row.run, label: labelOf(row, rows, comparison.param_keys), axes: row.axes })), series);
  }

  row(row, index, { comparison, metrics, tops }) {
    const key = h("i", { class: "key" });
    key.style.background = color(index);
    const label = row.display_name || idOf(row.run);
    return h("tr", {},
      h("td", {}, key, " ", this.named(row.run, label)),
      h("td", {}, stateMark(row.state)),
      ...comparison.param_keys.map((name) => h("td", { class: "num" }, name in row.params ? param(row.params[name]) : "–")),
      ...metrics.map((name) => {
        const value = row.metrics[name];
        const isTop = value && Number(value.best) === tops.get(name);
        const title = value ? `at step ${value.best_step}; last ${number(value.last)}` : "";
        return h("td", { class: `num${isTop ? " best" : ""}`, title }, value ? number(value.best) : "–");
      }),
      h("td", { class: "num" }, String(row.attempts)), h("td", { class: "num" }, duration(Number(row.duration))));
  }
}

/** The best of a metric over the runs; undefined where there is nothing to choose. */
function top(rows, key) {
  const values = rows.map((row) => row.metrics[key]).filter(Boolean).map((value) => Number(value.best)).filter(Number.isFinite);
  const [least, greatest] = [Math.min(...values), Math.max(...values)];
  if (least === greatest) return undefined;
  return isLess(key) ? least : greatest;
}

/** The run's name, with what sets it apart where several have the same one, as the runs of a sweep do. */
function labelOf(row, rows, keys) {
  const name = row.display_name || idOf(row.run);
  const twins = rows.filter((other) => other.display_name === row.display_name);
  if (twins.length < 2) return name;
  const differs = (key) => new Set(twins.map((other) => JSON.stringify(other.params[key]))).size > 1;
  const params = keys.filter((key) => key in row.params && differs(key)).slice(0, 3).map((key) => `${key} ${param(row.params[key])}`);
  return params.length ? params.join(", ") : `${name} ${idOf(row.run).slice(-4)}`;
}
