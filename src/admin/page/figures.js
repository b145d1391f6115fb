
"use strict";
// Figures: what two answers of /stats say about the time between them. Nothing here touches the page.

const HISTORY_MS = 300000;  // what the charts show
const WINDOW_MS = 60000;    // what "last minute" means

/** The shards that answered both times, each with its earlier figures. Sums would jump when a shard is silent. */
function pairs(earlier, later) {
  const before = new Map(earlier.shards.map((shard) => [shard.shard, shard]));
  return later.shards.filter((shard) => before.has(shard.shard)).map((shard) => [before.get(shard.shard), shard]);
}

/** Seconds between two answers, by the server's clock. */
const seconds_between = (earlier, later) => Math.max(later.uptime_s - earlier.uptime_s, 0.001);

/** How much a counter has grown on all shards. */
function growth(earlier, later, of) {
  return pairs(earlier, later).reduce((sum, [one, other]) => sum + Math.max(of(other) - of(one), 0), 0);
}

const rate = (earlier, later, of) => growth(earlier, later, of) / seconds_between(earlier, later);

/** How much each entry of a map of counters has grown. */
function growth_by_key(earlier, later, of) {
  const sums = new Map();
  for (const [one, other] of pairs(earlier, later)) {
    for (const [key, count] of Object.entries(of(other))) {
      sums.set(key, (sums.get(key) || 0) + Math.max(count - (of(one)[key] || 0), 0));
    }
  }
  return sums;
}

/** The sum of all values of a map of counters. */
const total = (counters) => Object.values(counters).reduce((sum, count) => sum + count, 0);

/** How often clients of a shard were over a limit. Old servers do not count it. */
const limited_of = (shard) => total(shard.limited || {});

/** The durations between two answers: `zero` and a map from bucket to count. */
function durations(earlier, later, of) {
  const sum = { count: 0, zero: 0, buckets: new Map() };
  for (const [one, other] of pairs(earlier, later)) {
    const before = new Map(of(one).buckets);
    sum.zero += Math.max(of(other).zero - of(one).zero, 0);
    for (const [bucket, count] of of(other).buckets) {
      const more = Math.max(count - (before.get(bucket) || 0), 0);
      if (more > 0) sum.buckets.set(bucket, (sum.buckets.get(bucket) || 0) + more);
    }
  }
  sum.count = sum.zero + [...sum.buckets.values()].reduce((all, count) => all + count, 0);
  return sum;
}

/** The upper bound in seconds of the bucket in which a share of all durations ends; null for none. */
function quantile({ count, zero, buckets }, share) {
  if (count === 0) return null;
  let left = Math.max(Math.ceil(share * count), 1) - zero;
  if (left <= 0) return 2 ** -24;
  for (const [bucket, here] of [...buckets].sort(([one], [other]) => one - other)) {
    left -= here;
    if (left <= 0) return 2 ** (bucket / 8);
  }
  return null;
}

/** The samples of the charts, and the answers of the last minute. */
class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.answers = [];  // { at, stats }
    this.points = [];   // { at, NAME: value }
  }

  /** Takes an answer. Returns whether the server was restarted since the previous one. */
  add(at, stats) {
    const last = this.last();
    const restarted = last !== null && (last.pid !== stats.pid || last.uptime_s > stats.uptime_s);
    if (restarted) this.clear();
    this.answers.push({ at, stats });
    // One answer older than the window stays, to be its beginning.
    while (this.answers.length > 2 && this.answers[1].at <= at - WINDOW_MS) this.answers.shift();
    this.points.push({ at, ...this.point() });
    while (this.points[0].at < at - HISTORY_MS) this.points.shift();
    return restarted;
  }

  last() {
    return this.answers.length > 0 ? this.answers[this.answers.length - 1].stats : null;
  }

  previous() {
    return this.answers.length > 1 ? this.answers[this.answers.length - 2].stats : null;
  }

  /** The answer at the beginning of the window. */
  first() {
    return this.answers.length > 1 ? this.answers[0].stats : null;
  }

  point() {
    const [earlier, later] = [this.previous(), this.last()];
    const point = {
      connections: later.node.connections,
      subscriptions: later.node.subscriptions,
      queued: later.node.deliveries.queued,
      blocked: later.node.blocked,
      memory: later.budgets.memory_bytes.used,
    };
    if (earlier === null) return point;
    const per_second = (of) => rate(earlier, later, of);
    const sending = durations(earlier, later, (shard) => shard.receive_to_send);
    return {
      ...point,
      messages_in: per_second((shard) => shard.messages_in),
      messages_out: per_second((shard) => shard.messages_out),
      bytes_in: per_second((shard) => shard.bytes_in),
      bytes_out: per_second((shard) => shard.bytes_out),
      opened: per_second((shard) => shard.opened),
      ended: per_second((shard) => total(shard.closes)),
      refused: per_second((shard) => total(shard.refusals)),
      dropped: per_second((shard) => total(shard.deliveries.dropped)),
      limited: per_second(limited_of),
      p99: quantile(sending, 0.99),
    };
  }
}

// ---- numbers for people ----

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function scaled(value, units, step) {
  let unit = 0;
  while (value >= 0.9995 * step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return SHORT.format(value) + (units[unit] === "" ? "" : "\u00a0" + units[unit]);
}

const is_known = (value) => value !== null && value !== undefined;
const show_count = (value) =>
  !is_known(value) ? "–" : value < 100000 ? GROUPED.format(value) : scaled(value, ["", "k", "M", "G"], 1000);
const show_rate = (value) => (!is_known(value) ? "–" : value < 100 ? SHORT.format(value) : show_count(value));
const show_bytes = (value) => (!is_known(value) ? "–" : scaled(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024));
const show_time = (s) => {
  if (!is_known(s)) return "–";
  if (s < 1e-6) return scaled(s * 1e9, ["ns"], 1000);
  return s < 1 ? scaled(s * 1e6, ["µs", "ms"], 1000) : SHORT.format(s) + "\u00a0s";
};
const show_age = (s) => {
  if (!is_known(s)) return "–";
  if (s < 120) return Math.round(s) + "\u00a0s";
  if (s < 7200) return Math.round(s / 60) + "\u00a0min";
  return s < 172800 ? Math.round(s / 3600) + "\u00a0h" : Math.round(s / 86400) + "\u00a0d";
};
const show_share = (value) => (!is_known(value) ? "–" : SHORT.format(100 * value) + "\u00a0%");
