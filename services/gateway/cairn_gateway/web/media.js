// Histograms, tables and images of a run: the last step of each key, and every other one by a slider.
// What a run logged is data: cells and captions become text, and only raster images become images.

import { get } from "./api.js";
import { bytes, h, number, paced, svg } from "./dom.js";

const RASTER = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);
const MOST_STEPS = 1000;
const MOST_PAGES = 10;
const SHOWN_ROWS = 100;
const WIDTH = 480;
const HEIGHT = 180;

export class Media {
  constructor(base) {
    this.base = `${base}/media`;
    this.shown = new Map();
    this.node = h("div", { class: "charts media" });
    this.more = paced(() => this.draw(), 1500);
  }

  close() {
    this.more.stop();
    for (const one of this.shown.values()) one.clear();
  }

  async draw() {
    for (let token = "", page = 0; page === 0 || token; page += 1) {
      const answer = await get(this.base, { latest_only: true, page_size: 100, page_token: token });
      for (const last of answer.media) {
        if (!this.shown.has(last.key)) {
          const one = new One(this.base, last.key);
          this.shown.set(last.key, one);
          this.node.append(one.node);
        }
        await this.shown.get(last.key).keep(last);
      }
      token = answer.next_page_token;
    }
  }
}

/** One key: its last step, until somebody chooses another. */
class One {
  constructor(base, key) {
    this.base = base;
    this.key = key;
    this.steps = null;
    this.urls = [];
    this.now = h("span", { class: "now" });
    this.slider = h("input", { type: "range", min: "0", hidden: true, "aria-label": `Step of ${key}` });
    this.slider.addEventListener("focus", () => this.ask().catch(() => {}));
    this.slider.addEventListener("input", () => this.choose().catch(() => {}));
    this.body = h("div", { class: "items" });
    this.node = h("section", { class: "card chart" }, h("header", {}, h("b", {}, key), this.now), this.body, this.slider);
  }

  clear() {
    for (const url of this.urls.splice(0)) URL.revokeObjectURL(url);
  }

  async keep(last) {
    const same = this.last && this.last.time === last.time && this.last.step === last.step;
    const atEnd = !this.steps || Number(this.slider.value) === this.steps.length - 1;
    this.last = last;
    this.slider.hidden = last.count < 2;
    if (same) return;
    if (this.steps || isHistogram(last)) await this.ask();
    this.slider.max = String(this.steps ? this.steps.length - 1 : last.count - 1);
    if (atEnd) {
      this.slider.value = this.slider.max;
      await this.show(last);
    }
  }

  /** Its steps, as far as they are not here: what is drawn over steps, or chosen from. */
  async ask() {
    this.steps ||= [];
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const known = this.steps.at(-1)?.step ?? -1;
      if (known >= this.last.step) break;
      const { media } = await get(this.base, { key: this.key, page_size: MOST_STEPS, start_step: known + 1 });
      this.steps.push(...media);
      if (!media.length) break;
    }
    this.slider.max = String(this.steps.length - 1);
  }

  async choose() {
    await this.ask();
    const chosen = this.steps[Number(this.slider.value)];
    if (chosen) await this.show(chosen);
  }

  async show(media) {
    this.asked = media;
    this.now.textContent = `step ${media.step.toLocaleString("en")}`;
    const urls = [];
    const nodes = await Promise.all(media.items.map((item, index) => this.item(media, item, index, urls)));
    if (this.asked !== media) return urls.forEach((url) => URL.revokeObjectURL(url));
    const over = isHistogram(media) && this.steps?.length > 1 ? [overSteps(this.steps)] : [];
    this.body.replaceChildren(...over, ...nodes);
    this.clear();
    this.urls = urls;
  }

  async item(media, item, index, urls) {
    const caption = item.caption ? h("figcaption", {}, item.caption) : "";
    try {
      const found = item.data ? { item } : await get(`${this.base}/content`, { key: this.key, step: media.step, index });
      const inner = !found.item.data ? link(found.url, item) : item.kind === "KIND_IMAGE" ? image(found.item, urls, this.key)
        : item.kind === "KIND_TABLE" ? table(parsed(found.item.data)) : bars(parsed(found.item.data));
      return h("figure", {}, inner, caption);
    } catch (error) {
      const why = error.reason === "BLOB_NOT_FOUND" ? "Its bytes are on their way." : error.message;
      return h("figure", {}, h("span", { class: "dim" }, why), caption);
    }
  }
}

const isHistogram = (media) => media.items[0]?.kind === "KIND_HISTOGRAM";

function decoded(data) {
  return Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
}

function parsed(data) {
  return JSON.parse(new TextDecoder().decode(decoded(data)));
}

function image(item, urls, key) {
  if (!RASTER.has(item.media_type)) return h("span", { class: "dim" }, "Not an image that is shown here.");
  const url = URL.createObjectURL(new Blob([decoded(item.data)], { type: item.media_type }));
  urls.push(url);
  return h("img", { src: url, alt: item.caption || key, loading: "lazy" });
}

function link(url, item) {
  const safe = /^https?:\/\//.test(url || "") ? url : "#";
  return h("a", { href: safe, target: "_blank", rel: "noopener noreferrer" }, `Open (${bytes(item.size)})`);
}

function table({ columns, rows }) {
  const text = (cell) => (cell === null ? "" : typeof cell === "number" ? number(cell) : String(cell));
  const body = rows.slice(0, SHOWN_ROWS).map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, text(cell)))));
  const more = rows.length - SHOWN_ROWS;
  return h("div", { class: "scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", {}, String(name))))), h("tbody", {}, ...body)),
    more > 0 ? h("p", { class: "dim" }, `and ${more.toLocaleString("en")} more rows: cairn media`) : "");
}

/** One histogram: a bar for each bin. */
function bars({ edges, counts, left_out: leftOut }) {
  const most = Math.max(1, ...counts);
  const [low, high] = [Number(edges[0]), Number(edges.at(-1))];
  const across = (value) => ((value - low) / (high - low || 1)) * WIDTH;
  const rects = counts.map((count, at) => svg("rect", {
    x: across(edges[at]), width: Math.max(0.5, across(edges[at + 1]) - across(edges[at]) - 0.5),
    y: (1 - count / most) * HEIGHT, height: (count / most) * HEIGHT, class: "bar",
  }));
  const label = `${number(low)} to ${number(high)}, at most ${most.toLocaleString("en")} in a bin`;
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawn.append(...rects);
  const foot = h("div", { class: "ends dim num" }, h("span", {}, number(low)), h("span", {}, leftOut ? `${leftOut} not finite` : ""), h("span", {}, number(high)));
  return h("div", {}, drawn, foot);
}

/** Histograms side by side, steps across and values up; the darker, the larger the share. */
function overSteps(steps) {
  const all = steps.filter((one) => one.items[0]?.data).map((one) => parsed(one.items[0].data));
  const shown = all.length > 120 ? all.filter((_, at) => at % Math.ceil(all.length / 120) === 0) : all;
  const low = Math.min(...shown.map((one) => Number(one.edges[0])));
  const high = Math.max(...shown.map((one) => Number(one.edges.at(-1))));
  const up = (value) => HEIGHT - ((value - low) / (high - low || 1)) * HEIGHT;
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `over ${shown.length} steps, ${number(low)} to ${number(high)}` });
  const wide = WIDTH / shown.length;
  shown.forEach((one, at) => {
    const most = Math.max(1, ...one.counts);
    one.counts.forEach((count, bin) => {
      if (!count) return;
      const [from, to] = [up(one.edges[bin]), up(one.edges[bin + 1])];
      drawn.append(svg("rect", { x: at * wide, width: wide, y: to, height: Math.max(0.5, from - to), class: "bar", opacity: (0.1 + 0.9 * count / most).toFixed(2) }));
    });
  });
  return h("figure", { class: "over" }, drawn);
}
