// Coming in: by single sign-on, by password, by a token, or by an invitation's link. A password or a provider opens
// a session in a cookie that no script reads; a token stays in this tab.

import { call, get, session } from "./api.js";
import { h } from "./dom.js";

const COOKIE = { "X-Cairn-Cookie": "1" };

const field = (name, label, props) => h("input", { name, "aria-label": label, placeholder: label, required: true, ...props });
const wrong = () => h("p", { class: "bad", role: "alert" });

/** A card with a form; `send` gets its values, and says by an error why it did not work. */
function card(title, intro, fields, button, send, rest = []) {
  const told = wrong();
  const submit = async (event) => {
    event.preventDefault();
    const go = event.target.querySelector("button");
    go.disabled = true;
    told.textContent = "";
    try {
      await send(Object.fromEntries(new FormData(event.target)));
    } catch (error) {
      told.textContent = error.message;
    }
    go.disabled = false;
  };
  const form = h("form", { class: "stack", onsubmit: submit }, ...fields, h("button", { class: "main" }, button));
  return h("div", { class: "card login" }, h("h1", {}, title), h("p", { class: "dim" }, ...intro), form, told, ...rest);
}

// Why single sign-on did not work; a link that names anything else says nothing here.
const WHY = {
  INVITATION_NEEDED: "Nobody has invited the address that your provider has verified. Ask an admin of your team.",
  LOGIN_REFUSED: "That did not work: it was not begun in this browser, took too long, or your account is disabled. Begin again.",
  PROVIDER_UNAVAILABLE: "The provider does not answer; try again, or come in another way.",
  RATE_EXCEEDED: "Too many attempts from your address; try again in some minutes.",
  SIGN_ON_OFF: "Single sign-on is not set up here.",
};

export const why = (reason) => (Object.hasOwn(WHY, reason) ? WHY[reason] : "That did not work; begin again.");

/** A place for the button of single sign-on, which appears where there is one. */
function signOn() {
  const place = h("div", { class: "sign-on" });
  const told = wrong();
  const go = async (event) => {
    event.target.disabled = true;
    try {
      const path = location.hash.slice(1);
      const begun = await call("POST", "/oidc/logins", { body: path.startsWith("/") ? { return_path: path } : {}, entering: true });
      location.assign(begun.url);
    } catch (error) {
      told.textContent = error.message;
      event.target.disabled = false;
    }
  };
  get("/sign-in").then(({ single_sign_on: name }) => {
    if (name) place.append(h("button", { class: "main", onclick: go }, name), told);
  }).catch(() => {});
  return place;
}

/** The card for somebody whom the provider knows, and who has a password here. */
export function confirmCard(done) {
  return card("Is it you?", ["There is a user with your address here. Give the password once; from then on single sign-on is enough."], [
    field("password", "Password", { type: "password", autocomplete: "current-password" }),
  ], "It is me", async ({ password }) => {
    const opened = await call("POST", "/oidc/logins:confirm", { body: { password }, entering: true });
    history.replaceState(null, "", `#${opened.return_path}`);
    done();
  });
}

/** The card to sign in by; `done` is called once that has worked. */
export function signInCard(message, done) {
  const byPassword = card("Sign in", [message], [
    field("email", "E-mail address", { type: "email", autocomplete: "username" }),
    field("password", "Password", { type: "password", autocomplete: "current-password" }),
  ], "Sign in", async ({ email, password }) => {
    await call("POST", "/sessions", { body: { email, password }, headers: COOKIE, entering: true });
    done();
  }, [signOn()]);
  const byToken = card("With a token", [h("code", {}, "cairn open"), " signs you in; ", h("code", {}, "cairn up"), " prints your token. It stays in this tab."], [
    field("token", "Token", { type: "password", autocomplete: "off" }),
  ], "Go", ({ token }) => {
    session.token = token.trim();
    done();
  });
  return h("div", { class: "entry" }, byPassword, byToken);
}

/** The card that an invitation's link leads to; a first admin's says its address, too. */
export function inviteCard(secret, done, { first } = {}) {
  const intro = first ? "Set the first admin's password." : "You were invited. Choose a password; if you have an account here already, give its password.";
  return card("Welcome to Cairn", [intro], [
    ...(first ? [field("email", "Your e-mail address", { type: "email", autocomplete: "username" })] : []),
    field("display_name", "Your name", { autocomplete: "name", required: false }),
    field("password", "Password, 10 characters or more", { type: "password", autocomplete: "new-password", minlength: 10 }),
  ], "Come in", async (given) => {
    await call("POST", "/invitations:accept", { body: { secret, ...given }, headers: COOKIE, entering: true });
    done();
  }, first ? [] : [signOn()]);
}

/** The view in which somebody lets a command line in that shows this code. */
export class DeviceView {
  constructor(code) {
    this.code = code;
    this.node = h("div");
  }

  async open() {
    const login = await get(`/device-logins/${encodeURIComponent(this.code)}`);
    const done = (text) => this.node.replaceChildren(h("div", { class: "card login" }, h("h1", {}, text), h("p", { class: "dim" }, "You can close this page.")));
    this.node.replaceChildren(card("Let it in?", [h("b", {}, login.client || "A command line"), ` at ${login.address || "an unknown address"} asks to act as you. Does it show this code?`, h("br"), h("b", { class: "code" }, login.code)], [], "Yes, let it in", async () => {
      await call("POST", `/device-logins/${encodeURIComponent(this.code)}:approve`, { body: {} });
      done("It is in.");
    }, [h("button", { class: "quiet", onclick: () => done("It stays out.") }, "No")]));
  }

  event() {}

  close() {}
}

/** The view in which somebody lets in the command line that has opened this browser, and listens on this machine. */
export class LoopbackView {
  constructor(query) {
    const port = query.get("port") || "";
    // By number, and never elsewhere: what is handed over here is somebody.
    this.redirect = /^[1-9][0-9]{3,4}$/.test(port) ? `http://127.0.0.1:${port}/callback` : "";
    this.port = port;
    this.state = query.get("state") || "";
    this.challenge = query.get("challenge") || "";
    this.client = (query.get("on") || "this computer").slice(0, 60);
    this.node = h("div");
  }

  async open() {
    if (!this.redirect) throw new Error("This address is not whole: run cairn login again.");
    const me = await get("/users/me");
    const who = me.email || me.name.split("/").pop();
    const no = () => location.assign(`${this.redirect}?${new URLSearchParams({ error: "access_denied", state: this.state })}`);
    this.node.replaceChildren(card("Let it in?", [h("b", {}, `cairn on ${this.client}`), ` (this computer, port ${this.port}) asks to act as `, h("b", {}, who), ". Say yes only if you have just run ", h("code", {}, "cairn login"), " here."], [], "Yes, let it in", async () => {
      const body = { redirect_uri: this.redirect, state: this.state, code_challenge: this.challenge, client: `cairn on ${this.client}` };
      location.assign((await call("POST", "/loopback-logins", { body })).url);
    }, [h("button", { class: "quiet", onclick: no }, "No")]));
  }

  event() {}

  close() {}
}

/** Ends the session: the cookie's is revoked, a token is only forgotten by this tab. */
export async function leave() {
  if (session.token) session.token = "";
  else await call("POST", "/session:end", { body: {} }).catch(() => {});
}
