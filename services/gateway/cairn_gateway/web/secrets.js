// Secrets of oneself and of the team: their names, who set them and when they were used. Values go in, and never come out.

import { call, get } from "./api.js";
import { ago, h, idOf } from "./dom.js";

export class SecretsView {
  constructor(team) {
    this.team = team;
    this.name = h("input", { type: "text", placeholder: "HF_TOKEN", "aria-label": "Name", required: true, autocomplete: "off", pattern: "[A-Za-z_][A-Za-z0-9_]*" });
    this.value = h("input", { type: "password", placeholder: "Its value", "aria-label": "Value", required: true, minlength: 6, autocomplete: "new-password" });
    this.owner = h("select", { "aria-label": "Whose" }, h("option", { value: "users/me" }, "for my jobs"), h("option", { value: `teams/${team}` }, `for all jobs of ${team}`));
    this.said = h("p", { role: "status", hidden: true });
    this.rows = h("tbody", {});
    this.node = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Secrets"), h("span", { class: "dim" }, "kept encrypted, given to jobs that name them (secrets: [NAME]), shown to nobody")),
      h("form", { class: "bar", onsubmit: (event) => this.keep(event) }, this.name, this.value, this.owner, h("button", { class: "main" }, "Keep")),
      this.said,
      h("section", { class: "quota" }, h("div", { class: "card scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Name", "Of", "Set by", "Set", "Last used", ""].map((head) => h("th", { scope: "col" }, head)))), this.rows))));
  }

  async open() {
    const [mine, shared] = await Promise.all([get("/users/me/secrets"), get(`/teams/${this.team}/secrets`)]);
    const found = [...(mine.secrets || []), ...(shared.secrets || [])];
    const rows = found.map((one) => h("tr", {}, [h("b", {}, one.variable), one.name.startsWith("users/") ? "me" : this.team, idOf(one.setter),
      ago(one.update_time), one.use_time ? ago(one.use_time) : "never", h("button", { onclick: () => this.remove(one) }, "Remove")].map((cell) => h("td", {}, cell))));
    this.rows.replaceChildren(...(rows.length ? rows : [h("tr", {}, h("td", { class: "dim", colspan: 6 }, "Nothing yet."))]));
  }

  close() {}

  event() {}

  keep(event) {
    event.preventDefault();
    const name = this.name.value.trim();
    const value = this.value.value;
    return this.act(`/${this.owner.value}/secrets/${encodeURIComponent(name)}:set`, { value }, () => {
      this.name.value = "";
      return `${name} is kept for attempts that begin from now on.`;
    });
  }

  remove(one) {
    if (!window.confirm(`Remove ${one.variable}? Jobs that name it cannot begin without it.`)) return undefined;
    const owner = one.name.startsWith("users/") ? "users/me" : `teams/${this.team}`;
    return this.act(`/${owner}/secrets/${encodeURIComponent(one.variable)}:delete`, {}, () => `${one.variable} is removed.`);
  }

  async act(path, body, tell) {
    let wrong = false;
    try {
      await call("POST", path, { body });
      this.said.textContent = tell();
      await this.open();
    } catch (error) {
      wrong = true;
      this.said.textContent = error.message;
    }
    this.value.value = "";
    this.said.hidden = false;
    this.said.classList.toggle("wrong", wrong);
  }
}
