// The first view: every run of the team in a table, live, with rows to tick for a comparison.

import { get } from "./api.js";
import { byImportance, isSystem } from "./chart.js";
import { ago, duration, elapsed, h, idOf, number, paced, param, stateMark } from "./dom.js";

const METRICS_SHOWN = 3;
const PARAMS_SHOWN = 4;
const PAGE = 200;

/** Runs of a team as this page knows them; the version with the higher revision stays. */
export class Runs {
  constructor(team) {
    this.team = team;
    this.byUid = new Map();
    this.next = "";
  }

  async load(more = false) {
    const query = { page_size: PAGE, page_token: more ? this.next : "" };
    const answer = await get(`/teams/${this.team}/runs`, query);
    if (!more) this.byUid.clear();
    for (const run of answer.runs) this.keep(run);
    this.next = answer.next_page_token;
  }

  keep(run) {
    const known = this.byUid.get(run.uid);
    if (!known || run.revision >= known.revision) this.byUid.set(run.uid, run);
  }

  hear(type, data) {
    if (type === "run.created" || type === "run.updated") this.keep(data);
    if (type === "run.progressed") {
      const run = this.byUid.get(idOf(data.run));
      if (run) run.summary = { ...run.summary, ...data.summary };
    }
  }
}

export function isLess(key) {
  return /loss|error/i.test(key);
}

export function best(summary, key) {
  const value = isLess(key) ? summary?.min : summary?.max;
  return value === undefined ? undefined : Number(value);
}

export class RunsView {
  constructor(runs, ticked) {
    this.runs = runs;
    this.ticked = ticked;
    this.rows = new Map();
    this.sort = { by: "created", up: false };
    this.find = h("input", { type: "search", placeholder: "Filter by name, experiment, tag", "aria-label": "Filter", oninput: () => this.draw() });
    this.count = h("span", { class: "count" });
    this.head = h("tr");
    this.body = h("tbody");
    this.more = h("button", { onclick: () => this.loadMore(), hidden: true }, "Show older runs");
    this.tray = h("div", { class: "tray", hidden: true });
    this.table = h("div", { class: "card scroll" }, h("table", { class: "runs" }, h("thead", {}, this.head), this.body));
    this.list = h("div", {}, h("div", { class: "bar" }, this.find, this.count), this.table, h("p", {}, this.more), this.tray);
    this.node = h("div");
    this.soon = paced(() => this.draw(), 300);
    this.clock = setInterval(() => this.tick(), 1000);
  }

  async open() {
    await this.runs.load();
    this.draw();
  }

  close() {
    clearInterval(this.clock);
    this.soon.stop();
  }

  event() {
    this.soon();
  }

  async loadMore() {
    await this.runs.load(true);
    this.draw();
  }

  draw() {
    const all = [...this.runs.byUid.values()];
    this.node.replaceChildren(all.length ? this.list : emptyState());
    if (!all.length) return;
    const shown = this.order(all.filter((run) => this.matches(run)));
    this.count.textContent = shown.length === all.length ? `${all.length} runs` : `${shown.length} of ${all.length} runs`;
    this.more.hidden = !this.runs.next;
    const metrics = commonMetrics(all);
    this.columns(metrics);
    const differing = differingParams(all);
    this.body.replaceChildren(...shown.map((run) => this.row(run, metrics, differing)));
    this.drawTray();
  }

  matches(run) {
    const text = `${run.display_name} ${run.uid} ${idOf(run.experiment)} ${run.tags.join(" ")} ${run.group} ${run.notes} ${run.state}`.toLowerCase();
    return this.find.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  order(runs) {
    const { by, up } = this.sort;
    const value = {
      name: (run) => (run.display_name || run.uid).toLowerCase(),
      state: (run) => run.state,
      attempts: (run) => run.attempts.length,
      duration: (run) => elapsed(run),
      created: (run) => run.create_time || "",
    }[by] || ((run) => best(run.summary[by], by));
    const keyed = runs.map((run) => [value(run), run]);
    const missing = (x) => x === undefined || Number.isNaN(x);
    keyed.sort(([a, x], [b, y]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const order = a < b ? -1 : a > b ? 1 : x.uid < y.uid ? -1 : 1;
      return up ? order : -order;
    });
    return keyed.map(([, run]) => run);
  }

  columns(metrics) {
    const title = (label, by, numeric) => {
      const active = this.sort.by === by;
      const turn = () => {
        this.sort = { by, up: active ? !this.sort.up : isLess(by) || by === "name" || by === "state" };
        this.draw();
      };
      const sort = active ? (this.sort.up ? "ascending" : "descending") : undefined;
      return h("th", { class: numeric ? "num" : "", "aria-sort": sort, scope: "col" }, h("button", { onclick: turn }, label));
    };
    const wanted = JSON.stringify([metrics, this.sort]);
    if (this.drawn === wanted) return;
    this.drawn = wanted;
    this.rows.clear();
    this.head.replaceChildren(
      h("th", { class: "tick", scope: "col", "aria-label": "Compare" }), title("Run", "name"), title("State", "state"), h("th", { scope: "col" }, "Params"),
      ...metrics.map((key) => title(key, key, true)),
      title("Attempts", "attempts", true), title("Duration", "duration", true), title("Created", "created", true));
  }

  /** A row is made again only when what it shows has changed: a click must not lose its target. */
  row(run, metrics, differing) {
    const shown = JSON.stringify([run.revision, run.summary, run.state, differing, this.ticked.has(run.uid)]);
    const known = this.rows.get(run.uid);
    if (known && known.shown === shown) return known.node;
    const node = known ? known.node : h("tr");
    node.className = this.ticked.has(run.uid) ? "ticked" : "";
    const label = run.display_name || run.uid;
    const tick = h("input", { type: "checkbox", "aria-label": `Compare ${label}`, onchange: (event) => this.tickRow(run, event) });
    tick.checked = this.ticked.has(run.uid);
    const took = h("td", { class: "num" }, duration(elapsed(run)));
    const since = h("td", { class: "num dim", title: run.create_time || "" }, ago(run.create_time));
    node.replaceChildren(
      h("td", { class: "tick" }, tick),
      h("td", { class: "name" }, h("a", { href: `#/runs/${encodeURIComponent(run.uid)}`, title: label }, label), h("small", {}, idOf(run.experiment) || "default")),
      h("td", {}, stateMark(run.state)),
      h("td", {}, paramList(run.params, differing)),
      ...metrics.map((key) => metricCell(run.summary[key], key)),
      h("td", { class: "num" }, String(run.attempts.length || "–")), took, since);
    this.rows.set(run.uid, { node, shown, took, since, run });
    return node;
  }

  tickRow(run, event) {
    if (event.target.checked) this.ticked.add(run.uid);
    else this.ticked.delete(run.uid);
    event.target.closest("tr").classList.toggle("ticked", event.target.checked);
    this.drawTray();
  }

  drawTray() {
    const uids = [...this.ticked].filter((uid) => this.runs.byUid.has(uid));
    this.tray.hidden = uids.length === 0;
    const go = () => { location.hash = `#/compare?runs=${uids.map(encodeURIComponent).join(",")}`; };
    const clear = () => {
      this.ticked.clear();
      this.rows.clear();
      this.draw();
    };
    this.tray.replaceChildren(
      h("span", {}, uids.length === 1 ? "1 run" : `${uids.length} runs`),
      h("button", { class: "main", onclick: go }, "Compare"), h("button", { class: "quiet", onclick: clear }, "Clear"));
  }

  tick() {
    for (const { took, since, run } of this.rows.values()) {
      if (!run.end_time) took.textContent = duration(elapsed(run));
      since.textContent = ago(run.create_time);
    }
  }
}

function metricCell(summary, key) {
  if (!summary) return h("td", { class: "num faint" }, "–");
  const top = best(summary, key);
  const small = top === undefined || top === Number(summary.last) ? null : h("small", {}, `best ${number(top)}`);
  return h("td", { class: "num", title: `last at step ${summary.last_step}` }, number(summary.last), small);
}

export function paramList(params, first) {
  const telling = first.filter((key) => key in params);
  const keys = [...telling, ...Object.keys(params).filter((key) => !first.includes(key)).sort()];
  const all = keys.map((key) => `${key}: ${param(params[key])}`).join("\n");
  const count = telling.length > 1 ? Math.min(telling.length, PARAMS_SHOWN) : PARAMS_SHOWN;
  return h("div", { class: "params", title: all }, keys.slice(0, count).map((key) => h("span", {}, h("i", {}, key), param(params[key]))));
}

function commonMetrics(runs) {
  const counts = new Map();
  for (const run of runs) for (const key of Object.keys(run.summary).filter((one) => !isSystem(one))) counts.set(key, (counts.get(key) || 0) + 1);
  const keys = [...counts.keys()].sort((a, b) => byImportance(a, b) || counts.get(b) - counts.get(a));
  return keys.slice(0, METRICS_SHOWN);
}

function differingParams(runs) {
  const values = new Map();
  for (const run of runs) {
    for (const [key, value] of Object.entries(run.params)) {
      if (!values.has(key)) values.set(key, new Set());
      values.get(key).add(JSON.stringify(value));
    }
  }
  return [...values].filter(([, seen]) => seen.size > 1).map(([key]) => key).sort();
}

function emptyState() {
  return h("div", { class: "card empty" },
    h("h1", {}, "No runs yet"),
    h("p", { class: "dim" }, "They appear here by themselves. Four real trainings, with one worker killed on the way:"),
    h("pre", {}, "cairn demo"),
    h("p", { class: "dim" }, "Your own command, as it is:"),
    h("pre", {}, "cairn run -- python train.py --lr 3e-4"),
    h("p", { class: "dim" }, "Metrics from inside it:"),
    h("pre", {}, "import cairn\n\ncairn.init(params={\"lr\": 3e-4})\ncairn.log({\"loss\": loss}, step=step)"));
}
