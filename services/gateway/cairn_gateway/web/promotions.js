// Aliases of models that are moved, at once or with a second person's consent; what waits for it, and what was decided.

import { call, get } from "./api.js";
import { ago, h, idOf, words } from "./dom.js";
import { link, refOf } from "./ref.js";

const MOST = 50;

export class Promotions {
  /** `changed` is called after something was moved. */
  constructor(team, changed) {
    this.team = team;
    this.changed = changed;
    this.version = h("select", { "aria-label": "Version to promote" });
    this.alias = h("input", { type: "text", value: "production", "aria-label": "Alias", required: true });
    this.note = h("input", { type: "text", placeholder: "Why (for people)", "aria-label": "Why", maxlength: 500 });
    this.said = h("p", { role: "status", hidden: true });
    this.form = h("form", { class: "bar", onsubmit: (event) => this.promote(event) },
      this.version, h("span", { class: "dim" }, "to"), this.alias, this.note, h("button", { class: "main" }, "Promote"));
    this.list = h("div", {});
    this.node = h("section", { class: "quota" }, h("h2", {}, "Promotion"), this.form, this.said, this.list);
  }

  async draw(versions) {
    const chosen = this.version.value;
    this.version.replaceChildren(...versions.map((one) => h("option", { value: one.name }, refOf(one.name).text)));
    if (versions.some((one) => one.name === chosen)) this.version.value = chosen;
    this.form.hidden = !versions.length;
    const { promotions = [] } = await get(`/teams/${this.team}/promotions`, { page_size: MOST });
    const rows = promotions.map((one) => h("tr", {}, [this.state(one), h("b", {}, link(one.version)), one.alias, idOf(one.requester), one.note || "",
      one.state === "PENDING" ? "" : idOf(one.decider), one.decision || "", ago(one.decide_time || one.create_time)].map((cell) => h("td", {}, cell))));
    this.list.replaceChildren(rows.length ? h("div", { class: "card scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["", "Version", "Alias", "Asked by", "Why", "Decided by", "Said", ""].map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows))) : "");
  }

  state(one) {
    if (one.state !== "PENDING") return h("span", { class: one.state === "APPROVED" ? "tag best" : "tag" }, words(one.state));
    const button = (verb) => h("button", { onclick: () => this.decide(one, verb.toLowerCase()) }, verb);
    return h("span", {}, h("span", { class: "tag" }, "waits for consent"), " ", button("Approve"), " ", button("Reject"));
  }

  promote(event) {
    event.preventDefault();
    const name = this.version.value;
    const alias = this.alias.value.trim();
    return this.act(`/${name}:promote`, { alias, note: this.note.value },
      (made) => (made.state === "PENDING" ? `${refOf(name).text} waits for an admin who is somebody else to approve it.` : `${alias} is ${refOf(name).text} now.`));
  }

  decide(one, verb) {
    return this.act(`/${one.name}:${verb}`, {}, (made) => `${refOf(made.version).text} to ${made.alias}: ${words(made.state)}.`);
  }

  async act(path, body, tell) {
    let wrong = false;
    try {
      this.said.textContent = tell(await call("POST", path, { body }));
      this.changed();
    } catch (error) {
      wrong = true;
      this.said.textContent = error.message;
    }
    this.said.hidden = false;
    this.said.classList.toggle("wrong", wrong);
  }
}
