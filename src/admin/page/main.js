// Main: asks, keeps the token, and reacts to people.

const ANSWER_TIMEOUT_MS = 8000;
const TOKEN_KEY = "echoring-admin-token";
const INTERVALS = [...at("interval").options].map((option) => Number(option.value));

const history_of_stats = new History();
let token = sessionStorage.getItem(TOKEN_KEY);
let timer = 0;
let is_asking = false;
let is_due = false;        // asked for again meanwhile
let is_paused = false;
let is_locked = false;     // waits for the token
let answered_at = null;    // time of the last answer, by Date.now
let failure = "";          // why there was none since
let stalled = [];          // shards
let notes = [];            // banners: [kind, text]
let unknown = new Set();   // paths that this server does not have

const interval_ms = () => Number(at("interval").value);

// ---- asking ----

async function ask(path) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  // The cache has no part in this, and neither have cookies of other servers on this host.
  const options = { headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) };
  const response = await fetch(path, options);
  return { status: response.status, text: await response.text() };
}

/** The JSON of an answer; null if this server has none. */
async function ask_json(path) {
  const { status, text } = await ask(path);
  if (status === 200) return JSON.parse(text);
  if (status === 404) return null;
  throw status === 401 ? new Locked() : new Error(`${path}: status ${status} ${text.trim().slice(0, 200)}`);
}

class Locked extends Error {}

async function ask_all() {
  const [health, stats] = await Promise.all([ask("healthz"), ask_json("stats")]);
  const found = /stalled shards: \[([\d, ]*)\]/.exec(health.text);
  stalled = found === null ? [] : found[1].split(",").map(Number);
  const now = performance.now();
  const was_restarted = history_of_stats.add(now, stats);
  if (was_restarted) unknown = new Set();
  answered_at = Date.now();
  failure = "";
  at("main").hidden = false;
  show_stats(history_of_stats, stalled, now, gap_ms());
  notes = notes_about(stats, was_restarted);
  // A stalled shard delays the lists, and is to be seen at once. Banners that only the lists know stay until these have come.
  if (stalled.length > 0) show_state();
  await ask_lists();
}

/** Lists that some servers do not have. */
async function ask_lists() {
  const order = TOPIC_ORDERS[TOPICS.sort];
  const lists = [
    ["topics", `topics?sort=${order}&limit=10`, show_topics],
    ["consumers", "connections?sort=lag&limit=10", show_consumers],
    ["limits", "limits", take_limits],
  ];
  await Promise.all(lists.map(async ([section, path, show]) => {
    if (unknown.has(section)) return;
    try {
      const answer = await ask_json(path);
      at(section).hidden = answer === null;
      if (answer !== null) show(answer);
      else unknown.add(section);
    } catch (error) {
      // A stalled shard cannot list what it has; the other figures are new.
      if (error instanceof Locked) throw error;
      notes.push(["warn", `The ${section} are old (${error.message}).`]);
    }
  }));
}

function take_limits(answer) {
  show_limits(answer, history_of_stats);
  const bans = bans_in_words(answer);
  if (bans !== null) notes.push(["warn", bans]);
}

/** A line of a chart is interrupted where answers are further apart. */
const gap_ms = () => 2.5 * Math.max(interval_ms(), 1000);

async function ask_now() {
  if (is_asking || is_locked) {
    is_due = is_asking;
    return;
  }
  is_asking = true;
  clearTimeout(timer);
  try {
    await ask_all();
  } catch (error) {
    if (error instanceof Locked) lock();
    else failure = error.name === "TimeoutError" ? `no answer within ${ANSWER_TIMEOUT_MS / 1000} s` : error.message;
  }
  is_asking = false;
  show_state();
  if (is_due) {
    is_due = false;
    ask_now();
  } else {
    schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  if (!is_paused && !is_locked && !document.hidden) timer = setTimeout(ask_now, interval_ms());
}

// ---- what state all is in ----

function notes_about(stats, was_restarted) {
  const found = notes.filter(([kind]) => kind === "restart");
  if (was_restarted) found.splice(0, 1, ["restart", `The server was restarted or has other shards; its figures begin anew at ${clock(Date.now())}.`]);
  if (stats.driver.name === "epoll") found.push(["warn", "The server runs on epoll: io_uring is not available to it."]);
  if (stats.reloads.last_refused) found.push(["warn", "The last reload was refused; the log has the reason. The old configuration stays in effect."]);
  if (is_nearly_full(stats.budgets.memory_bytes)) found.push(["warn", "More than 90 % of the memory budget is used."]);
  found.push(...troubles_of(history_of_stats).map((text) => ["warn", text]));
  return found;
}

const clock = (time) => new Date(time).toLocaleTimeString();

/** The state in one word, and its banners, most urgent first. */
function state_now() {
  const stats = history_of_stats.last();
  const banners = notes.map(([kind, text]) => [kind === "restart" ? "warn" : kind, text]);
  let state = "serving";
  if (is_paused) state = "paused";
  if (stats !== null && stats.state === "draining") {
    state = "draining";
    banners.unshift(["warn", "The server is draining: it takes no new clients, and closes the others."]);
  }
  if (stats !== null && (stalled.length > 0 || stats.silent_shards > 0)) {
    state = "stalled";
    const which = stalled.length > 0 ? `shards ${stalled.join(", ")} make no progress` : `${stats.silent_shards} shards do not answer`;
    banners.unshift(["bad", `Stalled: ${which}. Their clients wait.`]);
  }
  if (failure !== "") {
    state = "stale";
    const since = answered_at === null ? "There was no answer yet" : `Figures are of ${clock(answered_at)}`;
    banners.unshift(["bad", `The server does not answer (${failure}). ${since}.`]);
  }
  return [answered_at === null && failure === "" ? "starting" : state, banners];
}

const STATE_WORDS = { starting: "connecting", stale: "no answer", paused: "paused" };

function show_state() {
  const [state, banners] = state_now();
  document.body.dataset.state = state;
  const words = STATE_WORDS[state] || state;
  // Unchanged text stays, so that screen readers do not repeat it.
  if (at("state").textContent !== words) at("state").textContent = words;
  document.title = `${state === "serving" ? "" : words + " – "}echoring ${location.host}`;
  const shown = JSON.stringify(banners);
  if (at("banners").dataset.shown === shown) return;
  at("banners").dataset.shown = shown;
  at("banners").replaceChildren(...banners.map(([kind, text]) => element("p", text, { class: `banner ${kind}` })));
}

// ---- the token ----

function lock() {
  is_locked = true;
  at("why").classList.toggle("banner", token !== null);
  at("why").classList.toggle("bad", token !== null);
  if (token !== null) at("why").textContent = "The server does not accept this token.";
  forget();
  at("main").hidden = true;
  at("access").hidden = false;
  answered_at = null;
  history_of_stats.clear();
  at("token").focus();
}

function forget() {
  token = null;
  sessionStorage.removeItem(TOKEN_KEY);
  at("forget").hidden = true;
}

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = at("token").value.trim();
  at("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    at("why").textContent = "A token has visible ASCII characters only.";
    return;
  }
  token = given;
  sessionStorage.setItem(TOKEN_KEY, token);
  is_locked = false;
  at("access").hidden = true;
  at("forget").hidden = false;
  ask_now();
});

at("forget").addEventListener("click", () => {
  clearTimeout(timer);
  forget();
  at("why").textContent = "The token is forgotten.";
  lock();
  show_state();
});

// ---- keys and buttons ----

function toggle_pause() {
  is_paused = !is_paused;
  at("pause").textContent = is_paused ? "Resume" : "Pause";
  at("pause").setAttribute("aria-pressed", String(is_paused));
  show_state();
  if (is_paused) clearTimeout(timer);
  else ask_now();
}

function step_interval(step) {
  const index = INTERVALS.indexOf(interval_ms()) + step;
  at("interval").value = String(INTERVALS[Math.min(Math.max(index, 0), INTERVALS.length - 1)]);
  schedule();
}

function go_to_section(number) {
  const heads = [...document.querySelectorAll("main section:not([hidden]) > h2")];
  const head = heads[number - 1];
  if (head === undefined || at("main").hidden) return;
  head.focus();
  head.scrollIntoView();
}

const SHORTCUTS = { p: toggle_pause, r: ask_now, "+": () => step_interval(-1), "-": () => step_interval(1), "?": () => at("help").showModal() };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || at("help").open) return;
  if (event.target instanceof Element && event.target.closest("input, select, textarea") !== null) return;
  if (/^[1-7]$/.test(event.key)) go_to_section(Number(event.key));
  else if (SHORTCUTS[event.key] !== undefined) SHORTCUTS[event.key]();
  else return;
  event.preventDefault();
});

at("pause").addEventListener("click", toggle_pause);
at("keys").addEventListener("click", () => at("help").showModal());
at("interval").addEventListener("change", schedule);
// A tab that nobody sees asks nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : is_paused || ask_now()));

at("forget").hidden = token === null;
ask_now();
