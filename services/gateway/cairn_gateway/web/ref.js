// What people call a version or a run, and where its page is.

import { h, idOf } from "./dom.js";

export function refOf(name) {
  const found = (name || "").match(/\/artifacts\/([^/]+)\/versions\/(\d+)$/);
  return found ? { text: `${found[1]}:v${found[2]}`, href: `#/lineage/${found[1]}/${found[2]}` } : { text: idOf(name), href: `#/runs/${idOf(name)}` };
}

export function link(name) {
  const { text, href } = refOf(name);
  return name ? h("a", { href }, text) : "–";
}
