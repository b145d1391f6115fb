"""The unmodified SDK for JavaScript in Chromium, on a page of another origin, in JSON and in protobuf."""

import http.server
import json
import os
import unittest

import programs
import test_centrifuge as sdk
from harness import Server, text_file
from test_browser import InFrontOfAPage

SCRIPTS = os.path.join(programs.NODE_MODULES, "centrifuge", "dist")
CONFIGURATION = """
[topic_defaults]
history_messages = 100
presence = "everybody"
"""
# Connects, and keeps what happens.
CONNECT = """
    const [url, protobuf] = args;
    const client = new Centrifuge(url, { minReconnectDelay: 20, maxReconnectDelay: 100, timeout: 60000 });
    window.seen = [];
    window.client = client;
    // The title changes, so that `until` looks again.
    window.note = (...event) => document.title = seen.push(event);
    // Positions are of a type of their own in protobuf.
    window.number = (offset) => offset.toNumber?.() ?? offset;
    window.pack = (value) => protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
    window.unpack = (data) => protobuf ? JSON.parse(new TextDecoder().decode(data)) : data;
    client.on("connecting", ({ code }) => note("connecting", code));
    client.on("disconnected", ({ code }) => note("disconnected", code));
    client.connect();
    await client.ready(60000);
"""
SUBSCRIBE = """
    const subscription = client.newSubscription(args[0], { recoverable: true, joinLeave: true });
    window.subscription = subscription;
    subscription.on("subscribed", ({ wasRecovering, recovered }) => note("subscribed", wasRecovering, recovered));
    subscription.on("publication", ({ data, offset }) => note("publication", number(offset), unpack(data)));
    subscription.on("join", () => note("join"));
    subscription.subscribe();
    await subscription.ready(60000);
"""


class Pages(http.server.BaseHTTPRequestHandler):
    """An empty page with the SDK."""

    def do_GET(self):
        scripts = {f"/{name}" for name in os.listdir(SCRIPTS)}
        if self.path in scripts:
            with open(os.path.join(SCRIPTS, self.path[1:]), "rb") as file:
                kind, body = "text/javascript", file.read()
        else:
            script = self.path.rpartition("?")[2]
            kind, body = "text/html", f"<!doctype html><title>a page</title><script src=/{script}></script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class InTheBrowser:
    pages = Pages

    @classmethod
    def setUpClass(cls):
        programs.require("centrifuge")
        super().setUpClass()
        configuration = cls.enterClassContext(text_file(CONFIGURATION))
        cls.options = ("--shards", "2", "--config", configuration, "--allow-origin", cls.origin, "--drain", "1s")
        cls.server = Server(*cls.options)
        cls.addClassCleanup(cls.server.__exit__)

    def connect(self, url):
        self.browser.open(f"{self.origin}/?{self.script}")
        self.browser.run(CONNECT, url, self.protobuf)

    def saw(self, *events):
        """Waits until the client has seen these."""
        for event in events:
            text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
            try:
                self.browser.until(f"seen.some((one) => JSON.stringify(one) === {json.dumps(text)})")
            except AssertionError as error:
                raise AssertionError(event, self.browser.run("return seen")) from error

    def test_a_page_subscribes_publishes_and_reads_what_the_topic_has(self):
        name = self.id()
        self.connect(self.server.url(sdk.PATH))
        self.browser.run(SUBSCRIBE, name)
        self.browser.run("await subscription.publish(pack({ text: 'Grüße' }))")
        self.saw(["join"], ["publication", 1, {"text": "Grüße"}])
        sdk.post(self.server, name, [1, 2])
        self.saw(["publication", 2, [1, 2]])
        history = self.browser.run(
            "const { publications } = await subscription.history({ limit: 10 });"
            "return publications.map(({ data, offset }) => [number(offset), unpack(data)])"
        )
        self.assertEqual(history, [[1, {"text": "Grüße"}], [2, [1, 2]]])
        stats = self.browser.run("const { numClients } = await subscription.presenceStats(); return numClients")
        self.assertEqual(stats, 1)

    def test_a_page_recovers_what_it_missed_when_its_connection_is_cut(self):
        relay = sdk.Relay(self.server.host, self.server.port)
        self.addCleanup(relay.close)
        name = self.id()
        self.connect(relay.url(sdk.PATH))
        self.browser.run(SUBSCRIBE, name)
        sdk.post(self.server, name, "live")
        self.saw(["publication", 1, "live"])
        with relay.cut():
            for number in range(3):
                sdk.post(self.server, name, number)
        self.saw(["connecting", 1], ["subscribed", True, True], *(["publication", 2 + n, n] for n in range(3)))
        publications = self.browser.run("return seen.filter(([kind]) => kind === 'publication').length")
        self.assertEqual(publications, 4)

    def test_a_page_does_not_notice_a_takeover(self):
        name = self.id()
        with Server(*self.options) as server:
            self.connect(server.url(sdk.PATH))
            self.browser.run(SUBSCRIBE, name)
            sdk.post(server, name, "before")
            self.saw(["publication", 1, "before"])
            before = len(self.browser.run("return seen"))
            host, port = server.admin
            successor = Server(
                *self.options, "--takeover", listen=f"{server.host}:{server.port}", admin=f"{host}:{port}"
            )
            with successor:
                sdk.post(successor, name, "after")
                self.assertEqual(server.wait(), 0)
                self.saw(["publication", 2, "after"])
                self.assertEqual(self.browser.run("return seen.slice(args[0])", before), [["publication", 2, "after"]])
                self.browser.run("client.disconnect()")
                self.saw(["disconnected", 0])


class Json(InTheBrowser, InFrontOfAPage):
    script, protobuf = "centrifuge.js", False


class Protobuf(InTheBrowser, InFrontOfAPage):
    script, protobuf = "centrifuge.protobuf.js", True


if __name__ == "__main__":
    unittest.main()
