// Elements and texts. Everything that came from a run goes through text nodes: there is no innerHTML here.

/** An element: properties that begin with `on` are listeners, children are nodes or texts. */
export function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

export function idOf(name) {
  return (name || "").split("/").pop();
}

/** 0.0012345 as 0.001235, 123456.7 as 123,457, 1e-9 as 1.00e-9. */
export function number(value) {
  const x = Number(value);
  if (value === undefined || value === null) return "–";
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-4 || size >= 1e9) return x.toExponential(2).replace("e+", "e");
  if (Number.isInteger(x)) return x.toLocaleString("en");
  return Number(x.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 8 });
}

/** A param's value in few characters, as it was written. */
export function param(value) {
  if (typeof value === "number") return Math.abs(value) >= 1e-4 && Math.abs(value) < 1e7 ? String(value) : number(value);
  if (typeof value === "string") return value;
  return JSON.stringify(value);
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = Number(count) || 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[at]}`;
}

export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function ago(time) {
  if (!time) return "–";
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return day(time);
}

export function day(time) {
  return new Date(time).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

/** Seconds that something with start_time and end_time took, or has taken so far. */
export function elapsed(item) {
  if (!item.start_time) return NaN;
  const end = item.end_time ? Date.parse(item.end_time) : Date.now();
  return Math.max(0, (end - Date.parse(item.start_time)) / 1000);
}

export function words(state) {
  return (state || "unknown").toLowerCase().replace(/_/g, " ").replace("state unspecified", "unknown");
}

export function stateMark(state) {
  return h("span", { class: `state ${(state || "").toLowerCase()}` }, words(state));
}

/** Console text without its colour codes and other escape sequences. */
export function plain(text) {
  // eslint-disable-next-line no-control-regex
  return text.replace(/\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|\u001b\[[0-?]*[ -/]*[@-~]|\u001b[@-Z\\-_]|[\u0000-\u0008\u000b-\u001f\u007f]/g, "");
}

export function color(index) {
  return `var(--c${index % 8})`;
}

/** Whether the same request can succeed a little later: the server is away, or asks for patience. */
export function passes(error) {
  return error.status === undefined || error.status === 429 || error.status >= 502;
}

/** Calls `work` soon, and at most once in `pause` milliseconds however often it is asked for. Work that failed
 * for a passing reason is done again: the event that asked for it will not come twice. */
export function paced(work, pause) {
  let timer = null;
  let last = 0;
  let again = false;
  let stopped = false;
  const ask = () => {
    again = true;
    if (timer !== null || stopped) return;
    timer = setTimeout(run, Math.max(0, last + pause - Date.now()));
  };
  const run = async () => {
    again = false;
    let failed = false;
    try {
      await work();
    } catch (error) {
      failed = passes(error);
    }
    last = Date.now() + (failed ? 2000 : 0);
    timer = null;
    if (again || failed) ask();
  };
  ask.stop = () => {
    stopped = true;
    clearTimeout(timer);
  };
  return ask;
}
