"use strict";
// What arrives is only ever compared and put into text nodes: nothing of it is read as HTML.
(() => {
  const SUBPROTOCOL = "echoring.v1.json";
  const LOG_ITEMS_MAX = 500;
  const SHOWN_CHARACTERS_MAX = 400;
  const RETRY_MS_FIRST = 500;
  const RETRY_MS_MAX = 15000;
  const at = (id) => document.getElementById(id);
  const url = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + location.pathname;

  let link = null;
  let phase = "absent";     // of the subscription: absent, subscribing, live, leaving
  let topic = "";           // what is to be subscribed to; empty for nothing
  let position = null;      // of the topic: what comes after this offset of this epoch is not known yet
  let paused = false;
  let received = 0;
  let missed = 0;
  let conflated = 0;
  let requests = new Map(); // what was asked for, by its id
  let last_id = 0;
  let retry_ms = RETRY_MS_FIRST;
  let timer = 0;
  let follows = true;       // whether the latest message is to stay in sight
  let unshown = [];         // items of the log that wait for the next frame

  // ---- what is seen ----

  function show_state(state, text) {
    at("state").dataset.state = state;
    document.body.dataset.state = state;
    at("state").textContent = text;
    at("retry").hidden = state !== "lost";
    show_buttons();
  }

  function show_buttons() {
    const open = link !== null && link.is_open;
    at("subscribe").disabled = !open && topic === "";
    at("subscribe").textContent = topic === "" ? "Subscribe" : "Unsubscribe";
    at("topic").readOnly = topic !== "";
    at("pause").disabled = topic === "" || !(open || paused);
    at("pause").textContent = paused ? "Resume" : "Pause";
    at("send").disabled = !open;
  }

  function show_subscription() {
    if (link === null || !link.is_open) return;
    if (paused) {
      const how = link.hold ? "nothing is read any more" : "unsubscribed until you resume";
      show_state("paused", "paused: " + how);
    } else if (phase === "live") {
      show_state("live", "subscribed");
    } else {
      show_state("open", phase === "subscribing" ? "subscribing" : "connected");
    }
  }

  function show_facts() {
    at("position").textContent = position === null ? "–" : position.epoch + ":" + position.offset;
    at("received").textContent = String(received);
    at("missed").textContent = String(missed);
    at("conflated").textContent = String(conflated);
  }

  function notice(text, kind = "bad") {
    at("notice").dataset.kind = kind;
    at("notice").textContent = text;
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
  };

  function lost_from(from, to, reason) {
    const count = to - from + 1;
    missed += count;
    const which = count === 1 ? "Message " + from + " is lost" : "Messages " + from + " to " + to + " are lost";
    show_loss(which + ": " + (Object.hasOwn(REASONS, reason) ? REASONS[reason] : reason));
  }

  function shown(message) {
    if (Object.hasOwn(message, "data")) return JSON.stringify(message.data);
    if (Object.hasOwn(message, "text")) return message.text;
    return message.base64;
  }

  function message_item(message) {
    const item = element("li", "message", "");
    const what = element("div", "what", "");
    const words = shown(message);
    const long = words.length > SHOWN_CHARACTERS_MAX;
    what.append(element("div", "words", long ? words.slice(0, SHOWN_CHARACTERS_MAX) + "…" : words));
    const about = [];
    if (message.key !== undefined) about.push("key " + message.key);
    if (message.base64 !== undefined) about.push("base64");
    if (message.snapshot) about.push("kept from before");
    else if (message.skipped) about.push("stands for " + message.skipped + " before it");
    if (long) about.push(words.length + " characters");
    if (about.length > 0) what.append(element("div", "about", about.join(", ")));
    item.append(element("span", "offset", String(message.offset)), what);
    return item;
  }

  // ---- what the server says ----

  const answers = {
    subscribed(message) {
      if (topic !== message.topic) {
        leave(message.topic);
        return;
      }
      phase = "live";
      const began_anew = position !== null && position.epoch !== message.epoch;
      if (began_anew) show_loss("The topic was restarted: the number of missed messages is unknown");
      else if (position !== null && position.offset !== message.offset) {
        show_loss("The position is unknown to the topic: the number of missed messages is unknown");
      }
      // What comes after this offset follows: first what is kept, where something is sent of that.
      position = { epoch: message.epoch, offset: message.offset };
      show_count(message.count);
      note("Subscribed to " + message.topic + " after " + message.epoch + ":" + message.offset);
      show_subscription();
      if (paused) hold();
    },
    unsubscribed(message) {
      phase = "absent";
      at("presence").hidden = true;
      const why = Object.hasOwn(REASONS, message.reason) ? ": " + REASONS[message.reason] : "";
      note("Unsubscribed from " + message.topic + why);
      show_subscription();
      subscribe();
    },
    published(message) { notice("Published at " + message.epoch + ":" + message.offset, "good"); },
    message(message) {
      if (position === null || message.topic !== topic) return;
      const skipped = message.skipped || 0;
      const expected = position.offset + 1 + skipped;
      if (message.offset > expected) lost_from(position.offset + 1, message.offset - skipped - 1, "no reason given");
      position.offset = message.offset;
      received += 1;
      // What stood between messages that are kept was published before we came.
      if (!message.snapshot) conflated += skipped;
      append(message_item(message));
    },
    gap(message) {
      if (position === null || message.topic !== topic) return;
      lost_from(message.from, message.to, message.reason);
      position.offset = message.to;
    },
    heartbeat(message) {
      if (position === null || message.topic !== topic) return;
      if (message.offset > position.offset) lost_from(position.offset + 1, message.offset, "no reason given");
      position.offset = message.offset;
      show_facts();
    },
    presence(message) {
      if (message.topic !== topic) return;
      // Who is there follows by itself.
      if (message.event === "stale") note("Joins and leaves in the meantime were missed");
      else show_count(message.count);
    },
    members(message) { if (message.topic === topic) show_count(message.count); },
    error(message) {
      const asked = requests.get(message.id);
      notice((asked || "error") + ": " + message.message + (message.field ? " (" + message.field + ")" : ""));
      if (asked === "subscribe" || asked === "unsubscribe") {
        phase = "absent";
        forget();
      }
    },
  };

  function show_count(count) {
    at("presence").hidden = count === undefined;
    at("count").textContent = String(count);
  }

  function heard(text) {
    const message = JSON.parse(text);
    if (Object.hasOwn(answers, message.type)) answers[message.type](message);
    if (message.id !== undefined) requests.delete(message.id);
    show_buttons();
  }

  // ---- the subscription ----

  function ask(type, fields) {
    last_id += 1;
    requests.set(last_id, type);
    const rest = Object.entries(fields).map(([name, json]) => "," + JSON.stringify(name) + ":" + json).join("");
    link.send('{"type":"' + type + '","id":' + last_id + rest + "}");
  }

  // Does what is to be done, whenever something has changed that may have stood in its way.
  function subscribe() {
    if (topic === "" || paused || phase !== "absent" || link === null || !link.is_open) return;
    phase = "subscribing";
    const from = position === null ? {} : { position: JSON.stringify(position) };
    ask("subscribe", { topic: JSON.stringify(topic), ...from });
    show_subscription();
  }

  function leave(name) {
    phase = "leaving";
    ask("unsubscribe", { topic: JSON.stringify(name) });
  }

  function forget() {
    topic = "";
    position = null;
    paused = false;
    at("presence").hidden = true;
    show_subscription();
    show_facts();
  }

  // With back-pressure the subscription stays: the server feels that nothing is read, and says later what it dropped.
  // Without it, messages would pile up in the browser; so there are to be none.
  function hold() {
    if (link.hold) link.hold();
    else if (phase === "live") leave(topic);
  }

  function pause() {
    paused = true;
    if (link !== null && link.is_open) hold();
    show_subscription();
    show_buttons();
  }

  function resume() {
    paused = false;
    if (link !== null && link.hold) link.release();
    show_subscription();
    show_buttons();
    subscribe();
  }

  // ---- connections ----

  // WebSocketStream has back-pressure: who does not read from it lets the connection fill up.
  class StreamLink {
    is_open = false;
    #stream = new WebSocketStream(url, { protocols: [SUBPROTOCOL] });
    #writer = null;
    #held = null;
    #release = () => {};

    async run(opened, closed) {
      let end = { closeCode: 1006, reason: "" };
      try {
        const { readable, writable } = await this.#stream.opened;
        this.#writer = writable.getWriter();
        this.is_open = true;
        opened();
        const reader = readable.getReader();
        for (;;) {
          await this.#held;
          const { value, done } = await reader.read();
          // What a read under way brings after a pause is not shown before its end.
          while (this.#held !== null) await this.#held;
          if (done) break;
          heard(value);
        }
        end = await this.#stream.closed;
      } catch (error) {
        end = { closeCode: error.closeCode || 1006, reason: error.reason || "" };
      }
      this.is_open = false;
      closed(end.closeCode, end.reason);
    }

    send(text) { this.#writer.write(text).catch(() => {}); }
    hold() { if (this.#held === null) this.#held = new Promise((release) => { this.#release = release; }); }
    release() {
      this.#held = null;
      this.#release();
    }
    close() {
      this.release();
      this.#stream.close({ closeCode: 1000 });
    }
  }

  class PlainLink {
    is_open = false;
    #socket = new WebSocket(url, SUBPROTOCOL);

    run(opened, closed) {
      this.#socket.onopen = () => {
        this.is_open = true;
        opened();
      };
      this.#socket.onmessage = (event) => heard(event.data);
      this.#socket.onclose = (event) => {
        this.is_open = false;
        closed(event.code, event.reason);
      };
    }

    send(text) { this.#socket.send(text); }
    close() { this.#socket.close(1000); }
  }

  function connect() {
    clearTimeout(timer);
    show_state("connecting", "connecting");
    const mine = "WebSocketStream" in window ? new StreamLink() : new PlainLink();
    link = mine;
    requests = new Map();
    phase = "absent";
    mine.run(
      () => {
        if (link !== mine) return;
        retry_ms = RETRY_MS_FIRST;
        show_subscription();
        subscribe();
      },
      (code, reason) => { if (link === mine) lost(code, reason); },
    );
  }

  function lost(code, reason) {
    clearTimeout(timer);
    phase = "absent";
    note("The connection was lost: " + code + (reason ? " " + reason : ""));
    // A random part of the delay, so that all who lost a server do not come back at once.
    const delay_ms = retry_ms * (0.5 + Math.random() / 2);
    retry_ms = Math.min(retry_ms * 2, RETRY_MS_MAX);
    const seconds = Math.max(1, Math.round(delay_ms / 1000));
    show_state("lost", "connection lost, trying again in " + seconds + " s");
    timer = setTimeout(connect, delay_ms);
  }

  function retry_now() {
    if (at("state").dataset.state === "lost") connect();
  }

  // ---- what the user does ----

  function well_formed(text) {
    // Half a surrogate pair cannot be sent; the browser would replace it behind our back.
    return text.toWellFormed ? text.toWellFormed() : text;
  }

  at("watch").addEventListener("submit", (event) => {
    event.preventDefault();
    notice("");
    if (topic !== "") {
      const was = topic;
      if (link !== null && link.hold) link.release();
      forget();
      if (phase === "live") leave(was);
      show_buttons();
      return;
    }
    topic = well_formed(at("topic").value);
    if (topic === "") return;
    received = missed = conflated = 0;
    unshown = [];
    at("log").replaceChildren();
    at("gap").hidden = true;
    show_facts();
    show_buttons();
    subscribe();
  });
  at("pause").addEventListener("click", () => (paused ? resume() : pause()));
  at("publish").addEventListener("submit", (event) => {
    event.preventDefault();
    notice("");
    const to = well_formed(topic || at("topic").value);
    const text = well_formed(at("text").value);
    const form = at("form").value;
    if (link === null || !link.is_open) return;
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
    const keyed = key === "" ? {} : { key: JSON.stringify(key) };
    // A JSON value leaves as it was written: numbers keep their digits.
    ask("publish", { topic: JSON.stringify(to), ...keyed, [form]: form === "data" ? text : JSON.stringify(text) });
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
  at("retry").addEventListener("click", retry_now);
  window.addEventListener("online", retry_now);
  // A page that is left may be kept alive for the way back, and would be a subscriber that does not read.
  window.addEventListener("pagehide", () => {
    clearTimeout(timer);
    const mine = link;
    link = null;
    if (mine) mine.close();
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  connect();
})();
