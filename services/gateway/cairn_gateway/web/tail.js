// Curves that are followed: read once, then only what is new comes, and what was changed is read anew.

import { get } from "./api.js";

const AT_ONCE = 50;

export class Tail {
  constructor(team, runs, buckets) {
    this.path = `/teams/${team}/series`;
    this.runs = runs;
    this.buckets = buckets;
    this.cursor = "";
    this.series = new Map();
  }

  /** The series as they are now, as the API has them. */
  async read() {
    if (!this.cursor) await this.open();
    else {
      try {
        await this.more();
      } catch (error) {
        if (error.status !== 400) throw error;
        this.cursor = "";
        await this.open();
      }
    }
    return [...this.series.values()];
  }

  async open() {
    let cursor = "";
    try {
      // Before the rest: what comes in between is then in both.
      ({ cursor } = await get(`${this.path}/tail`, { run: this.runs }));
    } catch (error) {
      if (error.status !== 400) throw error; // too many series to follow: all are read each time
    }
    const { series } = await get(this.path, { run: this.runs, max_buckets: this.buckets });
    this.series = new Map(series.map((one) => [name(one), one]));
    this.cursor = cursor;
  }

  async more() {
    const answer = await get(`${this.path}/tail`, { run: this.runs, cursor: this.cursor });
    const anew = [...answer.changed];
    for (const fresh of answer.series) {
      const known = this.series.get(name(fresh));
      const joined = known ? join(known, fresh) : whole(fresh);
      this.series.set(name(fresh), joined);
      if (joined.steps.length > 2 * this.buckets) anew.push(fresh);
    }
    for (let at = 0; at < anew.length; at += AT_ONCE) {
      const some = anew.slice(at, at + AT_ONCE);
      const wanted = { run: [...new Set(some.map((one) => one.run))], key: [...new Set(some.map((one) => one.key))] };
      const { series } = await get(this.path, { ...wanted, max_buckets: this.buckets });
      for (const one of series) this.series.set(name(one), one);
    }
    this.cursor = answer.cursor;
  }
}

const name = (one) => `${one.run}\n${one.key}`;

/** New points as buckets of one step each. */
function whole(fresh) {
  return { ...fresh, min: fresh.last, max: fresh.last, counts: fresh.last.map(() => 1) };
}

/** A series and points behind it; those that it has already are taken once. */
export function join(known, fresh) {
  const end = Number(known.steps.at(-1) ?? -1);
  // What was read after the cursor was taken may be there: its last step is told once more by the points.
  const from = fresh.steps.findIndex((step) => Number(step) > end);
  if (from < 0) return known;
  const more = whole(fresh);
  const joined = { ...known };
  for (const column of ["steps", "times", "last", "min", "max", "counts"]) joined[column] = [...known[column], ...more[column].slice(from)];
  return joined;
}
