// Runs a job again: from the beginning, or on from one of its checkpoints, in a new run.

import { call, get } from "./api.js";
import { h, idOf, number } from "./dom.js";

const RECORDED_MS = 20_000;
const PAUSE_MS = 250;

export class Again {
  /** `begun` is called with the new job, once its run is recorded. */
  constructor(team, uid, begun) {
    this.team = team;
    this.base = `/teams/${team}/jobs/${encodeURIComponent(uid)}`;
    this.begun = begun;
    this.names = new Set();
    this.changes = h("input", { type: "text", placeholder: "lr=1e-4 epochs=20", "aria-label": "Variables with other values" });
    this.from = h("select", { "aria-label": "Checkpoint to go on from", onchange: () => { this.chosen = this.from.value; } });
    this.resume = h("button", { onclick: () => this.send("resume") }, "Resume from here");
    this.rerun = h("button", { onclick: () => this.send("rerun") }, "Rerun from the beginning");
    this.said = h("p", { class: "dim", role: "status", hidden: true });
    this.line = h("p", { class: "line", hidden: true }, this.from, this.resume);
    this.node = h("section", { class: "card pad again", hidden: true }, h("h2", {}, "Again"),
      h("p", { class: "dim" }, "With its code, variables, environment and inputs, in a new run."), this.changes, this.line, h("p", { class: "line" }, this.rerun), this.said);
  }

  /** The run's versions, newest first: of these the checkpoints can be gone on from. */
  offer(versions) {
    const found = versions.filter((one) => one.kind === "ARTIFACT_KIND_CHECKPOINT");
    this.from.replaceChildren(...found.map((one, place) =>
      h("option", { value: one.name }, `step ${number(one.step)}${place ? "" : ", the last"}`)));
    // Where nobody has chosen one it stays the last, while others come.
    if (found.some((one) => one.name === this.chosen)) this.from.value = this.chosen;
    this.line.hidden = !found.length;
  }

  /** The job's variables and params: no others can be changed. */
  knows(names) {
    this.names = new Set(names);
  }

  async send(what) {
    this.say("", false);
    const envs = {};
    for (const change of this.changes.value.split(/\s+/).filter(Boolean)) {
      const at = change.indexOf("=");
      if (at < 1) return this.say(`${change}: write it as NAME=value`, true);
      const name = change.slice(0, at);
      if (!this.names.has(name)) return this.say(`${name}: the job has no such variable or param; it has ${[...this.names].sort().join(", ") || "none"}`, true);
      envs[name] = change.slice(at + 1);
    }
    const body = { request_id: random(), envs, ...(what === "resume" ? { checkpoint: this.from.value } : {}) };
    this.resume.disabled = this.rerun.disabled = true;
    try {
      const made = idOf((await call("POST", `${this.base}:${what}`, { body })).name);
      this.say(`Queued ${made}`, false);
      await this.recorded(made);
      this.begun(made);
    } catch (error) {
      this.say(error.message, true);
    } finally {
      this.resume.disabled = this.rerun.disabled = false;
    }
    return undefined;
  }

  /** A job is queued a moment before the tracker has heard of it. */
  async recorded(made) {
    for (const end = Date.now() + RECORDED_MS; Date.now() < end; await new Promise((done) => setTimeout(done, PAUSE_MS))) {
      try {
        await get(`/teams/${this.team}/runs/${made}`);
        return;
      } catch (error) {
        if (error.status !== 404) throw error;
      }
    }
    throw new Error(`Queued ${made}, but nothing is recorded of it yet: look for it among the jobs`);
  }

  say(text, wrong) {
    this.said.textContent = text;
    this.said.hidden = !text;
    this.said.classList.toggle("wrong", wrong);
  }
}

/** One for all tries of one click; also where the page is not from a safe origin. */
function random() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
