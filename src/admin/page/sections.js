// Sections: what is shown of the answers.

const dropped_of = (deliveries) => total(deliveries.dropped);
const of_limit = (budget, show) => (budget.limit > 0 ? "of " + show(budget.limit) : "");
const is_nearly_full = (budget) => budget.limit > 0 && budget.used > 0.9 * budget.limit;

const TILES = [
  {
    name: "connections", title: "Connections", show: show_count,
    about: (stats) => of_limit(stats.budgets.connections, show_count),
    is_bad: (value, stats) => stats.budgets.connections.limit > 0 && value > 0.9 * stats.budgets.connections.limit,
  },
  { name: "messages_in", title: "Messages in", show: show_rate, unit: "/s" },
  { name: "messages_out", title: "Messages out", show: show_rate, unit: "/s" },
  { name: "bytes_in", title: "Bytes in", show: show_bytes, unit: "/s" },
  { name: "bytes_out", title: "Bytes out", show: show_bytes, unit: "/s" },
  { name: "p99", title: "Receive to send, p99", show: show_time },
  { name: "opened", title: "Handshakes", show: show_rate, unit: "/s" },
  { name: "ended", title: "Closes", show: show_rate, unit: "/s" },
  { name: "refused", title: "Refused requests", show: show_rate, unit: "/s" },
  { name: "subscriptions", title: "Subscriptions", show: show_count },
  { name: "queued", title: "Deliveries queued", show: show_count },
  { name: "dropped", title: "Deliveries dropped", show: show_rate, unit: "/s", is_bad: (value) => value > 0 },
  { name: "blocked", title: "Blocked connections", show: show_count },
  { name: "limited", title: "Over a limit", show: show_rate, unit: "/s", is_bad: (value) => value > 0 },
  {
    name: "memory", title: "Memory budget", show: show_bytes,
    about: (stats) => of_limit(stats.budgets.memory_bytes, show_bytes),
    is_bad: (_, stats) => is_nearly_full(stats.budgets.memory_bytes),
  },
].map((tile) => new Tile(tile));
at("tiles").append(...TILES.map((tile) => tile.root));

const column = (title, show, key) => ({ title, show, key });
const words = (title, show, key) => ({ title, show, key, is_text: true });

const LATENCY = new Table({
  id: "latency-table", caption: "Percentiles", empty: "Two answers are needed.",
  columns: [
    words("Duration", (row) => row.name),
    ...[["p50", 0.5], ["p99", 0.99], ["p99.9", 0.999], ["max", 1]].map(([title, share]) =>
      column(title, (row) => show_time(quantile(row.durations, share)))),
    column("Count", (row) => show_count(row.durations.count)),
  ],
});

const CONSUMERS = new Table({
  id: "consumers-table", caption: "Connections furthest behind their topics", sort: "Lag",
  empty: "No connection is behind.",
  columns: [
    words("Client", (row) => row.client, (row) => row.client),
    words("Route", (row) => row.path || row.route, (row) => row.path || row.route),
    words("Topics", (row) => row.topics),
    column("Queued", (row) => show_bytes(row.queued), (row) => row.queued),
    column("Lag", (row) => show_bytes(row.lag), (row) => row.lag || 0),
    column("Open", (row) => show_age(row.open_s), (row) => row.open_s || 0),
    column("Number", (row) => row.id),
  ],
});

/** The orders of /topics by the titles of columns. */
const TOPIC_ORDERS = { Topic: "name", Subscribers: "subscribers", "Messages/s": "rate", Bytes: "bytes", Dropped: "dropped" };
const TOPICS = new Table({
  id: "topics-table", caption: "Ten topics of the whole node", sort: "Subscribers", sorted_by_server: true,
  empty: "There are no topics.", changed: () => ask_now(),
  columns: [
    words("Topic", (row) => row.topic, true),
    column("Subscribers", (row) => show_count(row.subscribers), true),
    column("Messages/s", (row) => show_rate(row.rate), true),
    column("Bytes", (row) => show_bytes(row.log_bytes + row.history.bytes), true),
    column("Queued", (row) => show_count(row.deliveries.queued)),
    column("Dropped", (row) => show_count(dropped_of(row.deliveries)), true),
  ],
});

const counted = (id, title, empty) => new Table({
  id, caption: title, sort: "Recently", empty,
  columns: [
    words(title, (row) => row.name, (row) => row.name),
    column("Recently", (row) => show_count(row.recent), (row) => row.recent),
    column("Since start", (row) => show_count(row.all), (row) => row.all),
  ],
});
const CAUSES = counted("causes-table", "Cause", "Nothing has ended.");
const CODES = counted("codes-table", "Code or status", "Nothing was closed.");

const SHARDS = new Table({
  id: "shards-table", caption: "Event loops", sort: "Shard", empty: "No shard answers.",
  columns: [
    { ...words("Shard", (row) => row.shard, (row) => row.shard), },
    column("Connections", (row) => show_count(row.connections), (row) => row.connections),
    column("Messages in/s", (row) => show_rate(row.messages_in), (row) => row.messages_in || 0),
    column("Messages out/s", (row) => show_rate(row.messages_out), (row) => row.messages_out || 0),
    column("Busy", (row) => show_share(row.busy), (row) => row.busy || 0),
    column("Tick p99", (row) => show_time(row.p99), (row) => row.p99 || 0),
  ],
});
SHARDS.descending = false;

const LIMITS = new Table({
  id: "limits-table", caption: "", sort: "Times over it", empty: "No limit is set.",
  columns: [
    words("Limit", (row) => row.name, (row) => row.name),
    column("Value", (row) => row.value),
    column("Recently", (row) => show_count(row.recent)),
    column("Times over it", (row) => show_count(row.all), (row) => (is_known(row.all) ? row.all : -1)),
  ],
});

const REFUSED = new Table({
  id: "refused-table", caption: "Addresses that exceeded limits most often, banned ones first", empty: "No address has exceeded a limit.",
  columns: [
    words("Address", (row) => row.address),
    column("Connections", (row) => show_count(row.connections)),
    column("Refused", (row) => show_count(row.refused)),
    column("Banned for", (row) => (row.banned_s > 0 ? show_age(row.banned_s) : "–")),
  ],
});

const CODE_NAMES = {close_codes};
const STATUS_NAMES = {
  400: "bad request", 401: "unauthorized", 403: "forbidden", 404: "not found", 405: "method not allowed", 408: "timeout",
  426: "upgrade required", 429: "too many requests", 431: "head too large", 503: "unavailable",
};

/** Counters with their growth in the window. */
function with_growth(history, of, name_of) {
  const [first, last] = [history.first(), history.last()];
  const recent = first === null ? new Map() : growth_by_key(first, last, of);
  return Object.entries(of(last.node)).map(([key, all]) => ({ name: name_of(key), recent: recent.get(key) || 0, all }));
}

function show_closes(history) {
  const named = (names) => (key) => (names[key] === undefined ? key : `${key} ${names[key]}`);
  CAUSES.update(with_growth(history, (figures) => figures.causes, (cause) => cause));
  CODES.update([
    ...with_growth(history, (figures) => figures.closes, named(CODE_NAMES)),
    ...with_growth(history, (figures) => figures.refusals, named(STATUS_NAMES)),
  ]);
}

/** The length of the window in words. */
function window_of(history) {
  const first = history.first();
  return first === null ? "" : `last ${show_age(seconds_between(first, history.last()))}`;
}

function show_latency(history) {
  const [first, previous, last] = [history.first(), history.previous(), history.last()];
  if (previous === null) return LATENCY.update([]);
  const kinds = [["Receive to send", (shard) => shard.receive_to_send], ["Tick", (shard) => shard.tick_time]];
  // At first both are the same time, and one row says it.
  const [short, long] = [`last ${show_age(seconds_between(previous, last))}`, window_of(history)];
  const spans = short === long ? [[first, long]] : [[previous, short], [first, long]];
  LATENCY.update(kinds.flatMap(([name, of]) =>
    spans.map(([from, span]) => ({ name: `${name}, ${span}`, durations: durations(from, last, of) }))));
}

function show_shards(history, stalled) {
  const [previous, last] = [history.previous(), history.last()];
  const before = previous === null ? new Map() : new Map(previous.shards.map((shard) => [shard.shard, shard]));
  SHARDS.update(last.shards.map((shard) => {
    const row = { shard: shard.shard, connections: shard.connections, is_bad: stalled.includes(shard.shard) };
    if (!before.has(shard.shard)) return row;
    // The same functions, for a node of this shard only.
    const [one, other] = [{ ...previous, shards: [before.get(shard.shard)] }, { ...last, shards: [shard] }];
    return {
      ...row,
      messages_in: rate(one, other, (figures) => figures.messages_in),
      messages_out: rate(one, other, (figures) => figures.messages_out),
      busy: rate(one, other, (figures) => figures.tick_time.sum_ns) / 1e9,
      p99: quantile(durations(one, other, (figures) => figures.tick_time), 0.99),
    };
  }));
}

function show_stats(history, stalled, now, gap_ms) {
  TILES.forEach((tile) => tile.update(history, now, gap_ms));
  show_latency(history);
  show_closes(history);
  show_shards(history, stalled);
  const stats = history.last();
  at("node").textContent = `${location.host} · ${stats.version} · ${stats.driver.name} · up ${show_age(stats.uptime_s)}`;
  const window = window_of(history);
  CAUSES.caption.textContent = "Ended connections by cause" + (window === "" ? "" : "; recently: " + window);
  CODES.caption.textContent = "WebSockets by close code, and refused requests by status";
}

function show_topics(answer) {
  TOPICS.update(answer.topics);
  at("topics-count").textContent = answer.truncated ? `${GROUPED.format(answer.count)} topics in all` : "";
}

function show_consumers(answer) {
  const behind = answer.connections.filter((one) => one.queued_bytes > 0 || one.lag_bytes > 0);
  CONSUMERS.update(behind.map((one) => ({
    id: one.id,
    client: [one.address || "unix", one.identity, one.process && `(${one.process})`].filter(is_known).join(" "),
    route: one.route, path: one.path, queued: one.queued_bytes, lag: one.lag_bytes, open_s: one.open_s,
    topics: topics_in_words(one),
  })));
}

function topics_in_words({ topics = [], topic_count = 0 }) {
  const shown = topics.slice(0, 3);
  const more = Math.max(topic_count, topics.length) - shown.length;
  if (shown.length === 0) return topic_count > 0 ? `${topic_count} topics` : "–";
  return shown.join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** The counters of `limited` by the key of their limit. */
const COUNTER_OF = {
  max_connections_per_address: "connections_per_address", max_connections_per_identity: "connections_per_identity", handshake_rate: "handshakes",
  handshake_rate_per_address: "handshakes_per_address", message_rate: "messages", byte_rate: "bytes",
  publish_rate: "publications", publish_rate_per_identity: "publications_per_identity", ban_after: "banned",
  subscribe_rate: "subscribe_rate", subscribe_rate_per_identity: "subscribe_rate_per_identity",
  proxy_protocol: "proxy_header", max_connections: "connections", max_header: "header_size", max_message: "message_size",
  message_progress: "message_progress",
  max_subscriptions: "subscriptions", max_subscriptions_per_identity: "subscriptions_per_identity", max_topics: "topics",
  max_topics_per_connection: "topics_per_connection", max_topics_per_identity: "topics_per_identity",
};

function show_limit(key, value) {
  if (!is_known(value) || value === false || value.length === 0) return "–";
  if (typeof value !== "number") return Array.isArray(value) ? value.join(", ") : String(value);
  if (key.endsWith("_s")) return show_age(value);
  return ["byte_rate", "max_header", "max_message", "message_progress"].includes(key) ? show_bytes(value) : GROUPED.format(value);
}

const REFUSED_SHOWN_MAX = 20;
function show_limits({ limits = {}, limited = {}, most_refused = [] }, history) {
  const first = history.first();
  const recent = first === null ? new Map() : growth_by_key(first, history.last(), (shard) => shard.limited || {});
  const rows = Object.entries(limits).map(([key, value]) => {
    const counter = COUNTER_OF[key];
    return { name: key.replace(/_s$/, ""), value: show_limit(key, value), recent: recent.get(counter), all: limited[counter] };
  });
  // One that is not set matters only if clients were over it before a reload.
  LIMITS.update(rows.filter((row) => row.value !== "–" || row.all > 0));
  const window = window_of(history);
  LIMITS.caption.textContent = "Limits that are set, and how often clients were over them" + (window === "" ? "" : "; recently: " + window);
  REFUSED.update(most_refused.slice(0, REFUSED_SHOWN_MAX).map((row) => ({ ...row, is_bad: row.banned_s > 0 })));
}

/** What an operator should know of clients, without figures: a text that changes is read out again. */
function troubles_of(history) {
  const first = history.first();
  if (first === null) return [];
  const of_slow = ({ deliveries: { dropped }, closes }) => total(dropped) - (dropped.disconnect || 0) + (closes[4008] || 0);
  const found = [];
  if (growth(first, history.last(), of_slow) > 0) found.push("Slow subscribers lost messages or were disconnected in the last minute.");
  if (growth(first, history.last(), limited_of) > 0) found.push("Clients were over a limit in the last minute.");
  return found;
}

const BANNED_NAMED_MAX = 3;
/** The addresses that are banned, in a sentence; null for none. */
function bans_in_words({ addresses = {}, most_refused = [] }) {
  const count = addresses.banned || 0;
  if (count === 0) return null;
  const named = most_refused.filter((row) => row.banned_s > 0).slice(0, BANNED_NAMED_MAX).map((row) => shortened(row.address));
  const more = count - named.length;
  return `${count === 1 ? "1 address is" : `${GROUPED.format(count)} addresses are`} banned: ${named.join(", ")}${more > 0 ? ` and ${more} more` : ""}.`;
}
