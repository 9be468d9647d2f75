// The page: signs in, follows the team's events, and shows the view that the URL names.

import { follow, get, session } from "./api.js";
import { BoardView } from "./board.js";
import { CompareView } from "./compare.js";
import { h, passes } from "./dom.js";
import { DeviceView, LoopbackView, confirmCard, inviteCard, leave, signInCard, why } from "./entry.js";
import { QuotaView } from "./quota.js";
import { LineageView, ResultsView, isResults } from "./results.js";
import { RunView } from "./run.js";
import { Runs, RunsView } from "./runs.js";
import { SecretsView } from "./secrets.js";
import { ShareView } from "./share.js";

const at = (id) => document.getElementById(id);
const main = at("main");
const ticked = new Set();
let runs = null;
let view = null;
let team = "";
let unfollow = () => {};
let retry = 0;
// Whether somebody is in, by a token or by a session.
let inside = false;

takeToken();
session.lost = () => signIn(inside || session.token ? "That is not good any more; sign in again." : "");
addEventListener("hashchange", () => {
  if (takeToken() || /^#(invite|setup|share|sign-in)=/.test(location.hash)) start();
  else if (inside) show();
});
at("leave").addEventListener("click", async () => {
  await leave();
  signIn("");
});
at("team").addEventListener("change", (event) => enter(event.target.value));
start();

/** `#token=...`, as `cairn up` prints it (with `&view=/runs/...` for a view to begin at), moves out of the URL
 * before anything else happens. */
function takeToken() {
  const match = location.hash.match(/^#token=([^&]+)(?:&view=(\/.*))?$/);
  if (!match) return false;
  session.token = decodeURIComponent(match[1]);
  history.replaceState(null, "", `#${match[2] || "/runs"}`);
  return true;
}

async function start() {
  const shared = location.hash.match(/^#share=([A-Za-z0-9_-]+)$/);
  if (shared) return showShared(shared[1]);
  const back = location.hash.match(/^#sign-in=([A-Z_]+)$/);
  if (back) {
    history.replaceState(null, "", "#/runs");
    return back[1] === "PASSWORD_NEEDED" ? only(confirmCard(start)) : signIn(why(back[1]));
  }
  const invited = location.hash.match(/^#(invite|setup)=([A-Za-z0-9_-]+)$/);
  if (invited) {
    history.replaceState(null, "", "#/runs");
    return only(inviteCard(invited[2], start, { first: invited[1] === "setup" }));
  }
  try {
    const me = await get("/me");
    inside = true;
    const teams = me.memberships.map((one) => one.team);
    at("team").replaceChildren(...teams.map((one) => h("option", { value: one }, one)));
    at("team").hidden = teams.length < 2;
    at("leave").hidden = false;
    if (!teams.length) return fail(new Error("You are in no team yet."));
    enter(teams.includes(sessionStorage.getItem("cairn.team")) ? sessionStorage.getItem("cairn.team") : teams[0]);
  } catch (error) {
    if (error.status !== 401) fail(error, start);
  }
}

/** What a link shows to whoever has it, signed in or not. */
async function showShared(secret) {
  const made = new ShareView(secret);
  only(made.node);
  document.title = "Shared · Cairn";
  try {
    await made.open();
    made.shown?.();
  } catch (error) {
    fail(error);
  }
}

function enter(name) {
  team = name;
  at("team").value = name;
  sessionStorage.setItem("cairn.team", name);
  unfollow();
  ticked.clear();
  runs = new Runs(team);
  unfollow = follow(team, { event: hear, status: (on) => liveMark(on) });
  liveMark(false);
  show();
}

function hear(type, data) {
  if (type === "reset") runs.load().catch(() => {});
  runs.hear(type, data);
  view?.event(type, data);
}

function liveMark(on) {
  const mark = at("live");
  mark.hidden = false;
  mark.classList.toggle("on", on);
  mark.textContent = on ? "live" : "reconnecting";
}

async function show() {
  clearTimeout(retry);
  const [path, query] = location.hash.slice(1).split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  view?.close();
  const made = viewOf(parts, new URLSearchParams(query || ""));
  view = made;
  trail(parts);
  try {
    await made.open();
    if (view !== made) return;
    main.replaceChildren(made.node);
    made.shown?.();
    trail(parts, made.trail?.());
  } catch (error) {
    if (view === made && error.status !== 401) fail(error, show);
  }
}

function viewOf(parts, query) {
  if (parts[0] === "runs" && parts[1]) return new RunView(team, parts[1]);
  const uids = (query.get("runs") || "").split(",").filter(Boolean).slice(0, 20);
  if (parts[0] === "compare" && uids.length) return new CompareView(team, uids);
  if (parts[0] === "device" && parts[1]) return new DeviceView(parts[1]);
  if (parts[0] === "loopback") return new LoopbackView(query);
  if (parts[0] === "quota") return new QuotaView(team);
  if (parts[0] === "secrets") return new SecretsView(team);
  if (isResults(parts[0])) return new ResultsView(team, parts[0]);
  if (parts[0] === "board" && parts[1]) return new BoardView(team, parts[1], parts[2]);
  if (parts[0] === "lineage" && parts[1]) return new LineageView(team, parts[1], parts[2]);
  return new RunsView(runs, ticked);
}

function trail(parts, name) {
  const sep = () => h("span", { class: "sep" }, "/");
  const inner = { runs: parts[1] ? name || parts[1] : "", compare: "compare", lineage: name || "lineage", board: name || "leaderboard" }[parts[0]] || "";
  const results = isResults(parts[0]);
  const page = (of) => (parts[0] === of ? "page" : null);
  at("trail").replaceChildren(
    h("a", { href: "#/runs" }, "Runs"), ...(inner ? [sep(), h("span", {}, inner)] : []),
    h("a", { class: "apart", href: "#/models", "aria-current": results ? "page" : null }, "Results"),
    h("a", { class: "apart", href: "#/quota", "aria-current": page("quota") }, "Quotas"),
    h("a", { class: "apart", href: "#/secrets", "aria-current": page("secrets") }, "Secrets"));
  const said = inner || { quota: "quotas", secrets: "secrets" }[parts[0]] || (results ? parts[0] : "");
  document.title = said ? `${said} · Cairn` : "Cairn";
}

function fail(error, again) {
  clearTimeout(retry);
  if (again && passes(error)) retry = setTimeout(again, 2000);
  const button = again ? h("button", { onclick: () => again() }, "Try again") : "";
  main.replaceChildren(h("div", { class: "card empty" }, h("h1", {}, error.status === 404 ? "Not here" : "That did not work"), h("p", { class: "dim" }, error.message), button));
}

function signIn(message) {
  session.token = "";
  only(signInCard(message, start));
}

/** A card for who is not in. */
function only(card) {
  clearTimeout(retry);
  unfollow();
  unfollow = () => {};
  view?.close();
  view = null;
  inside = false;
  for (const id of ["live", "team", "leave"]) at(id).hidden = true;
  at("trail").replaceChildren();
  main.replaceChildren(card);
  card.querySelector("input")?.focus();
}
