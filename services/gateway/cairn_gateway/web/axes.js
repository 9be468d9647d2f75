// Metrics over another one than the step, as a run defined it.

/** The metric that `key` is drawn over; empty: the step. */
export function axisOf(axes, key) {
  const fitting = Object.keys(axes || {}).filter((pattern) => pattern === key || fits(pattern, key));
  if (!fitting.length) return "";
  const best = fitting.reduce((a, b) => (rank(a, key) > rank(b, key) || (rank(a, key) === rank(b, key) && a > b) ? a : b));
  return axes[best] === key ? "" : axes[best];
}

/** A series by the values that its axis, another series of the run, had last at its steps; in their order. */
export function over(series, axis) {
  let at = -1;
  const places = series.steps.map((step) => {
    while (at + 1 < axis.steps.length && Number(axis.steps[at + 1]) <= Number(step)) at += 1;
    return at < 0 ? NaN : Number(axis.last[at]);
  });
  const order = places.map((_, index) => index).filter((index) => Number.isFinite(places[index])).sort((a, b) => places[a] - places[b] || a - b);
  const pick = (values) => order.map((index) => values[index]);
  return { ...series, steps: pick(places), last: pick(series.last), min: pick(series.min), max: pick(series.max) };
}

function rank(pattern, key) {
  return pattern === key ? Infinity : pattern.length;
}

function fits(pattern, key) {
  const parts = pattern.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "s").test(key);
}
