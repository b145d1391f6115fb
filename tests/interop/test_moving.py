"""Clients that others wrote do not notice that their server is upgraded: no close, no error, and no message that is missing."""

import asyncio
import json
import shutil
import ssl
import subprocess
import unittest

import programs
import trustme
import websockets
from harness import PATIENCE_S, Server, frame, request
from test_browser import InFrontOfAPage
from test_tls import UPGRADE, files
from webdriver import FIREFOX, Browser, Firefox

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

    def url(self, path):
        return self.server.url(path)

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


class OverTls:
    """Through TLS 1.3, whose sessions move."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        authority = trustme.CA()
        folder = cls.enterClassContext(files())
        own = folder.certificate("own", authority.issue_cert("127.0.0.1", "localhost"))
        cls.flags = (*cls.flags, *own, "--takeover-tls", "on")
        cls.authority = folder.write("authority.pem", authority.cert_pem.bytes())

    def url(self, path):
        return self.server.url(path).replace("ws:", "wss:")


class Libraries(Upgraded):
    authority = None

    def test_websockets_for_python_goes_on(self):
        asyncio.run(self.with_websockets())

    async def with_websockets(self):
        self.start()

        async def soon(what):
            return await asyncio.wait_for(what, PATIENCE_S)

        url = self.url
        options = {"ssl": ssl.create_default_context(cafile=self.authority)} if self.authority else {}
        async with (
            websockets.connect(url("/echo"), **options) as echo,
            websockets.connect(url("/broadcast/news"), **options) as raw,
            websockets.connect(url("/broadcast"), subprotocols=["echoring.v1.json"], **options) as session,
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
        self.with_lines([programs.NODE, "--input-type=module", "-e", WS])

    def test_gorilla_goes_on(self):
        programs.require("gorilla")
        self.with_lines([programs.gorilla(), "lines"])

    def with_lines(self, command):
        """Clients print what they hear, and send each line that they read."""
        self.start()
        clients = [self.client(*command, self.url(path)) for path in ("/echo", "/broadcast/news")]
        for number in range(UPGRADES + 1):
            publish(self.server, "news", f"{number}")
            clients[0].stdin.write(f"{number}\n".encode())
            for client in clients:
                self.assertEqual(client.stdout.readline(), f"message {number}\n".encode())
            if number < UPGRADES:
                self.upgrade()

    def client(self, *command):
        client = self.run_client(*command)
        self.assertEqual(client.stdout.readline(), b"open\n")
        return client

    def run_client(self, *command, **options):
        trust = {name: self.authority for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE") if self.authority}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0, **options}
        client = subprocess.Popen(command, env=programs.environment() | trust, **pipes)
        self.addCleanup(client.stdin.close)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        return client


class LibrariesOverTls(OverTls, Libraries):
    """Programs that speak TLS and nothing else change the keys, too, or have other cipher suites."""

    def test_openssl_changes_its_keys_between_upgrades(self):
        # A line with K changes the keys of both sides, one with k its own.
        changes = [b"k\n", b"K\n", b"k\n"]
        for suite in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
            with self.subTest(suite):
                words = ["openssl", "s_client", "-CAfile", self.authority, "-tls1_3", "-ciphersuites", suite, "-connect"]
                self.with_bytes(words, changes)

    def test_gnutls_goes_on(self):
        if shutil.which("gnutls-cli") is None:
            self.skipTest("gnutls-bin not installed")
        for suite in ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"):
            with self.subTest(suite):
                only = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{suite}"
                self.with_bytes(["gnutls-cli", "--x509cafile", self.authority, "--priority", only])

    def with_bytes(self, command, changes=()):
        self.start()
        at = f"127.0.0.1:{self.server.port}"
        where = [at] if command[0] == "openssl" else ["--port", str(self.server.port), "127.0.0.1"]
        client = self.run_client(*command, *where, stderr=subprocess.STDOUT)
        client.stdin.write(UPGRADE.format(host=at).encode())
        heard = self.read_until(client, b"HTTP/1.1 101", b"")
        for number in range(UPGRADES + 1):
            for change in changes[number : number + 1]:
                client.stdin.write(change)
                # s_client drops the rest of a read that begins with a command.
                self.read_until(client, b"KEYUPDATE", b"")
            # Its payload ends the line that the program reads.
            text = f"message {number}\n".encode()
            client.stdin.write(frame(1, text, mask=b"\0\0\0\0"))
            heard = self.read_until(client, text, heard[-1:])
            if number < UPGRADES:
                self.upgrade()
        client.stdin.write(frame(8, b"\x03\xe8bye\n", mask=b"\0\0\0\0"))
        self.read_until(client, b"\x88", heard[-1:])

    def read_until(self, client, expected, heard):
        while expected not in heard:
            more = client.stdout.read(65_536)
            self.assertTrue(more, heard)
            heard += more
        return heard


class InBrowsers:
    def goes_on(self, browser):
        browser.open(f"{self.origin}/")
        stream = self.url("/sse/news").replace("ws", "http", 1)
        browser.run(OPEN, self.url("/echo"), self.url("/broadcast/news"), stream)
        expected = []
        for number in range(UPGRADES + 1):
            publish(self.server, "news", f"news {number}")
            browser.run(f"sockets[0].send('echo {number}')")
            expected += [f"message echo {number}", f"message news {number}", f"event news {number}"]
            browser.run(f"while (seen.length < {len(expected)}) await new Promise((resolve) => setTimeout(resolve, 5))")
            if number < UPGRADES:
                self.upgrade()
        self.assertCountEqual(browser.run("return seen"), expected)


class Browsers(Upgraded, InFrontOfAPage, InBrowsers):
    def test_a_page_goes_on(self):
        self.start("--allow-origin", self.origin)
        self.goes_on(self.browser)


class BrowsersOverTls(OverTls, Upgraded, InFrontOfAPage, InBrowsers):
    def test_a_page_goes_on(self):
        self.start("--allow-origin", self.origin)
        browser = Browser(watched=True)
        self.addCleanup(browser.close)
        self.goes_on(browser)


@unittest.skipUnless(FIREFOX, "firefox is not installed")
class FirefoxOverTls(OverTls, Upgraded, InFrontOfAPage, InBrowsers):
    RELEASE = True

    def test_a_page_goes_on(self):
        self.start("--allow-origin", self.origin)
        browser = Firefox(trusting=True)
        self.addCleanup(browser.close)
        self.goes_on(browser)


if __name__ == "__main__":
    unittest.main()
