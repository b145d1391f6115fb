// What arrives is only ever compared and put into text nodes: nothing of it is read as HTML.
import { Client } from "./echoring.js";

const LOG_ITEMS_MAX = 500;
const SHOWN_CHARACTERS_MAX = 400;
const at = (id) => document.getElementById(id);
const url = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + location.pathname;

// A WebSocket with back-pressure: whoever does not read from the stream lets the connection fill up.
class HeldSocket {
  protocol = "";
  #stream;
  #writer = null;
  #held = null;
  #release = () => {};

  constructor(url, protocols) {
    this.#stream = new WebSocketStream(url, { protocols });
    this.#run();
  }

  async #run() {
    let end = { closeCode: 1006, reason: "" };
    try {
      const { readable, writable, protocol } = await this.#stream.opened;
      this.protocol = protocol;
      this.#writer = writable.getWriter();
      this.onopen?.();
      const reader = readable.getReader();
      for (;;) {
        await this.#held;
        const { value, done } = await reader.read();
        // What a read under way brings after a pause is not shown before its end.
        while (this.#held !== null) await this.#held;
        if (done) break;
        this.onmessage?.({ data: value });
      }
      end = await this.#stream.closed;
    } catch (error) {
      end = { closeCode: error.closeCode || 1006, reason: error.reason || "" };
    }
    this.onclose?.({ code: end.closeCode, reason: end.reason });
  }

  send(text) { this.#writer.write(text).catch(() => {}); }
  pause() { this.#held ??= new Promise((release) => { this.#release = release; }); }
  resume() {
    this.#held = null;
    this.#release();
  }
  close(code) {
    this.resume();
    this.#stream.close({ closeCode: code });
  }
}

const holds = "WebSocketStream" in window;
const client = new Client(url, holds ? { WebSocket: HeldSocket } : {});
let topic = null;         // the subscription
let live = false;         // whether it is one at the server
let paused = false;
let received = 0;
let missed = 0;
let conflated = 0;
let follows = true;       // whether the latest message is to stay in sight
let unshown = [];         // items of the log that wait for the next frame

// ---- what is seen ----

function show_state(state, text) {
  at("state").dataset.state = state;
  document.body.dataset.state = state;
  at("state").textContent = text;
  at("retry").hidden = state !== "lost" && state !== "closed";
  show_buttons();
}

function show_buttons() {
  const open = client.state === "open";
  at("subscribe").disabled = !open && topic === null;
  at("subscribe").textContent = topic === null ? "Subscribe" : "Unsubscribe";
  at("topic").readOnly = topic !== null;
  at("pause").disabled = topic === null || !(open || paused);
  at("pause").textContent = paused ? "Resume" : "Pause";
  at("send").disabled = !open;
}

function show_subscription() {
  if (client.state !== "open") return;
  if (paused) {
    show_state("paused", "paused: " + (holds ? "nothing is read any more" : "unsubscribed until you resume"));
  } else if (live) {
    show_state("live", "subscribed");
  } else {
    show_state("open", topic === null ? "connected" : "subscribing");
  }
}

function show_facts() {
  const position = topic?.position;
  at("position").textContent = position ? position.epoch + ":" + position.offset : "–";
  at("received").textContent = String(received);
  at("missed").textContent = String(missed);
  at("conflated").textContent = String(conflated);
}

function notice(text, kind = "bad") {
  at("notice").dataset.kind = kind;
  at("notice").textContent = text;
}

function refused(what, error) {
  notice(what + ": " + error.message + (error.field ? " (" + error.field + ")" : ""));
}

function element(kind, class_name, text) {
  const made = document.createElement(kind);
  made.className = class_name;
  made.textContent = text;
  return made;
}

// Drawn once for each frame. More than the log holds need not be drawn at all.
function append(item) {
  if (unshown.length === 0) requestAnimationFrame(draw);
  unshown.push(item);
  if (unshown.length > LOG_ITEMS_MAX) unshown.splice(0, unshown.length - LOG_ITEMS_MAX);
}

function draw() {
  const log = at("log");
  log.append(...unshown);
  unshown = [];
  while (log.children.length > LOG_ITEMS_MAX) log.firstElementChild.remove();
  follow();
  show_facts();
}

function follow() {
  if (follows) at("log").scrollTop = at("log").scrollHeight;
}

function note(text) { append(element("li", "note", text)); }

// What is lost is said where everybody looks, and has its place among the messages.
function show_loss(text) {
  append(element("li", "gap", text));
  at("gap").textContent = text;
  at("gap").hidden = false;
}

const REASONS = {
  slow: "this page read too slowly",
  history: "they are no longer kept",
  memory: "the server had no memory for them",
  drain: "the server ended before they could be sent",
  unreported: "no reason given",
};

function lost_from(from, to, reason) {
  const count = to - from + 1;
  missed += count;
  const which = count === 1 ? "Message " + from + " is lost" : "Messages " + from + " to " + to + " are lost";
  show_loss(which + ": " + (Object.hasOwn(REASONS, reason) ? REASONS[reason] : reason));
}

function shown({ kind, data }) {
  if (kind === "text") return data;
  return kind === "json" ? JSON.stringify(data) : Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

function message_item(message) {
  const item = element("li", "message", "");
  const what = element("div", "what", "");
  const words = shown(message);
  const long = words.length > SHOWN_CHARACTERS_MAX;
  what.append(element("div", "words", long ? words.slice(0, SHOWN_CHARACTERS_MAX) + "…" : words));
  const about = [];
  if (message.key !== null) about.push("key " + message.key);
  if (message.kind === "bytes") about.push("bytes");
  if (message.snapshot) about.push("kept from before");
  else if (message.skipped) about.push("stands for " + message.skipped + " before it");
  if (long) about.push(words.length + " characters");
  if (about.length > 0) what.append(element("div", "about", about.join(", ")));
  item.append(element("span", "offset", String(message.offset)), what);
  return item;
}

// ---- what the client tells ----

function show_count(count) {
  at("presence").hidden = count === null;
  at("count").textContent = String(count);
}

function lost({ attempt, delayMs, code, reason }) {
  live = false;
  if (code === null) {
    show_state("connecting", "connecting");
    return;
  }
  note("The connection was lost: " + code + (reason ? " " + reason : ""));
  const seconds = Math.max(1, Math.round(delayMs / 1000));
  show_state("lost", "connection lost, attempt " + attempt + " in " + seconds + " s");
}

function forget() {
  topic = null;
  live = false;
  if (paused) resume();
  at("presence").hidden = true;
  show_subscription();
  show_facts();
}

const events = {
  subscribed({ position, count }) {
    live = true;
    show_count(count);
    note("Subscribed to " + topic.topic + " after " + position.epoch + ":" + position.offset);
    show_subscription();
  },
  unsubscribed({ reason }) {
    live = false;
    at("presence").hidden = true;
    note("Unsubscribed from " + topic.topic + (Object.hasOwn(REASONS, reason) ? ": " + REASONS[reason] : ""));
    show_subscription();
  },
  reset({ previous, position }) {
    const what = previous.epoch === position.epoch ? "The position is unknown to the topic" : "The topic was restarted";
    show_loss(what + ": the number of missed messages is unknown");
  },
  message(message) {
    received += 1;
    // What stood between messages that are kept was published before we came.
    if (!message.snapshot) conflated += message.skipped;
    append(message_item(message));
  },
  gap({ from, to, reason }) { lost_from(from, to, reason); },
  join({ count }) { show_count(count); },
  leave({ count }) { show_count(count); },
  members({ count }) { show_count(count); },
  ended({ error }) {
    note("Unsubscribed from " + topic.topic);
    if (error) refused("subscribe", error);
    forget();
  },
};

function watch(name) {
  const subscription = client.subscribe(name, { presence: true });
  topic = subscription;
  for (const [type, told] of Object.entries(events)) {
    subscription.addEventListener(type, (event) => {
      if (topic === subscription) told(event);
    });
  }
}

client.addEventListener("connecting", lost);
client.addEventListener("open", show_subscription);
client.addEventListener("closed", ({ error }) => {
  live = false;
  show_state("closed", error.message);
});

function pause() {
  paused = true;
  client.pause();
  show_subscription();
}

function resume() {
  paused = false;
  client.resume();
  show_subscription();
}

// ---- what the user does ----

function well_formed(text) {
  // Half a surrogate pair cannot be sent; the browser would replace it behind our back.
  return text.toWellFormed ? text.toWellFormed() : text;
}

at("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  notice("");
  if (topic !== null) {
    topic.unsubscribe();
    return;
  }
  const name = well_formed(at("topic").value);
  if (name === "") return;
  received = missed = conflated = 0;
  unshown = [];
  at("log").replaceChildren();
  at("gap").hidden = true;
  watch(name);
  show_facts();
  show_subscription();
});
at("pause").addEventListener("click", () => (paused ? resume() : pause()));
at("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  notice("");
  const to = topic?.topic ?? well_formed(at("topic").value);
  const text = well_formed(at("text").value);
  const form = at("form").value;
  if (to === "") {
    notice("Name a topic first");
    at("topic").focus();
    return;
  }
  if (form === "data") {
    try {
      JSON.parse(text);
    } catch (error) {
      notice("Not JSON: " + error.message);
      return;
    }
  }
  const key = well_formed(at("key").value);
  const keyed = key === "" ? {} : { key };
  // A JSON value leaves as it was written: numbers keep their digits.
  client.publish(to, { ...keyed, [form === "data" ? "json" : "text"]: text }).then(
    ({ epoch, offset }) => notice("Published at " + epoch + ":" + offset, "good"),
    (error) => refused("publish", error),
  );
  at("text").value = "";
  at("text").focus();
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("publish").requestSubmit();
  }
});
at("log").addEventListener("scroll", () => {
  const log = at("log");
  follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
});
new ResizeObserver(follow).observe(at("log"));
at("retry").addEventListener("click", () => (client.state === "closed" ? client.open() : client.retry()));
