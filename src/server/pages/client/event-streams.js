// A stand-in for WebSocket where proxies break WebSockets: the option `fallback` of the client. It carries echoring.v1.json over event
// streams, one request for each subscription, and only receives. The types are in event-streams.d.ts.

const SUBPROTOCOL = "echoring.v1.json";
// Silence in ms after which a stream is lost: the server writes a comment every 25 s by default.
const SILENCE_MS = 60_000;

// The content of an event, as fields of a message.
function content({ event, kind, data }) {
  if (event?.endsWith("bytes")) return `"base64":"${data}"`;
  return kind === "text" ? `"text":${JSON.stringify(data)}` : `"data":${data}`;
}

/** Makes the stand-in. */
export function eventStreams({ url, credentials = "include", silenceMs = SILENCE_MS } = {}) {
  return class EventStreams {
    protocol = SUBPROTOCOL;
    onopen = null;
    onmessage = null;
    onclose = null;
    onerror = null;
    #base;
    #headers = {};
    // What ends the request of each subscription, by its topic.
    #streams = new Map();
    #isClosed = false;

    constructor(socketUrl, [, , token]) {
      this.#base = new URL(url ?? "sse/", String(socketUrl).replace(/^ws/, "http"));
      if (token) this.#headers = { Authorization: `Bearer ${token}` };
      this.#probe(() => this.onopen?.());
    }

    send(text) {
      const { type, id, topic, position } = JSON.parse(text);
      if (type === "subscribe") {
        this.#listen(id, topic, position);
      } else if (type === "ping") {
        this.#probe(() => this.#tell({ type: "pong", id }));
      } else if (type === "unsubscribe") {
        this.#leave(topic);
        this.#tell({ type: "unsubscribed", id, topic });
      } else {
        this.#tell({ type: "error", id, code: "receive-only", message: "event streams only receive: a proxy breaks WebSockets" });
      }
    }

    close() {
      this.#isClosed = true;
      for (const topic of [...this.#streams.keys()]) this.#leave(topic);
    }

    // Any answer shows that the server is there.
    #probe(answered) {
      fetch(new URL("../readyz", this.#base), { mode: "no-cors", cache: "no-store" }).then(answered, (error) => this.#lose(1006, error.message));
    }

    // As an event of its own, as those of a WebSocket are.
    #tell(event) { queueMicrotask(() => this.#hear(JSON.stringify(event))); }

    #hear(data) {
      if (!this.#isClosed) this.onmessage?.({ data });
    }

    #lose(code, reason) {
      if (this.#isClosed) return;
      this.close();
      this.onclose?.({ code, reason });
    }

    #leave(topic) {
      this.#streams.get(topic)?.abort();
      this.#streams.delete(topic);
    }

    async #listen(id, topic, position) {
      const controller = new AbortController();
      this.#streams.set(topic, controller);
      const isOver = () => this.#streams.get(topic) !== controller;
      const lose = (code, reason) => isOver() || this.#lose(code, reason);
      let silence;
      const heard = () => {
        clearTimeout(silence);
        silence = setTimeout(() => lose(1006, "a silent stream"), silenceMs);
      };
      heard();
      try {
        const stream = new URL(encodeURIComponent(topic), this.#base);
        if (position) stream.searchParams.set("last_event_id", `${position.epoch}-${position.offset}`);
        const { signal } = controller;
        const response = await fetch(stream, { signal, credentials, headers: this.#headers, cache: "no-store" });
        const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
        if (response.status === 200 && isStream) await this.#read(response.body, { id, topic, isOver, heard });
        else this.#refused(response.status, { id, topic });
        lose(1006, "the stream has ended");
      } catch (error) {
        lose(1006, error.message);
      } finally {
        clearTimeout(silence);
      }
    }

    #refused(status, { id, topic }) {
      const code = { 403: "forbidden", 429: "busy", 503: "busy" }[status];
      if (!code) return this.#lose(status === 401 ? 4001 : 1006, `the status ${status}`);
      this.#leave(topic);
      this.#tell({ type: "error", id, code, message: `the status ${status}` });
    }

    async #read(body, { id, topic, isOver, heard }) {
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      let [rest, event] = ["", {}];
      while (!isOver()) {
        const { value, done } = await reader.read();
        if (done) return;
        heard();
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (isOver()) return;
          const at = line.indexOf(":");
          if (line === "") {
            this.#dispatch(event, id, topic);
            event = {};
          } else if (at > 0) {
            const [field, text] = [line.slice(0, at), line.slice(at + 2)];
            event[field] = field === "data" && "data" in event ? `${event.data}\n${text}` : text;
          }
        }
      }
    }

    #dispatch(event, id, topic) {
      const { event: name = "message", data } = event;
      if (name === "subscribed" || name === "reset") {
        this.#hear(JSON.stringify({ ...JSON.parse(data), id }));
      } else if (name === "message" || name === "bytes") {
        const offset = event.id.split("-")[1];
        this.#hear(`{"type":"message","topic":${JSON.stringify(topic)},"offset":${offset},${content(event)}}`);
      } else if (name === "direct" || name === "direct-bytes") {
        this.#hear(`{"type":"direct",${content(event)}}`);
      } else if (name === "end") {
        this.#ended(topic, Number(data.slice(0, 4)), data.slice(5));
      } else if (name === "keyed" || name === "gap") {
        this.#hear(data);
      }
    }

    // Two reasons concern one subscription, others the client.
    #ended(topic, code, reason) {
      const ending = { 4003: "forbidden", 4008: "slow" }[code];
      if (!ending) return this.#lose(code, reason);
      this.#leave(topic);
      this.#hear(JSON.stringify({ type: "unsubscribed", topic, reason: ending }));
    }
  };
}
