// Models, datasets and evaluations in versions, and what each comes from and what came of it.

import { get } from "./api.js";
import { ago, bytes, h, number, paced, stateMark } from "./dom.js";
import { Promotions } from "./promotions.js";
import { link, refOf } from "./ref.js";

const MOST = 500;
const TITLES = { models: "Models", datasets: "Datasets", evaluations: "Evaluations" };
const SAYS = {
  models: "None yet: cairn.save_model makes one.",
  datasets: "None yet: cairn.save_dataset makes one.",
  evaluations: "None yet: cairn.log_evaluation makes one.",
};

export const isResults = (part) => part in TITLES;

export class ResultsView {
  constructor(team, kind) {
    this.team = team;
    this.kind = kind;
    this.node = h("div", {});
    this.redraw = paced(() => this.open(), 2000);
    this.promotions = kind === "models" ? new Promotions(team, this.redraw) : null;
  }

  async open() {
    const kind = `ARTIFACT_KIND_${this.kind.toUpperCase().replace(/S$/, "")}`;
    const answer = await get(`/teams/${this.team}/artifacts/-/versions`, { kind, page_size: MOST });
    const versions = answer.versions || [];
    await this.promotions?.draw(versions);
    const [heads, cells] = this.columns();
    const body = versions.map((one) => h("tr", {}, cells.map((cell) => h("td", {}, cell(one)))));
    const empty = h("tr", {}, h("td", { class: "dim", colspan: heads.length }, SAYS[this.kind]));
    this.node.replaceChildren(
      h("div", { class: "head" }, h("h1", {}, TITLES[this.kind]), h("nav", { "aria-label": "Kinds of results" },
        Object.entries(TITLES).map(([kind, title]) => h("a", { class: "apart", href: `#/${kind}`, "aria-current": kind === this.kind ? "page" : null }, title)))),
      h("div", { class: "card scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, body.length ? body : [empty]))),
      answer.next_page_token ? h("p", { class: "dim" }, `The newest ${MOST} are shown; the command line has all of them.`) : "",
      this.promotions?.node || "");
  }

  columns() {
    const about = (one) => one.metadata || {};
    const name = (one) => h("b", {}, link(one.name));
    const aliases = (one) => (one.aliases || []).filter((alias) => alias !== "latest").join(", ");
    const metrics = (one) => Object.entries(about(one).metrics || {}).slice(0, 4).map(([key, value]) => `${key} ${number(value)}`).join("   ");
    const last = [(one) => link(one.run), (one) => ago(one.create_time)];
    if (this.kind === "models") return [["Version", "Aliases", "Framework", "Metrics", "Size", "From", ""], [name, aliases, (one) => about(one).framework || "–", metrics, (one) => bytes(one.size), ...last]];
    if (this.kind === "datasets") return [["Version", "Aliases", "Format", "Rows", "Columns", "Size", "Leaderboard", "From", ""], [name, aliases, (one) => about(one).format || "files", (one) => number(about(one).rows), (one) => (about(one).columns || []).slice(0, 6).map((column) => column.name).join(", ") || "–", (one) => (about(one).format === "reference" ? "elsewhere" : bytes(one.size)), (one) => board(refOf(one.name).text), ...last]];
    return [["Version", "Model", "Dataset", "Metrics", "From", ""], [name, (one) => about(one).model || "–", (one) => board(about(one).dataset), metrics, ...last]];
  }

  close() {
    this.redraw.stop();
  }

  event(type) {
    if (/^(artifact|promotion)\./.test(type) || type === "reset") this.redraw();
  }

  trail() {
    return TITLES[this.kind].toLowerCase();
  }
}

export class LineageView {
  /** Of a version, or without one of a run. */
  constructor(team, name, version) {
    this.team = team;
    this.path = version ? `/teams/${team}/artifacts/${name}/versions/${version}/trace` : `/teams/${team}/runs/${name}/trace`;
    this.title = version ? `${name}:v${version}` : name;
    this.node = h("div", {});
  }

  async open() {
    const graph = await get(this.path, { max_nodes: 500 });
    const root = graph.nodes[0];
    this.node.replaceChildren(
      h("div", { class: "head" }, h("h1", {}, refOf(root.name).text), h("span", { class: "dim" }, kindOf(root))),
      h("section", { class: "quota" }, h("h2", {}, "Comes from"), this.steps(graph, true)),
      h("section", { class: "quota" }, h("h2", {}, "Led to"), this.steps(graph, false)),
      graph.truncated ? h("p", { class: "dim" }, "There is more; the nearest are shown.") : "");
  }

  /** One list a step away from it, the nearest first. */
  steps(graph, up) {
    const nodes = graph.nodes.filter((node) => (up ? node.distance < 0 : node.distance > 0));
    if (!nodes.length) return h("div", { class: "card empty dim" }, "Nothing.");
    nodes.sort((one, other) => Math.abs(one.distance) - Math.abs(other.distance));
    const cells = (node) => [
      `${Math.abs(node.distance)}`, kindOf(node), h("b", {}, link(node.name)), (node.aliases || []).filter((alias) => alias !== "latest").join(", "),
      about(node), ago(node.create_time),
    ];
    return h("div", { class: "card scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Steps", "What", "Name", "Aliases", "", ""].map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, nodes.map((node) => h("tr", {}, cells(node).map((cell) => h("td", {}, cell)))))));
  }

  close() {}

  event() {}

  trail() {
    return `lineage of ${this.title}`;
  }
}

/** A dataset as people write it (`digits:v3`), leading to its board. */
function board(ref) {
  const name = (ref || "").split(":")[0];
  return name ? h("a", { href: `#/board/${encodeURIComponent(name)}` }, ref) : "–";
}

function kindOf(node) {
  return /\/runs\//.test(node.name) ? "run" : (node.kind || "").replace("ARTIFACT_KIND_", "").toLowerCase();
}

function about(node) {
  if (node.deleted) return "deleted";
  if (!/\/runs\//.test(node.name)) return node.step === undefined ? "" : `step ${number(node.step)}`;
  const code = [node.git_commit ? `commit ${node.git_commit.slice(0, 12)}` : "", node.code_digest ? `code ${node.code_digest.slice(0, 12)}` : ""].filter(Boolean).join("   ");
  return h("span", {}, stateMark(node.state), ` ${node.display_name || ""} `, h("small", { class: "faint" }, code));
}
