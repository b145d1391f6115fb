"use strict";
// What arrives is only ever compared and put into text nodes: nothing of it is read as HTML.
(() => {
  const LOG_ITEMS_MAX = 500;
  const RETRY_MS_FIRST = 500;
  const RETRY_MS_MAX = 15000;
  // A name may be held by a lost connection until the server notices, which takes 35 s at most.
  const CLAIM_MS = 2000;
  const CLAIMS_MAX = 20;
  const at = (id) => document.getElementById(id);
  const url = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + location.pathname;

  let socket = null;
  let name = "";            // what we want to be called; empty until the user said so
  let joined = false;
  let claims = 0;           // times that we asked for our name on this connection
  let users = [];           // who is there, in the order in which they came
  let retry_ms = RETRY_MS_FIRST;
  let timer = 0;
  let follows = true;       // whether the latest message is to stay in sight

  function show_state(state, text) {
    const place = at("state");
    place.dataset.state = state;
    document.body.dataset.state = state;
    place.textContent = text;
    at("retry").hidden = state !== "lost";
    at("send").disabled = !joined;
    at("enter").disabled = state !== "open";
    at("join").hidden = joined || (name !== "" && at("join").dataset.again === "true");
    at("say").hidden = !at("join").hidden;
  }

  function notice(text) { at("notice").textContent = text; }

  function element(kind, class_name, text) {
    const made = document.createElement(kind);
    made.className = class_name;
    made.textContent = text;
    return made;
  }

  function append(item) {
    const log = at("log");
    log.append(item);
    while (log.children.length > LOG_ITEMS_MAX) log.firstElementChild.remove();
    follow();
  }

  function follow() {
    if (follows) at("log").scrollTop = at("log").scrollHeight;
  }

  function note(text) { append(element("li", "note", text)); }

  function show_message(message) {
    const own = message.from === name;
    const secret = message.type === "private";
    const item = element("li", "said" + (own ? " own" : "") + (secret ? " private" : ""), "");
    const who = element("div", "who", "");
    const sender = element("b", "", message.from);
    sender.title = message.FromIp;
    who.append(sender);
    if (secret) who.append(element("span", "", own ? "privately to " + message.user : "privately to you"));
    const now = new Date();
    const time = element("time", "", now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    time.dateTime = now.toISOString();
    who.append(time);
    item.append(who, element("div", "words", message.content));
    append(item);
  }

  function address_to(user) {
    const select = at("to");
    // Who is gone stays chosen, so that nothing private ever goes to everyone by itself.
    const options = users.filter((other) => other !== name);
    const gone = user !== "" && !options.includes(user);
    select.replaceChildren(new Option("everyone", ""), ...options.map((other) => new Option(other, other)));
    if (gone) select.append(new Option(user + " (gone)", user));
    select.value = user;
    at("whisper").hidden = user === "";
    for (const button of at("users").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.user === user));
    }
  }

  function user_item(user) {
    const item = document.createElement("li");
    if (user === name) {
      item.append(element("span", "", user + " (you)"));
      return item;
    }
    const button = element("button", "", user);
    button.type = "button";
    button.dataset.user = user;
    button.title = "Write to " + user + " alone";
    button.addEventListener("click", () => {
      address_to(at("to").value === user ? "" : user);
      at("text").focus();
    });
    item.append(button);
    return item;
  }

  function show_users() {
    const focused = document.activeElement && document.activeElement.dataset.user;
    at("users").replaceChildren(...users.map(user_item));
    at("count").textContent = String(users.length);
    address_to(at("to").value);
    if (focused === undefined) return;
    const again = [...at("users").querySelectorAll("button")].find((button) => button.dataset.user === focused);
    (again || at("text")).focus();
  }

  // ---- what the server says ----

  const answers = {
    handshake(message) {
      at("self").textContent = message.ip ? "you are at " + message.ip : "";
      claims = 0;
      show_state("open", "connected");
      if (name) claim();
      else at("name").focus();
    },
    join(message) {
      if (!joined && message.from === name) {
        joined = true;
        retry_ms = RETRY_MS_FIRST;
        clearTimeout(timer);
        notice("");
        show_state("joined", "connected as " + name);
        at("text").focus();
      }
      if (!users.includes(message.from)) users.push(message.from);
      show_users();
      note(message.from + " has come");
    },
    leave(message) {
      users = users.filter((user) => user !== message.from);
      show_users();
      note(message.from + " has gone");
    },
    users(message) {
      users = message.content.split("\n").filter((user) => user !== "");
      show_users();
    },
    broadcast: show_message,
    private: show_message,
    error(message) {
      if (joined || claims === 0) {
        notice(message.content);
      } else if (claims > 1 || at("join").dataset.again === "true") {
        refused_again(message.content);
      } else {
        name = "";
        notice(message.content);
        show_state("open", "connected");
        at("name").focus();
        at("name").select();
      }
    },
  };

  // We had the name before the connection was lost; perhaps the server has not noticed that yet.
  function refused_again(why) {
    if (claims >= CLAIMS_MAX) {
      at("join").dataset.again = "false";
      name = "";
      notice(why);
      show_state("open", "connected");
      at("name").focus();
      return;
    }
    notice(why + "; trying again to get it back");
    timer = setTimeout(claim, CLAIM_MS * (0.5 + Math.random()));
  }

  function claim() {
    claims += 1;
    tell({ type: "join", content: name });
  }

  function tell(message) { socket.send(JSON.stringify(message)); }

  // ---- the connection ----

  function connect() {
    clearTimeout(timer);
    show_state("connecting", "connecting");
    const mine = new WebSocket(url, "chat");
    socket = mine;
    mine.onmessage = (event) => {
      if (socket !== mine) return;
      const message = JSON.parse(event.data);
      if (Object.hasOwn(answers, message.type)) answers[message.type](message);
    };
    mine.onclose = (event) => { if (socket === mine) lost(event); };
  }

  function lost(event) {
    clearTimeout(timer);
    if (joined) note("The connection was lost" + (event.reason ? ": " + event.reason : ""));
    at("join").dataset.again = String(name !== "");
    joined = false;
    users = [];
    show_users();
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

  at("join").addEventListener("submit", (event) => {
    event.preventDefault();
    name = well_formed(at("name").value).trim();
    if (name === "" || at("enter").disabled) return;
    notice("");
    claims = 0;
    at("join").dataset.again = "false";
    clearTimeout(timer);
    claim();
  });
  at("say").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = well_formed(at("text").value);
    if (!joined || text.trim() === "") return;
    notice("");
    const user = at("to").value;
    tell(user ? { type: "private", user, content: text } : { type: "broadcast", content: text });
    at("text").value = "";
    at("text").focus();
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("say").requestSubmit();
    } else if (event.key === "Escape") {
      address_to("");
    }
  });
  at("log").addEventListener("scroll", () => {
    const log = at("log");
    follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  });
  new ResizeObserver(follow).observe(at("log"));
  at("to").addEventListener("change", () => address_to(at("to").value));
  at("retry").addEventListener("click", retry_now);
  window.addEventListener("online", retry_now);
  // A page that is left may be kept alive for the way back: the others are not to see somebody who is not there.
  window.addEventListener("pagehide", () => {
    clearTimeout(timer);
    const mine = socket;
    socket = null;
    if (mine) mine.close(1000);
    joined = false;
    users = [];
  });
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    at("join").dataset.again = String(name !== "");
    show_users();
    connect();
  });
  connect();
})();
