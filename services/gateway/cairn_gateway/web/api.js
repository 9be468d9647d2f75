// The HTTP API: with this tab's token as a header, or by the session's cookie. By the cookie, what changes
// something brings the proof along that an answer has given, which no other site can read.

const KEY = "cairn.token";
const PROOF = "X-CSRF-Token";
let proof = "";

export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `the server answered ${status}`);
    this.status = status;
    this.reason = document.reason || "";
  }
}

export const session = {
  get token() {
    return sessionStorage.getItem(KEY) || "";
  },
  set token(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  },
  // Called when the token is no longer good.
  lost: () => {},
};

const bearer = () => (session.token ? { Authorization: `Bearer ${session.token}` } : {});

export async function call(method, path, { query, body, signal, headers: more, entering } = {}) {
  const url = new URL(`/api/v1${path}`, location.origin);
  for (const [name, value] of Object.entries(query || {})) {
    for (const item of [value].flat()) if (item !== undefined && item !== "") url.searchParams.append(name, item);
  }
  const headers = { ...bearer(), ...(proof && method !== "GET" ? { [PROOF]: proof } : {}), ...more };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  proof = answer.headers.get(PROOF) || proof;
  if (answer.ok) return answer.json();
  throw await problemOf(answer, entering);
}

export const get = (path, query, signal) => call("GET", path, { query, signal });

/** `entering`: nobody is in yet, so that being refused takes nothing away. */
async function problemOf(answer, entering) {
  let document = {};
  try {
    document = await answer.json();
  } catch {
    // Something between us and the gateway answered; its status is all that there is.
  }
  if (answer.status === 401 && !entering) session.lost();
  return new Problem(document, answer.status);
}

/** Follows a team's events for ever; comes back by id after each break. Returns a function that stops it. */
export function follow(team, { event, status }) {
  const stopper = new AbortController();
  run().catch(() => {});
  return () => stopper.abort();

  async function run() {
    let last = "";
    let pause = 500;
    while (!stopper.signal.aborted) {
      try {
        const headers = { ...bearer(), ...(last ? { "Last-Event-ID": last } : {}) };
        const answer = await fetch(`/api/v1/teams/${encodeURIComponent(team)}/events`, { headers, signal: stopper.signal });
        if (!answer.ok) throw await problemOf(answer);
        for await (const message of frames(answer.body)) {
          pause = 500;
          if (message.id) last = message.id;
          if (message.event === "ready") status(true);
          event(message.event, message.data);
        }
      } catch (error) {
        if (stopper.signal.aborted || error.status === 401) return;
        if (error.status === 400) last = "";
      }
      status(false);
      await new Promise((done) => setTimeout(done, pause * (0.7 + Math.random() * 0.6)));
      pause = Math.min(pause * 2, 8000);
    }
  }
}

async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const made = { id: "", event: "message", data: "" };
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) made[line.slice(0, at)] = line.slice(at + 2);
      }
      if (made.data) yield { ...made, data: JSON.parse(made.data) };
    }
  }
}
