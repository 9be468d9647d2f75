// One run: curves, attempts, params, console lines and checkpoints, live.

import { Again } from "./again.js";
import { get } from "./api.js";
import { Charts, isSystem } from "./chart.js";
import { Media } from "./media.js";
import { Tail } from "./tail.js";
import { ago, bytes, day, duration, elapsed, h, idOf, paced, param, plain, stateMark, words } from "./dom.js";

const MOST_LINES = 2000;
const FIRST_LINES = 300;
const LOST = [
  ["rejected_points", "were refused: a key or step that cannot be, or a metric too many"],
  ["dropped_points", "were lost where they were logged: a full disk, or an image that the store refused"],
];

export class RunView {
  constructor(team, uid) {
    this.team = team;
    this.uid = uid;
    this.base = `/teams/${team}/runs/${encodeURIComponent(uid)}`;
    this.charts = new Charts();
    this.system = new Charts();
    this.systemCard = h("details", { class: "card pad", hidden: true }, h("summary", {}, "System: what it used of its machine"), this.system.node);
    this.systemCard.addEventListener("toggle", () => this.drawSystem());
    this.tail = new Tail(team, [uid], 800);
    this.media = new Media(this.base);
    this.logs = new Logs(this.base);
    this.title = h("h1");
    this.state = h("span");
    this.facts = h("p", { class: "facts" });
    this.notes = h("p", { class: "notes", hidden: true });
    this.problem = h("div", { class: "card problem", hidden: true });
    this.lost = h("div", { class: "card problem", hidden: true });
    this.dropped = h("p", { class: "dim", hidden: true });
    this.attempts = h("div", { class: "attempts" });
    this.timeline = h("ol", { class: "timeline" });
    this.timelineCard = h("section", { class: "card pad", hidden: true }, h("h2", {}, "Timeline"), this.timeline);
    this.params = h("dl");
    this.files = h("div", { class: "files" });
    this.again = new Again(team, uid, (made) => { location.hash = `#/runs/${made}`; });
    this.origin = h("dl");
    this.noPoints = h("div", { class: "card pad dim" }, "No metrics yet. ", h("code", {}, "cairn.log({\"loss\": loss}, step=step)"), " draws a curve here.");
    const card = (title, ...inner) => h("section", { class: "card pad" }, h("h2", {}, title), ...inner);
    this.node = h("div", {},
      h("div", { class: "head" }, this.title, this.state), this.facts, this.notes, this.problem, this.lost, this.dropped,
      h("div", { class: "cols" },
        h("div", {}, this.noPoints, this.charts.node, this.media.node, this.systemCard, this.logs.node),
        h("div", {}, card("Attempts", this.attempts), this.timelineCard, card("Params", this.params), card("Checkpoints and artifacts", this.files), this.again.node,
          h("section", { class: "card pad" }, h("details", {}, h("summary", {}, "Code and environment"), this.origin)))));
    this.redraw = paced(() => this.drawPoints(), 1000);
    this.retell = paced(() => this.drawTimeline(), 700);
    this.clock = setInterval(() => this.run && this.drawHead(), 1000);
  }

  async open() {
    this.keep(await get(this.base));
    await Promise.all([this.drawPoints(), this.drawSystem(), this.logs.open(), this.media.draw(), this.drawFiles(), this.drawJob()]);
  }

  /** Once it is in the page, and has a size. */
  shown() {
    this.logs.toEnd();
  }

  close() {
    clearInterval(this.clock);
    this.redraw.stop();
    this.retell.stop();
    this.logs.close();
    this.media.close();
    this.charts.close();
    this.system.close();
  }

  trail() {
    return this.run ? this.run.display_name || this.uid : this.uid;
  }

  event(type, data) {
    const [kind] = type.split(".");
    if (type === "reset") this.open().catch(() => {});
    else if (kind === "run" && type !== "run.progressed" && data.uid === this.uid) {
      this.keep(data);
      this.redraw();
      this.logs.more();
    } else if (type === "run.progressed" && idOf(data.run) === this.uid) {
      this.run.summary = { ...this.run.summary, ...data.summary };
      const keys = Object.keys(data.summary);
      if (keys.some((key) => !isSystem(key))) this.redraw();
      if (keys.some(isSystem)) this.drawSystem().catch(() => {});
      if (data.lines) this.logs.more();
      if (data.media.length) this.media.more();
      if (data.lines && this.job?.state === "LAUNCHING") this.retell();
    } else if (kind === "job" && data.uid === this.uid) this.keepJob(data);
    else if (kind === "artifact" && idOf((data.version?.run ? data.version : data).run) === this.uid) this.drawFiles();
  }

  keep(run) {
    if (this.run && this.run.revision > run.revision) return;
    this.run = run;
    this.drawHead();
    this.drawAttempts();
    drawPairs(this.params, Object.entries(run.params).map(([key, value]) => [key, param(value)]), "None.");
    const code = run.code || {};
    const place = [["command", run.command], ["commit", code.git_commit], ["branch", code.git_branch], ["uncommitted", code.git_diff ? "changes were recorded" : ""],
      ["archive", code.digest ? `${code.digest.slice(0, 12)}… ${bytes(code.size)}` : ""]];
    const from = run.origin;
    if (from) place.unshift([from.kind === "RESUME" ? "resumed from" : "rerun of", `${idOf(from.run)}${from.step === undefined ? "" : ` at step ${from.step}`}`]);
    drawPairs(this.origin, [...place.filter(([, value]) => value), ...Object.entries(run.environment)], "Nothing recorded.");
  }

  keepJob(job) {
    if (this.job && this.job.revision > job.revision) return;
    this.job = job;
    const { envs, params } = job.spec;
    this.again.knows(Object.keys({ ...envs, ...params, ...this.run.params }));
    this.drawHead();
    this.drawAttempts();
    this.retell();
  }

  async drawJob() {
    if (!this.run.job) return;
    try {
      this.keepJob(await get(`/teams/${this.team}/jobs/${encodeURIComponent(idOf(this.run.job))}`));
    } catch {
      // Without the scheduler the run is still here to look at.
    }
  }

  drawHead() {
    const { run } = this;
    this.title.textContent = run.display_name || run.uid;
    this.state.replaceChildren(stateMark(run.state));
    this.again.node.hidden = !this.job;
    const fact = (name, value) => h("span", {}, `${name} `, h("b", {}, value));
    this.facts.replaceChildren(
      fact("experiment", idOf(run.experiment) || "default"),
      fact("created", ago(run.create_time)),
      run.start_time ? fact(run.end_time ? "took" : "for", duration(elapsed(run))) : "",
      fact("by", idOf(run.creator) || "–"), ...run.tags.map((tag) => h("span", { class: "tag" }, tag)),
      run.group ? fact("group", run.group) : "",
      h("code", { class: "faint" }, run.uid));
    this.notes.hidden = !run.notes;
    this.notes.textContent = run.notes || "";
    const why = run.state === "PENDING" ? this.job?.reason : run.message;
    this.problem.hidden = !why || run.state === "SUCCEEDED";
    const cause = run.cause && run.state !== "PENDING" ? `${words(run.cause)}: ` : "";
    const lost = LOST.filter(([name]) => run[name]).map(([name, said]) => `${run[name].toLocaleString("en")} points ${said}.`);
    this.lost.hidden = !lost.length;
    this.lost.textContent = lost.join(" ");
    this.dropped.hidden = !run.points_drop_time;
    this.dropped.textContent = run.points_drop_time ? `Raw points were dropped on ${day(run.points_drop_time)} by the team's rule; charts and summaries are as before.` : "";
    this.problem.textContent = why ? `${run.state === "PENDING" ? "Waits: " : cause}${why}` : "";
  }

  drawAttempts() {
    const { attempts } = this.run;
    const times = attempts.filter((one) => one.start_time);
    const from = Math.min(...times.map((one) => Date.parse(one.start_time)));
    const to = Math.max(from + 1, ...times.map((one) => (one.end_time ? Date.parse(one.end_time) : Date.now())));
    const nodes = attempts.map((attempt) => this.attempt(attempt, from, to));
    this.attempts.replaceChildren(...(nodes.length ? nodes : [h("span", { class: "dim" }, this.run.job ? "None started yet." : "This run has no job: it was begun by hand.")]));
  }

  attempt(attempt, from, to) {
    const span = h("div", { class: `span ${(attempt.state || "").toLowerCase()}` });
    if (attempt.start_time) {
      const begin = Date.parse(attempt.start_time);
      const end = attempt.end_time ? Date.parse(attempt.end_time) : Date.now();
      const part = h("i");
      part.style.left = `${((begin - from) / (to - from)) * 100}%`;
      part.style.width = `${((end - begin) / (to - from)) * 100}%`;
      span.append(part);
    }
    const told = this.job?.attempts.find((one) => one.number === attempt.number);
    const resumed = attempt.resumed_step === undefined ? "" : `went on from step ${attempt.resumed_step.toLocaleString("en")}`;
    const cause = attempt.cause && !/unspecified/i.test(attempt.cause) ? words(attempt.cause) : "";
    const why = [resumed, [cause, told?.message].filter(Boolean).join(": ")].filter(Boolean).join(" · ");
    return h("div", { class: "attempt" },
      h("span", { class: "no" }, String(attempt.number)),
      h("div", { class: "line" }, stateMark(attempt.state), h("span", { class: "dim num" }, duration(elapsed(attempt)))),
      span, why ? h("div", { class: "why" }, why) : "");
  }

  async drawTimeline() {
    try {
      const { moments } = await get(`/teams/${this.team}/jobs/${encodeURIComponent(this.uid)}/timeline`);
      const resumed = new Map(this.run.attempts.map((one) => [one.number, one.resumed_step]));
      this.timelineCard.hidden = !moments.length;
      this.timeline.replaceChildren(...moments.map((one) => moment(one, resumed)));
    } catch {
      // Without the scheduler the run is still here to look at.
    }
  }

  async drawPoints() {
    const series = await this.tail.read();
    const marks = this.run.attempts.map((one) => one.resumed_step).filter((step) => step !== undefined);
    this.noPoints.hidden = series.length > 0;
    this.charts.update([{ name: this.run.name, label: this.run.display_name || this.uid, axes: this.run.axes }], series, marks);
  }

  /** Against the seconds since its first sample: its steps are times. Asked for only while it is open. */
  async drawSystem() {
    const keys = Object.keys(this.run.summary).filter(isSystem).sort().slice(0, 100);
    this.systemCard.hidden = !keys.length;
    if (!keys.length || !this.systemCard.open) return;
    const { series } = await get(`/teams/${this.team}/series`, { run: this.uid, key: keys, max_buckets: 400 });
    const first = Math.min(...series.map((one) => Number(one.steps[0])));
    const shown = series.map((one) => ({ ...one, steps: one.steps.map((step) => Number(step) - first) }));
    this.system.update([{ name: this.run.name, label: this.run.display_name || this.uid }], shown);
  }

  async drawFiles() {
    try {
      const { versions } = await get(`/teams/${this.team}/artifacts/-/versions`, { run: this.uid, page_size: 50 });
      this.again.offer(versions);
      this.files.replaceChildren(...(versions.length ? versions.map(file) : [h("span", { class: "dim" }, "None yet.")]));
    } catch (error) {
      this.files.replaceChildren(h("span", { class: "dim" }, error.message));
    }
  }
}

const LASTING = ["WAITING", "HELD", "ADMITTED", "LAUNCHING", "RUNNING", "PREEMPTING", "RECOVERING"];

/** A row of the timeline: when, what, for how long, why. */
function moment(one, resumed) {
  const attempt = one.attempt ? `attempt ${one.attempt} ` : "";
  const ended = one.kind === "ATTEMPT_ENDED" || one.kind === "FINISHED";
  const what = ended ? h("span", {}, one.kind === "FINISHED" ? "" : attempt, stateMark(one.state))
    : h("span", {}, one.kind === "PROVISIONING" ? "" : one.kind === "LAUNCHING" ? `${attempt}launching` : words(one.kind));
  const took = LASTING.includes(one.kind) ? duration(elapsed({ start_time: one.time, end_time: one.end_time })) : "";
  const cause = one.kind === "ATTEMPT_ENDED" && one.cause && !/unspecified/i.test(one.cause) ? words(one.cause.replace("CAUSE_", "")) : "";
  const step = one.kind === "RUNNING" ? resumed.get(one.attempt) : undefined;
  const from = step === undefined ? "" : `from step ${Number(step).toLocaleString("en")}`;
  const why = [from, [cause, plain(one.text || "")].filter(Boolean).join(": ")].filter(Boolean).join(" · ");
  return h("li", { class: one.kind.toLowerCase(), title: one.time },
    h("time", { class: "faint num" }, new Date(one.time).toLocaleTimeString("en-GB")), what,
    h("span", { class: "dim num" }, took), h("span", { class: "why" }, why));
}

function file(version) {
  const kind = words(version.kind.replace("ARTIFACT_KIND_", ""));
  const name = version.name.split("/artifacts/")[1]?.split("/")[0] || version.name;
  const what = version.step === undefined ? name : `step ${version.step.toLocaleString("en")}`;
  return h("div", { title: `${name}:v${version.version}\nsha256 ${version.digest}` },
    h("span", { class: "tag" }, kind), h("span", { class: "grow" }, h("a", { href: `#/lineage/${name}/${version.version}` }, what), h("span", { class: "faint" }, ` v${version.version}`)),
    ...version.aliases.filter((alias) => alias !== "latest").map((alias) => h("span", { class: "tag best" }, alias)),
    h("span", { class: "dim num" }, bytes(version.size)), h("span", { class: "faint num" }, ago(version.create_time)));
}

function drawPairs(list, pairs, none) {
  if (!pairs.length) list.replaceChildren(h("dd", { class: "dim" }, none));
  else list.replaceChildren(...pairs.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, String(value))]));
}

/** The last console lines, and each new one as it comes; stays at the end unless scrolled away from it. */
class Logs {
  constructor(base) {
    this.base = base;
    this.cursor = "";
    this.last = 0;
    this.pane = h("div", { class: "logs", tabindex: "0", role: "log", "aria-label": "Console lines" }, h("div", { class: "platform" }, "No lines yet."));
    this.empty = true;
    this.end = h("button", { class: "quiet", hidden: true, onclick: () => this.toEnd() }, "To the end");
    this.node = h("section", { class: "card" }, h("div", { class: "logtop" }, h("h2", {}, "Console"), h("span", { class: "grow" }), this.end), this.pane);
    this.pane.addEventListener("scroll", () => { this.end.hidden = this.atEnd(); });
    this.more = paced(() => this.fetch(), 700);
  }

  async open() {
    this.cursor = "";
    this.empty = true;
    await this.fetch();
  }

  close() {
    this.more.stop();
  }

  atEnd() {
    return this.pane.scrollHeight - this.pane.scrollTop - this.pane.clientHeight < 30;
  }

  toEnd() {
    this.pane.scrollTop = this.pane.scrollHeight;
  }

  async fetch() {
    for (let full = true; full;) {
      const query = this.cursor ? { cursor: this.cursor, page_size: 1000 } : { tail: FIRST_LINES };
      const answer = await get(`${this.base}/logs`, query);
      full = Boolean(this.cursor) && answer.lines.length === 1000;
      this.cursor = answer.cursor;
      if (answer.drop_time && this.empty) this.pane.replaceChildren(h("div", { class: "platform" }, `Lines were dropped on ${day(answer.drop_time)} by the team's rule.`));
      this.add(answer.lines);
    }
  }

  add(lines) {
    if (!lines.length) return;
    const stay = this.atEnd();
    if (this.empty) this.pane.replaceChildren();
    this.empty = false;
    for (const line of lines) {
      if (this.last && line.attempt !== this.last) this.pane.append(h("div", { class: "turn" }, `attempt ${line.attempt}`));
      this.last = line.attempt;
      this.pane.append(h("div", { class: line.stream }, plain(line.text) || " "));
    }
    while (this.pane.childElementCount > MOST_LINES) this.pane.firstElementChild.remove();
    if (stay) this.toEnd();
  }
}
