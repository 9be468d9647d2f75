// The quota tree with what is used, borrowed and lent; budgets with what is left; what was computed this month.

import { get } from "./api.js";
import { h, idOf, number, paced } from "./dom.js";

const HOUR = 3.6e6;
const MONEY = 1e6;

export class QuotaView {
  constructor(team) {
    this.team = team;
    this.node = h("div", {});
    this.redraw = paced(() => this.draw(), 3000);
  }

  async open() {
    await this.draw();
  }

  close() {
    this.redraw.stop();
  }

  event(type) {
    if (type.startsWith("job.") || type === "reset") this.redraw();
  }

  trail() {
    return "quotas";
  }

  async draw() {
    const now = new Date();
    const month = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1)).toISOString();
    const [tree, usage] = await Promise.all([
      get("/quota/tree", { use: "true" }),
      get(`/teams/${this.team}/usage/sums`, { group_by: ["USER", "FLAVOR"], start_time: month }),
    ]);
    const currency = tree.currency || "";
    this.node.replaceChildren(
      h("div", { class: "head" }, h("h1", {}, "Quotas and use"), h("span", { class: "dim" }, `version ${tree.version || 0} of the tree`)),
      section("Who may use how much", ["Node", "What", "", "Used", "Of", "At most", ""], treeRows(tree)),
      section("Budgets", ["Budget", "Covers", "", "Spent", "Held", "Left", "Of", "When spent"], budgetRows(tree, currency)),
      section(`Computed this month by team ${this.team}`, ["Who", "Flavor", "GPU-hours", "CPU-hours", "Cost", "Jobs"], usageRows(usage, currency)));
  }
}

const NUMBERS = new Set(["Used", "Of", "At most", "Spent", "Held", "Left", "GPU-hours", "CPU-hours", "Cost", "Jobs"]);

function section(title, heads, rows) {
  const cells = heads.map((head) => h("th", { scope: "col", class: NUMBERS.has(head) ? "num" : null }, head));
  const body = rows.length ? rows : [h("tr", {}, h("td", { class: "dim", colspan: heads.length }, "Nothing yet."))];
  return h("section", { class: "quota" }, h("h2", {}, title),
    h("div", { class: "card scroll" }, h("table", {}, h("thead", {}, h("tr", {}, cells)), h("tbody", {}, body))));
}

function treeRows(tree) {
  const nodes = tree.nodes || [];
  const depth = new Map();
  return nodes.flatMap((node) => {
    depth.set(node.id, node.parent ? (depth.get(node.parent) ?? 0) + 1 : 0);
    const most = new Map((node.quotas || []).map((one) => [`${one.flavor} ${one.resource}`, one.max]));
    const uses = (node.uses || []).filter((use) => Number(use.used) || Number(use.nominal) || most.get(`${use.flavor} ${use.resource}`) !== undefined);
    return (uses.length ? uses : [null]).map((use, index) => useRow(node, use, { first: index === 0, depth: depth.get(node.id), most }));
  });
}

function useRow(node, use, { first, depth, most }) {
  const kind = [(node.kind || "").toLowerCase(), node.implied ? "not in the tree file" : "", /^(HOLD|DRAIN)$/.test(node.stop || "") ? node.stop.toLowerCase() : ""].filter(Boolean).join(", ");
  const name = first ? h("span", {}, "\u2003".repeat(depth), h("b", {}, node.id), " ", h("small", { class: "faint" }, kind)) : "";
  if (!use) return h("tr", {}, h("td", {}, name), h("td", { colspan: 6 }));
  const bound = most.get(`${use.flavor} ${use.resource}`);
  const nominal = Number(use.nominal || 0);
  const used = Number(use.used || 0);
  const notes = [Number(use.borrowed) ? `borrows ${units(use.borrowed)}` : "", Number(use.lent) ? `lends ${units(use.lent)}` : ""].filter(Boolean).join(", ");
  return h("tr", {}, h("td", {}, name), h("td", {}, use.flavor === "*" ? use.resource : `${use.flavor} ${use.resource}`),
    h("td", {}, gauge(used, nominal || Number(bound || 0))), h("td", { class: "num" }, units(used)),
    h("td", { class: "num" }, nominal ? units(nominal) : "–"), h("td", { class: "num" }, bound === undefined ? "–" : units(bound)), h("td", { class: "dim" }, notes));
}

function budgetRows(tree, currency) {
  return (tree.budgets || []).filter((one) => one.balance).map((one) => {
    const scale = one.unit === "GPU_HOURS" ? HOUR : MONEY;
    const unit = one.unit === "GPU_HOURS" ? "GPU-h" : currency;
    const of = (name) => Number(one.balance[name] || 0) / scale;
    const covers = [one.node, one.user ? `user ${one.user}` : ""].filter(Boolean).join(" ");
    const rule = (one.overrun || "DENY_NEW").toLowerCase().replace("_", " ") + (one.safe ? ", safe" : "");
    return h("tr", {}, h("td", {}, h("b", {}, one.id)), h("td", {}, covers), h("td", {}, gauge(of("settled") + of("held"), of("granted"))),
      ...["settled", "held", "available"].map((name) => h("td", { class: "num" }, number(of(name)))),
      h("td", { class: "num" }, `${number(of("granted"))} ${unit}`), h("td", { class: "dim" }, rule));
  });
}

function usageRows(usage, currency) {
  return (usage.rows || []).map((row) => h("tr", {},
    h("td", {}, idOf(row.user) || "–"), h("td", {}, row.flavor || "–"),
    h("td", { class: "num" }, number(Number(row.gpu_millis || 0) / HOUR)), h("td", { class: "num" }, number(Number(row.cpu_millis || 0) / HOUR)),
    h("td", { class: "num" }, Number(row.money_micros) ? `${number(Number(row.money_micros) / MONEY)} ${currency}` : "–"),
    h("td", { class: "num" }, number(Number(row.jobs || 0)))));
}

function gauge(used, limit) {
  if (!limit) return "";
  return h("meter", { min: 0, max: limit, high: limit * 0.8, optimum: 0, value: Math.min(used, limit), "aria-label": `${used} of ${limit}` });
}

function units(milli) {
  return number(Number(milli || 0) / 1000);
}
