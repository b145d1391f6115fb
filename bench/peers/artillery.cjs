// The load as functions of an Artillery scenario with the engine `ws`, for scripts/compare-tools. The engine has no latency of messages, and its
// `match` takes the next message for the answer. So a request that may be overtaken needs the socket itself, `context.ws`.
//
// LOOP=closed     DEPTH requests in flight, the next one after each answer
// LOOP=match      one request in flight by the engine's own `send` with `match`; `before` and `after` take the time
// LOOP=timers     setInterval, latency from the send
// LOOP=schedule   sends all that is due by a schedule of its own, and measures from when a request was due
const { LOOP } = process.env;
const [DEPTH, INTERVAL_MS, SECONDS, TEXT_BYTES] = ['DEPTH', 'INTERVAL_MS', 'SECONDS', 'TEXT_BYTES'].map((name) =>
  Number(process.env[name]),
);
const DRAIN_MS = 2000;
const text = 'x'.repeat(TEXT_BYTES);
const now = () => performance.now();
const sentUs = () => Math.round((performance.timeOrigin + now()) * 1000);
let users = 0;

/** `connect.function`: each user has a token. */
function login(wsArgs, context, done) {
  wsArgs.options.headers = { Authorization: `Bearer user-${users++}` };
  done();
}

function before(context, events, done) {
  context.vars.until ??= now() + SECONDS * 1000;
  context.vars.id = (context.vars.id ?? 0) + 1;
  context.vars.text = text;
  context.vars.sentUs = sentUs();
  context.vars.since = now();
  done();
}

function after(context, events, done) {
  events.emit('histogram', 'latency', now() - context.vars.since);
  events.emit('counter', 'answered', 1);
  done();
}

/** `whileTrue`. */
function goesOn(context, done) {
  done(now() < context.vars.until);
}

function drive(context, events, done) {
  const socket = context.ws;
  const pending = new Map();
  let id = 0;
  let over = false;
  let drained;

  const ask = (since) => {
    id += 1;
    pending.set(id, since ?? now());
    socket.send(`{"jsonrpc":"2.0","id":${id},"method":"quote","params":{"sent_us":${sentUs()},"text":"${text}"}}`);
  };

  socket.onmessage = (event) => {
    const answer = JSON.parse(event.data);
    const since = pending.get(answer.id);
    if (since === undefined || (answer.result ?? answer.params).text !== text) return events.emit('counter', 'wrong', 1);
    pending.delete(answer.id);
    events.emit('histogram', 'latency', now() - since);
    events.emit('counter', 'answered', 1);
    if (LOOP === 'closed' && !over) ask();
    if (over && pending.size === 0) finished();
  };

  const finished = () => {
    clearTimeout(drained);
    if (pending.size > 0) events.emit('counter', 'lost', pending.size);
    socket.onmessage = undefined;
    done();
  };

  const finish = () => {
    over = true;
    if (pending.size === 0) return finished();
    drained = setTimeout(finished, DRAIN_MS);
  };

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
}

module.exports = { login, before, after, goesOn, drive };
