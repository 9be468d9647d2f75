// What a share link shows: its runs side by side, and nothing that leads elsewhere.

import { call } from "./api.js";
import { CompareView } from "./compare.js";
import { h } from "./dom.js";

export class ShareView extends CompareView {
  constructor(secret) {
    super("", []);
    this.asked = { headers: { Authorization: `Bearer ${secret}` }, entering: true };
  }

  async load() {
    const [shared, series] = await Promise.all([
      call("GET", "/shared", this.asked),
      call("GET", "/shared/series", { ...this.asked, query: { max_buckets: 500 } }),
    ]);
    const until = new Date(shared.share.expire_time).toLocaleDateString();
    const many = shared.runs.length === 1 ? "1 run" : `${shared.runs.length} runs side by side`;
    this.node.querySelector(".head").replaceChildren(h("h1", {}, many), h("span", { class: "dim" }, `shared read-only, until ${until}`));
    return [shared.comparison, series.series];
  }

  named(run, label) {
    return h("span", {}, label);
  }
}
