// The leaderboard of a dataset: how versions of models do on it, best first, with what got worse.

import { get } from "./api.js";
import { ago, h, number, paced } from "./dom.js";
import { link, refOf } from "./ref.js";

export class BoardView {
  /** `version` is a number, or empty for all versions of the dataset. */
  constructor(team, dataset, version) {
    this.dataset = dataset;
    const part = version ? `/versions/${encodeURIComponent(version)}` : "";
    this.path = `/teams/${team}/artifacts/${encodeURIComponent(dataset)}${part}/board`;
    this.metric = "";
    this.node = h("div", {});
    this.redraw = paced(() => this.open(), 2000);
  }

  async open() {
    const board = await get(this.path, { metric: this.metric });
    const keys = [board.metric, ...(board.metric_keys || []).filter((key) => key !== board.metric)].filter(Boolean).slice(0, 12);
    const heads = keys.map((key) => h("th", { scope: "col", class: "num", "aria-sort": key === board.metric ? (board.minimized ? "ascending" : "descending") : null },
      h("button", { onclick: () => this.rankBy(key) }, key)));
    const rows = (board.rows || []).map((row, place) => this.row(row, place, keys));
    const worse = (board.rows || []).filter((row) => (row.regressions || []).length).length;
    this.node.replaceChildren(
      h("div", { class: "head" }, h("h1", {}, `Leaderboard of ${this.dataset}`), worse ? h("span", { class: "wrong" }, `${worse} got worse`) : ""),
      h("div", { class: "card scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "#"), h("th", { scope: "col" }, "Model"), h("th", { scope: "col" }, "Aliases"), heads,
          ["On", "Got worse", ""].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, rows.length ? rows : h("tr", {}, h("td", { class: "dim", colspan: keys.length + 6 }, "No model was evaluated on it yet: cairn.log_evaluation does."))))),
      board.truncated ? h("p", { class: "dim" }, "The newest 2,000 evaluations are ranked.") : "");
  }

  row(row, place, keys) {
    const worse = new Map((row.regressions || []).map((one) => [one.metric, one]));
    const cells = keys.map((key) => h("td", { class: worse.has(key) ? "num wrong" : "num" }, number(row.metrics?.[key])));
    const why = [...worse.values()].map((one) => h("div", { class: "wrong" },
      `${one.metric} ${number(one.was)} → ${number(one.now)} `, h("small", {}, `against ${one.alias ? `${one.alias}, ` : ""}${refOf(one.against).text}`)));
    return h("tr", {}, h("td", { class: "faint num" }, String(place + 1)), h("td", {}, h("b", {}, link(row.model))),
      h("td", {}, (row.aliases || []).filter((alias) => alias !== "latest").map((alias) => h("span", { class: "tag best" }, alias))),
      cells, h("td", {}, link(row.dataset)), h("td", {}, why.length ? why : "–"),
      h("td", {}, h("a", { href: refOf(row.evaluation).href, class: "faint" }, ago(row.create_time))));
  }

  rankBy(key) {
    this.metric = key;
    this.redraw();
  }

  close() {
    this.redraw.stop();
  }

  event(type) {
    if (type.startsWith("artifact.") || type === "reset") this.redraw();
  }

  trail() {
    return `leaderboard of ${this.dataset}`;
  }
}
