"use strict";
// Received bytes are only ever compared and put into text nodes: nothing that arrives is read as HTML.
(() => {
  const LOG_ITEMS_MAX = 20;
  const SHOWN_CHARACTERS_MAX = 200;
  const TRIPS_MAX = 1000;
  const RETRY_MS_MAX = 10000;
  const at = (id) => document.getElementById(id);
  const url = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/echo";
  const pending = [];      // what was sent and has not come back, oldest first
  let trips = [];          // milliseconds of the latest round trips
  let echoes = 0;
  let burst = 0;           // messages of "Send 100" still to go
  let socket = null;
  let wanted = true;       // whether the user wants a connection
  let retry_ms = 500;
  let retry_timer = 0;
  at("url").textContent = url;

  // Browsers blunt their clock to 0.1 ms or so: a shorter time reads as 0.
  const duration = (ms) => ms <= 0 ? "under 0.1 ms" : ms < 1 ? Math.round(ms * 1000) + " µs" : ms.toFixed(ms < 10 ? 2 : 1) + " ms";

  function show_state(state, detail) {
    const place = at("state");
    place.dataset.state = state;
    place.textContent = detail ? state + ": " + detail : state;
    const open = state === "open";
    at("send").disabled = !open;
    at("many").disabled = !open || burst > 0;
    at("toggle").textContent = wanted ? "Close" : "Connect";
  }

  function log(text, note, bad) {
    const item = document.createElement("li");
    const left = document.createElement("span");
    const right = document.createElement("span");
    left.textContent = text.length > SHOWN_CHARACTERS_MAX ? text.slice(0, SHOWN_CHARACTERS_MAX) + "…" : text;
    right.textContent = note;
    if (bad) item.className = "bad";
    item.append(left, right);
    const list = at("log");
    list.prepend(item);
    while (list.children.length > LOG_ITEMS_MAX) list.lastElementChild.remove();
  }

  function same(sent, received) {
    if (typeof sent === "string" || typeof received === "string") return sent === received;
    const a = sent, b = new Uint8Array(received);
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
  }

  function connect() {
    clearTimeout(retry_timer);
    wanted = true;
    show_state("connecting");
    const mine = new WebSocket(url);
    socket = mine;
    mine.binaryType = "arraybuffer";
    mine.onopen = () => { retry_ms = 500; show_state("open"); };
    mine.onmessage = (event) => received(event.data);
    mine.onclose = (event) => {
      if (socket !== mine) return;
      const lost = pending.length;
      pending.length = 0;
      burst = 0;
      if (lost) log(lost + " sent without an echo", "lost", true);
      const why = event.code + (event.reason ? " " + event.reason : "");
      if (wanted) {
        show_state("closed", why + ", trying again");
        retry_timer = setTimeout(connect, retry_ms * (0.5 + Math.random()));
        retry_ms = Math.min(retry_ms * 2, RETRY_MS_MAX);
      } else {
        show_state("closed", why);
      }
    };
  }

  function send() {
    const typed = at("message").value;
    // Half a surrogate pair cannot be sent; the browser would replace it behind our back.
    const text = typed.toWellFormed ? typed.toWellFormed() : typed;
    const binary = document.querySelector("input[name=kind]:checked").value === "binary";
    const data = binary ? new TextEncoder().encode(text) : text;
    pending.push({ data, sent_ms: performance.now() });
    socket.send(data);
  }

  function received(data) {
    const now_ms = performance.now();
    const first = pending.shift();
    const size = typeof data === "string" ? new TextEncoder().encode(data).length : data.byteLength;
    const kind = typeof data === "string" ? "text" : "binary";
    const shown = typeof data === "string" ? data : new TextDecoder().decode(data);
    if (!first || !same(first.data, data)) {
      log(shown, "not what was sent", true);
      return;
    }
    const trip_ms = now_ms - first.sent_ms;
    echoes += 1;
    trips.push(trip_ms);
    if (trips.length > TRIPS_MAX) trips = trips.slice(-TRIPS_MAX);
    const sorted = [...trips].sort((a, b) => a - b);
    at("last").textContent = duration(trip_ms);
    at("median").textContent = duration(sorted[sorted.length >> 1]);
    at("best").textContent = duration(sorted[0]);
    at("count").textContent = String(echoes);
    if (burst > 0) {
      burst -= 1;
      if (burst > 0) { send(); return; }
      show_state("open");
    }
    log(shown, kind + ", " + size + " B, " + duration(trip_ms), false);
  }

  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (socket && socket.readyState === WebSocket.OPEN) send();
  });
  at("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
  });
  at("many").addEventListener("click", () => {
    burst = 100;
    at("many").disabled = true;
    send();
  });
  at("toggle").addEventListener("click", () => {
    if (wanted) {
      wanted = false;
      clearTimeout(retry_timer);
      if (socket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
      else show_state("closed");
      at("toggle").textContent = "Connect";
    } else {
      connect();
    }
  });
  connect();
})();
