// The load as a k6 script, for scripts/compare-tools. A user keeps one socket open for the whole run, matches answers by id,
// and compares their texts. One VU has the sockets of all users, which needs less CPU time than a VU for each.
//
// LOOP=closed     DEPTH requests in flight, the next one after each answer
// LOOP=timers     setInterval, latency from the send: how k6's documentation sends messages at intervals
// LOOP=schedule   sends all that is due by a schedule of its own, and measures from when a request was due
import { WebSocket } from 'k6/experimental/websockets';
import { Counter, Trend } from 'k6/metrics';
import exec from 'k6/execution';

const { URL, LOOP } = __ENV;
const [USERS, DEPTH, INTERVAL_MS, SECONDS, TEXT_BYTES] = ['USERS', 'DEPTH', 'INTERVAL_MS', 'SECONDS', 'TEXT_BYTES'].map((name) =>
  Number(__ENV[name]),
);
// From the last request on, as `echoring bench --drain`.
const DRAIN_MS = 2000;

const latency = new Trend('latency', true);
const answered = new Counter('answered');
const wrong = new Counter('wrong');
const lost = new Counter('lost');

export const options = {
  scenarios: { load: { executor: 'per-vu-iterations', vus: 1, iterations: 1, maxDuration: '120s' } },
  summaryTrendStats: ['p(50)', 'p(90)', 'p(99)', 'p(99.9)', 'max'],
  // Tags of each sample that nobody reads cost CPU time.
  systemTags: [],
};

// When a clock started, in milliseconds since 1970: Date.now() is exact when it changes.
function origin(now) {
  let found = 0;
  for (let end = now() + 4; now() < end; ) found = Math.max(found, Date.now() - now());
  return found;
}

export default function () {
  // Milliseconds with a fraction, while Date.now() has whole ones. To get `instance` each time would cost 10 µs.
  const { instance } = exec;
  const now = () => instance.currentTestRunDuration;
  const start = origin(now);
  for (let user = 0; user < USERS; user++) run(user, now, start);
}

function run(user, now, start) {
  const text = 'x'.repeat(TEXT_BYTES);
  const pending = new Map();
  let id = 0;
  let over = false;
  let drained;
  const socket = new WebSocket(URL, null, { headers: { Authorization: `Bearer user-${user}` } });

  const ask = (since) => {
    const at = now();
    id += 1;
    pending.set(id, since === undefined ? at : since);
    const sent = Math.round((start + at) * 1000);
    socket.send(`{"jsonrpc":"2.0","id":${id},"method":"quote","params":{"sent_us":${sent},"text":"${text}"}}`);
  };

  socket.onmessage = (event) => {
    const answer = JSON.parse(event.data);
    const since = pending.get(answer.id);
    if (since === undefined || (answer.result || answer.params).text !== text) return wrong.add(1);
    pending.delete(answer.id);
    latency.add(now() - since);
    answered.add(1);
    if (LOOP === 'closed' && !over) ask();
    if (over && pending.size === 0) finished();
  };

  const finished = () => {
    clearTimeout(drained);
    if (pending.size > 0) lost.add(pending.size);
    socket.close();
  };

  const finish = () => {
    over = true;
    if (pending.size === 0) return finished();
    drained = setTimeout(finished, DRAIN_MS);
  };

  socket.onopen = () => {
    if (LOOP === 'closed') {
      for (let n = 0; n < DEPTH; n++) ask();
      setTimeout(finish, SECONDS * 1000);
      return;
    }
    const first = now();
    const left = () => first + SECONDS * 1000 - now();
    if (LOOP === 'timers') {
      const timer = setInterval(() => {
        if (left() > 0) return ask();
        clearInterval(timer);
        finish();
      }, INTERVAL_MS);
      ask();
      return;
    }
    const count = Math.round((SECONDS * 1000) / INTERVAL_MS);
    const due = () => first + id * INTERVAL_MS;
    const tick = () => {
      while (id < count && due() <= now()) ask(due());
      if (id < count) setTimeout(tick, due() - now());
      else setTimeout(finish, left());
    };
    tick();
  };
}
