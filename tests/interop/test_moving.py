"""Clients that others wrote do not notice that their server is upgraded: no close, no error, and no message that is missing."""

import asyncio
import json
import subprocess
import unittest

import programs
import websockets
from harness import PATIENCE_S, Server, request
from test_browser import InFrontOfAPage

UPGRADES = 2
# npm's `ws`: prints what it hears, and sends each line that it reads.
WS = """
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
const WebSocket = createRequire(`${process.env.NODE_MODULES}/`)("ws");
const socket = new WebSocket(process.argv[1]);
socket.on("open", () => console.log("open"));
socket.on("message", (data) => console.log(`message ${data}`));
socket.on("error", ({ message }) => console.log(`error ${message}`));
socket.on("close", (code) => console.log(`close ${code}`));
createInterface({ input: process.stdin }).on("line", (line) => socket.send(line));
"""
# Keeps everything that a WebSocket and an event stream tell.
OPEN = """
    const [echo, topic, stream] = args;
    window.seen = [];
    const note = (...event) => document.title = seen.push(event.join(" "));
    window.sockets = [echo, topic].map((url) => {
        const socket = new WebSocket(url);
        socket.onmessage = ({ data }) => note("message", data);
        socket.onclose = ({ code }) => note("close", code);
        socket.onerror = () => note("error");
        return socket;
    });
    window.events = new EventSource(stream);
    events.onmessage = ({ data }) => note("event", data);
    events.onerror = () => note("lost");
    const opened = [...sockets, events].map((one) => new Promise((resolve) => one.onopen = resolve));
    await Promise.all(opened);
"""


def publish(server, topic, text):
    status, _, answer = request(server.admin, "POST", f"/topics/{topic}", text.encode(), {"Content-Type": "text/plain"})
    assert status == 200, (status, answer)


class Upgraded(unittest.TestCase):
    """A server that is upgraded while clients are connected."""

    flags = ("--shards", "2", "--drain", "1h", "--compress", "server_max_window_bits=12")

    def start(self, *flags):
        self.flags = (*type(self).flags, *flags)
        self.server = Server(*self.flags)
        self.addCleanup(lambda: self.server.__exit__())

    def upgrade(self):
        """A successor takes over, and its predecessor ends because all of its connections have moved."""
        first = self.server
        admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
        self.server = Server(*self.flags, "--takeover", admin=admin, listen=listen)
        self.assertEqual(first.wait(), 0)
        first.__exit__()


class Libraries(Upgraded):
    def test_websockets_for_python_goes_on(self):
        asyncio.run(self.with_websockets())

    async def with_websockets(self):
        self.start()

        async def soon(what):
            return await asyncio.wait_for(what, PATIENCE_S)

        url = self.server.url
        v1 = {"subprotocols": ["echoring.v1.json"]}
        async with (
            websockets.connect(url("/echo")) as echo,
            websockets.connect(url("/broadcast/news")) as raw,
            websockets.connect(url("/broadcast"), **v1) as session,
        ):
            await session.send(json.dumps({"type": "subscribe", "id": 1, "topic": "news"}))
            self.assertEqual(json.loads(await soon(session.recv()))["type"], "subscribed")
            for number in range(UPGRADES + 1):
                text = f"message {number}"
                await asyncio.to_thread(publish, self.server, "news", text)
                await echo.send(text * 100)
                self.assertEqual(await soon(raw.recv()), text)
                self.assertEqual(json.loads(await soon(session.recv()))["text"], text)
                self.assertEqual(await soon(echo.recv()), text * 100)
                if number < UPGRADES:
                    await asyncio.to_thread(self.upgrade)
            await session.send(json.dumps({"type": "publish", "id": 2, "topic": "news", "text": "its own"}))
            kinds = {json.loads(await soon(session.recv()))["type"] for _ in range(2)}
            self.assertEqual(kinds, {"message", "published"})
            self.assertEqual(await soon(raw.recv()), "its own")
            await (await soon(echo.ping()))

    def test_ws_for_node_goes_on(self):
        programs.require("ws")
        self.start()
        clients = [self.ws(path) for path in ("/echo", "/broadcast/news")]
        for number in range(UPGRADES + 1):
            publish(self.server, "news", f"{number}")
            clients[0].stdin.write(f"{number}\n")
            clients[0].stdin.flush()
            for client in clients:
                self.assertEqual(client.stdout.readline(), f"message {number}\n")
            if number < UPGRADES:
                self.upgrade()

    def ws(self, path):
        command = [programs.NODE, "--input-type=module", "-e", WS, self.server.url(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        client = subprocess.Popen(command, env=programs.environment(), **pipes)
        self.addCleanup(client.stdin.close)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.assertEqual(client.stdout.readline(), "open\n")
        return client


class Browser(Upgraded, InFrontOfAPage):
    def test_a_page_goes_on(self):
        self.start("--allow-origin", self.origin)
        self.browser.open(f"{self.origin}/")
        stream = self.server.url("/sse/news").replace("ws:", "http:")
        self.browser.run(OPEN, self.server.url("/echo"), self.server.url("/broadcast/news"), stream)
        expected = []
        for number in range(UPGRADES + 1):
            publish(self.server, "news", f"news {number}")
            self.browser.run(f"sockets[0].send('echo {number}')")
            expected += [f"message echo {number}", f"message news {number}", f"event news {number}"]
            self.browser.until(f"seen.length >= {len(expected)}")
            if number < UPGRADES:
                self.upgrade()
        self.assertCountEqual(self.browser.run("return seen"), expected)


if __name__ == "__main__":
    unittest.main()
