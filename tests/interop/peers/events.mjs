// Keeps what clients of echoring.js tell, in order, for scripts of tests that run in a page or in Node.

const OF_CLIENTS = ["connecting", "open", "closed", "direct"];
const OF_SUBSCRIPTIONS = ["subscribed", "unsubscribed", "message", "gap", "reset", "join", "leave", "members", "ended"];

export function install(module, scope) {
  const seen = [];
  let wake = () => {};

  function note(source, name, types) {
    for (const type of types) {
      source.addEventListener(type, (event) => {
        const { code, closeCode } = event.error ?? {};
        const told = { ...event, ...(event.error ? { error: { code, closeCode } } : {}) };
        delete told.isTrusted;
        if (told.data instanceof Uint8Array) told.data = [...told.data];
        seen.push({ on: name, type, ...told });
        wake();
      });
    }
    return source;
  }

  Object.assign(scope, module, {
    seen,
    start: (url, options) => note(new module.Client(url, options), "client", OF_CLIENTS),
    follow: (client, topic, options) => note(client.subscribe(topic, options), topic, OF_SUBSCRIPTIONS),
    of: (name, type) => seen.filter((event) => event.on === name && event.type === type),
    async until(holds) {
      while (!holds()) await new Promise((resolve) => { wake = resolve; });
    },
    // As [code, what the server says], of a promise that should be rejected.
    failure: (promise) => promise.then((value) => ["resolved", value], ({ code, name, message }) => [code ?? name, message]),
  });
}
