// A client of echoring.v1.json, for pages, workers and Node: subscriptions that outlive connections, and positions that outlive pages.
// It never loses a message without an event, and never delivers one twice. The types and their documentation are in echoring.d.ts.

const SUBPROTOCOL = "echoring.v1.json";
// Bound of the delay before the second attempt, in ms; it doubles with each. A delay is random below its bound.
const RETRY_MS_FIRST = 500;
// Maximum of that bound.
const RETRY_MS_MAX = 30_000;
// The longest delay in ms that a server may ask for: a longer one is a mistake.
const RETRY_AFTER_MS_MAX = 3_600_000;
// Age of a connection in ms from which its end resets the delays. A server that accepts and closes at once is tried ever less often.
const STABLE_MS = 10_000;
// Time limit in ms of an attempt, its token included.
const CONNECT_MS_MAX = 45_000;
// WebSockets in a row that have brought no message, after which the fallback is used once.
const UNHEARD_MAX = 2;
// Time in ms from the `error` of a WebSocket to its `close`, which tells more. Node 22 has none after an attempt that failed.
const ERROR_MS_MAX = 1_000;
// Silence in ms after which the server is asked for a sign of life: heartbeats of topics come every 25 s by default. After a third of
// it more, the connection counts as lost. That is also the time limit of a WebSocket's handshake where there is a fallback.
const SILENCE_MS = 30_000;
// Bound of the delay in ms before what was refused for the moment is requested again.
const AGAIN_MS_MAX = 20_000;
// Publications that wait for a connection or an answer, and their UTF-16 code units together.
const PUBLICATIONS_MAX = 1_024;
const PUBLICATIONS_LENGTH_MAX = 4 << 20;
// Publications without an answer that a connection begins with. Each answer admits another one; a refusal for the moment leaves one.
const WINDOW_FIRST = 64;
// Other requests that wait for an answer.
const REQUESTS_MAX = 1_024;
// Age in ms up to which a publication is repeated: the server knows its key for five minutes, and clocks and networks are inexact.
const REPEAT_MS_MAX = 240_000;
// Members that are listed. More are only counted.
const MEMBERS_MAX = 10_000;

const SURROGATE = /\p{Surrogate}/u;
const TEMPORARY = new Set("behind busy draining no-storage out-of-memory rate-limited unreachable".split(" "));
// States of a subscription at the server.
const [ABSENT, SUBSCRIBING, LIVE, LEAVING] = [0, 1, 2, 3];

/** Why something failed: `code` is for programs. */
export class EchoringError extends Error {
  constructor(code, message, more) {
    super(message || code);
    this.name = "EchoringError";
    Object.assign(this, { code, temporary: false }, more);
  }
}

/** The error of a token source that is final: this user gets no token. */
export class Unauthorized extends EchoringError {
  constructor(message = "the user gets no token") {
    super("unauthorized", message);
  }
}

class Notice extends Event {
  constructor(type, fields) {
    super(type);
    Object.assign(this, fields);
  }
}

const refusal = ({ code, message, field }) => new EchoringError(code, message, { field, temporary: TEMPORARY.has(code) });
const uncertain = (message = "the connection was lost before the answer") => new EchoringError("uncertain", message);
const bad = (message) => new EchoringError("bad-field", message);
// At random, so that what was refused together does not return together.
const againMs = (failures) => Math.min(RETRY_MS_FIRST * 2 ** (failures - 1), AGAIN_MS_MAX) * (0.5 + Math.random() / 2);
const now = () => performance.now();

// Whether a server closes with this code because of the client, which would be closed again. Credentials that have ended (4001) are
// renewed by the next attempt: by the token source, or by the cookies of the page.
const isFinal = (code) =>
  code === 1002 || code === 1003 || (code >= 1007 && code <= 1010)
  || (code >= 4000 && code <= 4999 && code !== 4001 && !(code >= 4008 && code <= 4010));

// For `JSON.stringify` and `JSON.parse`: half of a surrogate pair is not Unicode, and a request that has one has no answer.
function wellFormed(key, value) {
  if (SURROGATE.test(key) || (typeof value === "string" && SURROGATE.test(value))) throw bad("half of a surrogate pair cannot be sent");
  return value;
}

// Calls `fail` when the signal is aborted or the time is over. Returns what ends that.
function watchLimits({ signal, timeoutMs }, fail) {
  signal?.throwIfAborted();
  const abort = () => fail(signal.reason);
  const late = () => fail(new EchoringError("timeout", `no answer within ${timeoutMs} ms`, { temporary: true }));
  signal?.addEventListener("abort", abort);
  const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
  return () => {
    signal?.removeEventListener("abort", abort);
    clearTimeout(timer);
  };
}

// The delay in ms that the reason of a Close asks for.
function retryAfterMs(reason) {
  const ms = Number(/retry after (\d+) ms$/.exec(reason)?.[1]);
  return ms <= RETRY_AFTER_MS_MAX ? ms : null;
}

const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function contentOf({ data, text, base64 }) {
  if (text !== undefined) return { kind: "text", data: text };
  if (base64 === undefined) return { kind: "json", data };
  return { kind: "bytes", data: Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)) };
}

// A subscription as its client sees it. It never tells of a message at or before its position, and never moves its position without an
// event that says so.
class Topic {
  phase = ABSENT;
  // Everything up to it was told. Null before the first subscription.
  position = null;
  count = null;
  members = new Map();
  ended = false;
  // Refusals and ends since the last message.
  refusals = 0;
  // Whether it waits until it may be requested again.
  delayed = false;

  constructor(name, { position, presence }) {
    this.name = name;
    this.position = position ? { epoch: position.epoch, offset: position.offset } : null;
    this.presence = Boolean(presence);
  }

  tell(type, fields) {
    if (!this.ended) this.handle.dispatchEvent(new Notice(type, fields));
  }

  end(error) {
    if (this.ended) return;
    this.ended = true;
    this.handle.dispatchEvent(new Notice("ended", { error }));
  }

  begin({ epoch, offset, recovered = null, count = null, client = null }) {
    const previous = this.position;
    this.phase = LIVE;
    this.count = count;
    this.position = { epoch, offset };
    this.tell("subscribed", { position: { epoch, offset }, recovered, count, client });
    // From a position that is not the requested one, nobody knows how many messages are missing.
    if (previous && (previous.epoch !== epoch || previous.offset !== offset)) {
      this.tell("reset", { previous, position: { epoch, offset } });
    }
  }

  // The messages behind the position up to `to` will not come.
  miss(to, reason) {
    const { epoch, offset } = this.position;
    this.refusals = 0;
    if (to <= offset) return;
    this.position = { epoch, offset: to };
    this.tell("gap", { from: offset + 1, to, count: to - offset, reason });
  }

  deliver(message) {
    const { offset, key = null, skipped = 0, snapshot = false } = message;
    if (offset <= this.position.offset) return;
    this.miss(offset - 1 - skipped, "unreported");
    this.position = { epoch: this.position.epoch, offset };
    this.tell("message", { offset, key, skipped, snapshot, ...contentOf(message) });
  }

  change({ event, client, subject = null, count }) {
    if (event !== "join" && event !== "leave") return;
    this.count = count;
    if (event === "leave") this.members.delete(client);
    else if (this.presence) this.addMember(client, subject);
    this.tell(event, { client, subject, count });
  }

  addMember(client, subject = null) {
    if (this.members.size < MEMBERS_MAX) this.members.set(client, subject);
  }

  // Returns whether the list is complete, or as long as it may be.
  list({ after, clients = [], subjects = {}, count, next }) {
    this.count = count;
    if (!after) this.members.clear();
    for (const client of clients) this.addMember(client, subjects[client]);
    if (next && this.members.size < MEMBERS_MAX) return false;
    this.tell("members", { count });
    return true;
  }
}

/** A subscription of one topic, which outlives connections. `Client.subscribe` makes it. */
export class Subscription extends EventTarget {
  #topic;
  #ask;
  #leave;

  constructor(topic, ask, leave) {
    super();
    this.#topic = topic;
    this.#ask = ask;
    this.#leave = leave;
  }

  get topic() { return this.#topic.name; }
  get position() { return this.#topic.position && { ...this.#topic.position }; }
  get count() { return this.#topic.count; }
  get members() { return this.#topic.members; }

  presence({ after, limit, ...limits } = {}) {
    const read = ({ count, clients = [], subjects = {}, next = null }) => (
      { count, members: new Map(clients.map((client) => [client, subjects[client] ?? null])), next }
    );
    return this.#request({ type: "presence", after: after ?? undefined, limit }, limits, read);
  }

  history({ before, limit, ...limits } = {}) {
    const read = ({ epoch, offset, messages, next = null }) => {
      const list = messages.map(({ offset: at, key = null, ...message }) => ({ offset: at, key, ...contentOf(message) }));
      return { position: { epoch, offset }, messages: list, next };
    };
    return this.#request({ type: "history", before: before ?? undefined, limit }, limits, read);
  }

  unsubscribe() { this.#leave(this.#topic); }

  #request(fields, limits, read) {
    return new Promise((resolve, reject) => {
      const unwatch = watchLimits(limits, reject);
      this.#ask(this.#topic, fields, (answer) => {
        unwatch();
        if (answer && answer.type !== "error") resolve(read(answer));
        else reject(answer ? refusal(answer) : uncertain());
      }, (error) => {
        unwatch();
        reject(error);
      });
    });
  }
}

/** A session that reconnects. */
export class Client extends EventTarget {
  #url;
  #token;
  #WebSocket;
  #fallback;
  #unheard = 0;
  // Whether the fallback has reached the server since the last WebSocket that brought a message.
  #isReachable = false;
  #attemptsMax;
  #silenceMs;
  #log;
  #state = "closed";
  #socket = null;
  // Of the attempt or connection that there is: what belongs to an earlier one is ignored.
  #life = null;
  #attempt = 0;
  // Whether the delay before the next attempt is the client's own.
  #mayHurry = false;
  // Null without a connection.
  #openedAt = null;
  #heardAt = 0;
  // The timer that ends the connection, unless the server gives a sign of life before.
  #deadline = null;
  #paused = false;
  #timers = new Set();
  #topics = new Map();
  #publications = new Map();
  #publicationsLength = 0;
  // Maximum bytes of a message, as the server told it last; until then no publication is sent.
  #maxMessage = null;
  #window = WINDOW_FIRST;
  #inFlight = 0;
  // Holds in a row, and whether publications wait because the server refused one for the moment.
  #holds = 0;
  #isHeld = false;
  // What to do with the answers of requests; `null` stands for a lost connection.
  #answers = new Map();
  #lastId = 0;
  #listeners;

  constructor(url, {
    token, WebSocket = globalThis.WebSocket, fallback, silenceMs = SILENCE_MS, attemptsMax = Infinity, log,
  } = {}) {
    super();
    if (!WebSocket) throw new TypeError("there is no global WebSocket: pass one as { WebSocket }");
    this.#url = url;
    this.#token = token;
    this.#WebSocket = WebSocket;
    this.#fallback = fallback;
    this.#silenceMs = silenceMs;
    this.#attemptsMax = attemptsMax;
    this.#log = log;
    this.open();
  }

  get url() { return this.#url; }
  get state() { return this.#state; }

  open() {
    if (this.#state !== "closed") return;
    [this.#state, this.#unheard] = ["connecting", 0];
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    const page = globalThis.document;
    const on = (target, type, run) => target?.addEventListener?.(type, run, { signal });
    on(globalThis, "online", () => this.#hurry());
    on(globalThis, "offline", () => this.#probe());
    on(page, "visibilitychange", () => page.visibilityState === "visible" && this.#hurry());
    // A page that is left may be kept for the way back, and would be a subscriber that does not read.
    if (page) on(globalThis, "pagehide", () => this.#drop());
    on(globalThis, "pageshow", ({ persisted }) => persisted && !this.#life && this.#wait(1, 0));
    this.#after(0, () => this.#wait(1, 0));
  }

  subscribe(name, options = {}) {
    if (this.#state === "closed") throw this.#closed();
    const old = this.#topics.get(name);
    if (old && !old.ended) throw new EchoringError("already-subscribed", "the client has a subscription of this topic");
    wellFormed(name);
    const topic = new Topic(name, options);
    topic.handle = new Subscription(topic, (...request) => this.#askOfTopic(...request), (own) => this.#unsubscribe(own));
    if (old) topic.phase = old.phase;
    this.#topics.set(name, topic);
    this.#reconcile(topic);
    return topic.handle;
  }

  publish(topic, { data, json, text, key, idempotencyKey = randomKey(), ...limits } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#state === "closed") throw this.#closed();
      if (json !== undefined) JSON.parse(json, wellFormed);
      const content = json ?? JSON.stringify(data, wellFormed);
      if ((content === undefined) === (text === undefined)) throw new TypeError("publish either data, json or text");
      if (idempotencyKey === "") throw bad("an idempotency key has 1 to 255 bytes; null is for none");
      const id = ++this.#lastId;
      const fields = { type: "publish", id, topic, key, idempotency_key: idempotencyKey ?? undefined, text };
      const head = JSON.stringify(fields, wellFormed);
      const message = content === undefined ? head : `${head.slice(0, -1)},"data":${content}}`;
      if (this.#isTooLarge(message)) throw this.#tooLarge();
      const length = this.#publicationsLength + message.length;
      if (this.#publications.size >= PUBLICATIONS_MAX || length > PUBLICATIONS_LENGTH_MAX) {
        throw new EchoringError("queue-full", "too many publications wait for their answers", { temporary: true });
      }
      // Who stops waiting does not know whether it was published, unless it was never sent.
      const unwatch = watchLimits(limits, (error) => {
        const { sentAt } = this.#publications.get(id);
        this.#settle(id).reject(sentAt === null ? error : Object.assign(uncertain("no answer was awaited"), { cause: error }));
      });
      this.#publicationsLength = length;
      // `sentAt` is when it was first sent without an answer that says that it had no effect.
      this.#publications.set(id, {
        message, isRepeatable: idempotencyKey !== null, sentAt: null, isInFlight: false, isDoubtful: false, unwatch, resolve, reject,
      });
      this.#pump();
    });
  }

  pause() {
    this.#paused = true;
    if (this.#state === "open" && this.#socket.pause) {
      this.#socket.pause();
      this.#heard();
    } else {
      this.#topics.forEach((topic) => this.#reconcile(topic));
    }
  }

  resume() {
    this.#paused = false;
    this.#heard();
    this.#socket?.resume?.();
    this.#topics.forEach((topic) => this.#reconcile(topic));
  }

  retry() {
    if (this.#state === "connecting" && !this.#life) this.#connect();
  }

  close() { this.#end(null); }

  // ---- connections ----

  #closed() { return new EchoringError("closed", "the client is closed"); }

  #tell(type, fields) { this.dispatchEvent(new Notice(type, fields)); }

  #after(ms, run) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  #clearTimers() {
    this.#timers.forEach(clearTimeout);
    this.#timers.clear();
  }

  #wait(attempt, delayMs, more = {}) {
    if (this.#state === "closed") return;
    this.#attempt = attempt;
    this.#after(delayMs, () => this.#connect());
    this.#log?.(`attempt ${attempt} in ${Math.round(delayMs)} ms ${more.code ?? ""} ${more.reason ?? ""}`.trimEnd());
    this.#tell("connecting", { attempt, delayMs, code: null, reason: "", ...more });
  }

  async #connect() {
    this.#clearTimers();
    const isFallback = Boolean(this.#fallback) && this.#unheard >= UNHEARD_MAX;
    const life = (this.#life = { isRefreshing: false, isFallback, isHeard: false });
    this.#after(CONNECT_MS_MAX, () => this.#lose(1006, "no connection in time"));
    const protocols = [SUBPROTOCOL];
    try {
      const token = await this.#token?.();
      if (token) protocols.push("bearer", token);
    } catch (error) {
      if (life !== this.#life) return;
      if (error instanceof Unauthorized) this.#end(error);
      else this.#lose(1006, `no token: ${error?.message}`);
      return;
    }
    if (life !== this.#life) return;
    let socket;
    try {
      socket = new (isFallback ? this.#fallback : this.#WebSocket)(this.#url, protocols);
    } catch (error) {
      this.#end(new EchoringError("bad-request", error.message));
      return;
    }
    this.#socket = socket;
    if (isFallback) {
      // The next attempt is by a WebSocket: the network may be another one by then.
      this.#unheard = UNHEARD_MAX - 1;
    } else {
      this.#unheard += 1;
      if (this.#fallback) this.#after(this.#silenceMs / 3, () => this.#lose(1006, "no WebSocket in time"));
    }
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.#lose(code, reason);
    socket.onerror = () => this.#after(ERROR_MS_MAX, () => this.#lose(1006, "the connection failed"));
  }

  #opened() {
    if (this.#socket.protocol !== SUBPROTOCOL) {
      this.#end(new EchoringError("not-spoken", `the server does not speak ${SUBPROTOCOL}: check the path of the URL`));
      return;
    }
    const { isFallback } = this.#life;
    if (isFallback && !this.#isReachable) {
      // WebSockets may have failed because the server was away: one more shows it.
      this.#isReachable = true;
      this.#drop();
      this.#wait(this.#attempt, 0);
      return;
    }
    this.#clearTimers();
    this.#state = "open";
    this.#openedAt = now();
    this.#log?.("open");
    this.#heard();
    // The answer has the maximum of a message, which may be another one now. Without one nothing passes.
    this.#ping((answer) => answer && this.#begun(answer));
    this.#watch();
    this.#topics.forEach((topic) => this.#reconcile(topic));
    this.#tell("open", { isFallback });
  }

  // Forgets the attempt or connection that there is.
  #drop() {
    if (this.#state === "closed") return;
    const socket = this.#socket;
    this.#clearTimers();
    [this.#state, this.#life, this.#socket, this.#deadline, this.#openedAt] = ["connecting", null, null, null, null];
    [this.#maxMessage, this.#window, this.#isHeld] = [null, WINDOW_FIRST, false];
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {};
      socket.close(1000);
    }
    for (const topic of this.#topics.values()) {
      [topic.phase, topic.delayed] = [ABSENT, false];
      if (topic.ended) this.#topics.delete(topic.name);
    }
    const answers = [...this.#answers.values()];
    this.#answers.clear();
    answers.forEach((answered) => answered(null));
    for (const [id, publication] of this.#publications) {
      publication.isDoubtful ||= publication.isInFlight;
      this.#land(publication);
      if (publication.isDoubtful && !publication.isRepeatable) this.#settle(id).reject(uncertain());
    }
  }

  #lose(code, reason) {
    const isStable = this.#life.isHeard && now() - this.#openedAt >= STABLE_MS;
    const failed = isStable ? 0 : this.#attempt;
    const hadTooLarge = code === 1009 && this.#rejectLargest();
    if (this.#life.isFallback && this.#openedAt === null) this.#isReachable = false;
    this.#drop();
    if (isFinal(code) && !hadTooLarge) {
      this.#end(new EchoringError("refused", `the server closed the connection: ${code} ${reason}`, { closeCode: code }));
    } else if (failed >= this.#attemptsMax) {
      this.#end(new EchoringError("gave-up", `gave up after ${failed} attempts: ${code} ${reason}`, { closeCode: code }));
    } else {
      const asked = retryAfterMs(reason);
      const bound = Math.min(RETRY_MS_FIRST * 2 ** Math.max(failed - 1, 0), RETRY_MS_MAX);
      this.#mayHurry = asked === null;
      // Not before the server wants it; a tenth more at random, so that its clients do not all return at once.
      const delayMs = asked === null ? Math.random() * bound : asked + Math.random() * Math.max(asked / 10, 100);
      this.#wait(failed + 1, delayMs, { code, reason });
    }
  }

  // The connection and the subscriptions wait for `open`.
  #end(error) {
    if (this.#state === "closed") return;
    this.#drop();
    this.#state = "closed";
    this.#log?.(`closed ${error?.code ?? ""}`.trimEnd());
    this.#listeners.abort();
    for (const [id, { isDoubtful }] of this.#publications) {
      this.#settle(id).reject(isDoubtful ? uncertain() : error ?? this.#closed());
    }
    this.#topics.forEach((topic) => topic.tell("unsubscribed", { reason: "closed" }));
    this.#tell("closed", { error });
  }

  // ---- signs of life ----

  #heard() {
    this.#heardAt = now();
    clearTimeout(this.#deadline);
    this.#timers.delete(this.#deadline);
    this.#deadline = null;
  }

  #watch() {
    const expects = this.#topics.size > 0 || this.#publications.size > 0;
    if (expects && now() - this.#heardAt >= this.#silenceMs) this.#probe();
    this.#after(this.#silenceMs / 3, () => this.#watch());
  }

  #probe() {
    if (this.#state === "open" && !this.#paused && this.#deadline === null) this.#ping(() => {});
  }

  #ping(answered) {
    if (!this.#paused) this.#deadline = this.#after(this.#silenceMs / 3, () => this.#lose(1006, "no answer"));
    this.#ask({ type: "ping" }, answered);
  }

  // The network or the user is back.
  #hurry() {
    this.#probe();
    if (this.#mayHurry) this.retry();
  }

  // ---- requests ----

  #send(fields) {
    this.#log?.(`> ${fields.type} ${fields.topic ?? ""} ${fields.id}`);
    this.#socket.send(JSON.stringify(fields));
  }

  #ask(fields, answered) {
    const id = ++this.#lastId;
    this.#answers.set(id, answered);
    this.#send({ ...fields, id });
  }

  #askOfTopic(topic, fields, answered, reject) {
    if (topic.phase !== LIVE || topic.ended) {
      reject(new EchoringError("not-subscribed", "there is no connection or subscription now", { temporary: true }));
    } else if (this.#answers.size >= REQUESTS_MAX) {
      reject(new EchoringError("queue-full", "too many requests wait for their answers", { temporary: true }));
    } else {
      this.#ask({ ...fields, topic: topic.name }, answered);
    }
  }

  // ---- publications ----

  #begun({ max_message: maxMessage = Infinity }) {
    this.#maxMessage = maxMessage;
    for (const [id, { message }] of this.#publications) {
      if (this.#isTooLarge(message)) this.#settle(id).reject(this.#tooLarge());
    }
    this.#pump();
  }

  // A UTF-16 code unit has three bytes at most.
  #isTooLarge(message) {
    const max = this.#maxMessage ?? Infinity;
    return message.length * 3 > max && new TextEncoder().encode(message).length > max;
  }

  #tooLarge() { return new EchoringError("too-large", `the message exceeds the server's ${this.#maxMessage ?? "maximum"} bytes`); }

  // The server has closed the connection because of it, before it told the maximum that it has now.
  #rejectLargest() {
    let largest = null;
    for (const [id, { isInFlight, message }] of this.#publications) {
      if (isInFlight && !(message.length <= this.#publications.get(largest)?.message.length)) largest = id;
    }
    if (largest !== null) this.#settle(largest).reject(this.#tooLarge());
    return largest !== null;
  }

  // Sends what waits, as far as the window goes.
  #pump() {
    if (this.#state !== "open" || this.#maxMessage === null || this.#isHeld) return;
    for (const [id, publication] of this.#publications) {
      if (this.#inFlight >= this.#window) return;
      if (!publication.isInFlight) this.#sendPublication(id, publication);
    }
  }

  #sendPublication(id, publication) {
    // The larger of two ages: one clock may stand still while the computer sleeps, the other may be set back.
    const { sentAt } = publication;
    if (sentAt && Math.max(now() - sentAt[0], Date.now() - sentAt[1]) > REPEAT_MS_MAX) {
      this.#settle(id).reject(uncertain());
      return;
    }
    publication.sentAt ??= [now(), Date.now()];
    publication.isInFlight = true;
    this.#inFlight += 1;
    this.#log?.(`> publish ${id}`);
    this.#socket.send(publication.message);
  }

  #land(publication) {
    if (publication.isInFlight) this.#inFlight -= 1;
    publication.isInFlight = false;
  }

  #settle(id) {
    const publication = this.#publications.get(id);
    if (!publication) return null;
    this.#publications.delete(id);
    this.#publicationsLength -= publication.message.length;
    this.#land(publication);
    publication.unwatch();
    return publication;
  }

  #hearOfPublication(answer) {
    const { id, code } = answer;
    const publication = this.#publications.get(id);
    if (!publication) return;
    const isUncertain = code === "uncertain" && publication.isRepeatable;
    if (answer.type === "published") {
      this.#holds = 0;
      this.#window += 1;
      this.#settle(id).resolve({ epoch: answer.epoch, offset: answer.offset });
    } else if (isUncertain || TEMPORARY.has(code)) {
      this.#land(publication);
      publication.isDoubtful ||= isUncertain;
      if (!publication.isDoubtful) publication.sentAt = null;
      this.#hold();
    } else {
      this.#settle(id).reject(publication.isDoubtful ? uncertain() : refusal(answer));
    }
    this.#pump();
  }

  // Those that were sent together are refused together, which counts once.
  #hold() {
    if (this.#isHeld) return;
    this.#isHeld = true;
    this.#window = 1;
    this.#after(againMs((this.#holds += 1)), () => {
      this.#isHeld = false;
      this.#pump();
    });
  }

  // ---- subscriptions ----

  // Sends the request that brings the server's state of a subscription closer to the wanted one.
  #reconcile(topic) {
    const { name, phase, position, ended } = topic;
    // Another one may have taken its place.
    if (topic !== this.#topics.get(name)) return;
    if (ended && phase === ABSENT) this.#topics.delete(name);
    if (this.#state !== "open") return;
    const isHeld = this.#paused && !this.#socket.pause;
    if (phase === ABSENT && !ended && !this.#paused && !topic.delayed) {
      topic.phase = SUBSCRIBING;
      this.#ask({ type: "subscribe", topic: name, position: position ?? undefined }, (answer) => {
        if (answer && topic.phase === SUBSCRIBING) this.#begin(topic, answer);
      });
    } else if ((phase === LIVE || phase === SUBSCRIBING) && (ended || isHeld)) {
      topic.phase = LEAVING;
      this.#ask({ type: "unsubscribe", topic: name }, (answer) => {
        // Or the one that has taken its place.
        const current = this.#topics.get(name);
        if (!answer || !current) return;
        current.phase = ABSENT;
        topic.tell("unsubscribed", { reason: null });
        this.#reconcile(current);
      });
    }
  }

  #begin(topic, answer) {
    if (answer.type === "subscribed") {
      topic.begin(answer);
      if (topic.presence && answer.count !== undefined && topic.phase === LIVE) this.#list(topic);
      return;
    }
    topic.phase = ABSENT;
    const error = refusal(answer);
    if (!error.temporary) {
      this.#topics.delete(topic.name);
      topic.end(error);
      return;
    }
    topic.refusals ||= 1;
    this.#delay(topic);
  }

  #delay(topic) {
    topic.delayed = true;
    this.#after(topic.refusals && againMs(topic.refusals), () => {
      topic.delayed = false;
      this.#reconcile(topic);
    });
    topic.refusals += 1;
  }

  #unsubscribe(topic) {
    if (topic.ended) return;
    topic.end(null);
    this.#reconcile(topic);
  }

  #dropped(topic, { reason }) {
    topic.phase = ABSENT;
    topic.tell("unsubscribed", { reason });
    if (reason === "forbidden") {
      this.#topics.delete(topic.name);
      topic.end(new EchoringError(reason, "the server does not allow the subscription any more"));
    } else {
      this.#delay(topic);
    }
  }

  #list(topic, after, failures = 1) {
    this.#askOfTopic(topic, { type: "presence", after }, (answer) => {
      if (answer?.type === "members") {
        if (!topic.list(answer)) this.#list(topic, answer.next);
      } else if (TEMPORARY.has(answer?.code)) {
        this.#after(againMs(failures), () => this.#list(topic, after, failures + 1));
      }
    }, () => {});
  }

  // ---- tokens ----

  async #refresh(failures = 1) {
    const life = this.#life;
    const again = () => this.#after(againMs(failures), () => this.#refresh(failures + 1));
    life.isRefreshing = true;
    let token;
    try {
      token = await this.#token();
    } catch {
      // The session goes on until its token has expired.
      if (life === this.#life) again();
      return;
    }
    if (life !== this.#life) return;
    this.#ask({ type: "authenticate", token }, (answer) => {
      // A token that is refused changes nothing either: the next one may be better.
      if (answer?.type === "error") again();
      else life.isRefreshing = false;
    });
  }

  // ---- what the server says ----

  #hear(text) {
    this.#heard();
    this.#life.isHeard = true;
    if (!this.#life.isFallback) [this.#unheard, this.#isReachable] = [0, false];
    let event = null;
    try {
      event = JSON.parse(text);
    } catch {
      // It is none of the protocol's, as any other that is no object.
    }
    if (event === null || typeof event !== "object") {
      this.#lose(1006, "a message that is not of the protocol");
      return;
    }
    this.#log?.(`< ${event.type} ${event.topic ?? ""} ${event.code ?? event.offset ?? ""}`.trimEnd());
    const answered = this.#answers.get(event.id);
    if (answered) {
      this.#answers.delete(event.id);
      answered(event);
      return;
    }
    const topic = this.#topics.get(event.topic);
    if (event.type === "published" || event.type === "error") this.#hearOfPublication(event);
    else if (event.type === "direct") this.#tell("direct", contentOf(event));
    else if (event.type === "token_expires") this.#token && !this.#life.isRefreshing && this.#refresh();
    else if (topic?.phase === LIVE && !topic.ended) this.#hearOf(topic, event);
  }

  #hearOf(topic, event) {
    if (event.type === "message") topic.deliver(event);
    else if (event.type === "gap") topic.miss(event.to, event.reason);
    else if (event.type === "heartbeat") topic.miss(event.offset, "unreported");
    else if (event.type === "presence") topic.change(event);
    else if (event.type === "members" && topic.presence) topic.list(event);
    else if (event.type === "unsubscribed") this.#dropped(topic, event);
  }
}
