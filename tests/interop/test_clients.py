"""The server with foreign clients: every check of `matrix.py` with each client, in every setting."""

import contextlib
import http.server
import json
import threading
import unittest

import matrix
import programs
import webdriver
from harness import Raw, Server, quote

# Flags and driver of each server, by name.
KEPT = "server_max_window_bits=15; client_max_window_bits=15"
SERVERS = {
    "plain": {"flags": (), "denied": False},
    "no takeover": {"flags": ("--compress", "on"), "denied": False},
    "takeover": {"flags": ("--compress", KEPT), "denied": False},
    "takeover on epoll": {"flags": ("--compress", KEPT), "denied": True},
    "shared context": {"flags": ("--compress", "shared; server_max_window_bits=10"), "denied": False},
}
# The server, whether the client offers compression, and whether it is then negotiated.
SETTINGS = [
    ("plain", False, False),
    ("plain", True, False),
    ("no takeover", False, False),
    ("no takeover", True, True),
    ("takeover", True, True),
    ("takeover on epoll", True, True),
]
FLAGS = ("--max-message", str(matrix.MIB), "--subprotocol", "chat", "--subprotocol", "superchat", "--shards", "1")

# Messages with much in common, more than fit the window of a shared context.
QUOTES = [json.dumps(quote(number)) for number in range(150)]

servers = {}


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves the programs for browsers, and an empty page that imports them."""

    extensions_map = {".mjs": "text/javascript", ".html": "text/html"}

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=programs.HERE)

    def do_GET(self):
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>checks</title>")

    def log_message(self, *_):
        pass


def setUpModule():
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    unittest.addModuleCleanup(pages.server_close)
    unittest.addModuleCleanup(pages.shutdown)
    global origin
    origin = f"http://127.0.0.1:{pages.server_address[1]}"
    for name, settings in SERVERS.items():
        servers[name] = Server(*FLAGS, "--allow-origin", origin, *settings["flags"], denied=settings["denied"])
        unittest.addModuleCleanup(servers[name].__exit__)


def compressed_messages(server):
    compression = server.stats()["node"]["compression"]
    return compression["messages_in"], compression["messages_out"]


class Client:
    """The tests of every client: each check in every setting that the client supports."""

    # The name in `programs.missing()`.
    name = ""
    # Checks that its API does not support.
    cannot = ()
    # Whether it offers compression: as configured, always, or never.
    offers = (False, True)
    # Whether it compresses its messages if compression was negotiated.
    compresses = True

    @classmethod
    def setUpClass(cls):
        programs.require(cls.name)
        checked = [check["name"] for check in matrix.OURS if check["name"] not in cls.cannot]
        cls.outcomes = {}
        cls.compressed = {}
        for setting in SETTINGS:
            where, offered, compressed = setting
            if offered not in cls.offers:
                continue
            choice = {"compress": offered} if len(cls.offers) > 1 else {}
            checks = matrix.checks(checked, compressed=compressed, **choice)
            before = compressed_messages(servers[where])
            cls.outcomes[setting] = cls.run_checks(servers[where].url(""), checks)
            after = compressed_messages(servers[where])
            cls.compressed[setting] = [late - early for early, late in zip(before, after)]

    @classmethod
    def run_checks(cls, url, checks):
        return matrix.run(cls.command(), url, checks, env=programs.environment())

    def test_messages_of_a_topic_may_refer_to_earlier_ones(self):
        server = servers["shared context"]
        topic = f"/broadcast/{type(self).__name__}?self=1"
        steps = [[step, "text", [quote, 1]] for quote in QUOTES for step in ("send", "expect")]
        choice = {"compress": True} if len(self.offers) > 1 else {}
        check = {"name": "context", "path": topic, "compressed": True, "steps": steps, **choice}
        before = server.stats()["node"]["compression"]
        with contextlib.ExitStack() as others:
            # A topic has a context from four subscribers on.
            for _ in range(4):
                status, _ = others.enter_context(Raw(server)).upgrade(topic, extensions="permessage-deflate; server_max_window_bits=10")
                self.assertEqual(status, 101)
            self.assertEqual(self.run_checks(server.url(""), [check]), {"context": None})
        after = server.stats()["node"]["compression"]
        sent, plain = (after[name] - before[name] for name in ("bytes_out", "bytes_out_plain"))
        self.assertLess(sent * 2, plain, "the others at least have a context")

    def check(self, name):
        problems = {setting: outcome[name] for setting, outcome in self.outcomes.items() if outcome[name]}
        self.assertEqual(problems, {})

    def test_messages_travel_compressed_where_it_was_agreed_on(self):
        for (where, offered, agreed), (messages_in, messages_out) in self.compressed.items():
            with self.subTest(server=where, offered=offered):
                self.assertEqual(messages_in > 0, agreed and self.compresses)
                self.assertEqual(messages_out > 0, agreed)


# These cannot send an unfinished message.
WHOLE = ("fragments",)
# These refuse a server that selects none of the offered subprotocols, although it may (RFC 6455, section 4.2.2).
STRICT = ("subprotocol of the client only",)
# The WebSocket API of browsers: no pings, and only the close code 1000 and those of applications.
OF_PAGES = (*WHOLE, *STRICT, "pings", "closing with 1001")


@matrix.with_checks(matrix.OURS)
class Websockets(Client, unittest.TestCase):
    command = staticmethod(lambda: programs.python("websockets_client.py"))


@matrix.with_checks(matrix.OURS)
class Aiohttp(Client, unittest.TestCase):
    command = staticmethod(lambda: programs.python("aiohttp_client.py"))
    cannot = WHOLE


@matrix.with_checks(matrix.OURS)
class Picows(Client, unittest.TestCase):
    command = staticmethod(lambda: programs.python("picows_client.py"))
    offers = (False,)
    test_messages_of_a_topic_may_refer_to_earlier_ones = None


@matrix.with_checks(matrix.OURS)
class Ws(Client, unittest.TestCase):
    name = "ws"
    command = staticmethod(lambda: programs.node("ws_client.mjs"))
    cannot = STRICT


@matrix.with_checks(matrix.OURS)
class Node(Client, unittest.TestCase):
    name = "node"
    command = staticmethod(lambda: programs.node("whatwg_client.mjs"))
    cannot = OF_PAGES
    offers = (True,)
    compresses = False


@matrix.with_checks(matrix.OURS)
class Bun(Client, unittest.TestCase):
    name = "bun"
    command = staticmethod(lambda: programs.bun("whatwg_client.mjs"))
    cannot = (*WHOLE, *STRICT)


@matrix.with_checks(matrix.OURS)
class Gorilla(Client, unittest.TestCase):
    name = "gorilla"
    command = staticmethod(lambda: [programs.gorilla(), "client"])


class InABrowser(Client):
    HEAVY = True
    cannot = OF_PAGES
    offers = (True,)

    @classmethod
    def setUpClass(cls):
        cls.browser = cls.start()
        cls.addClassCleanup(cls.browser.close)
        cls.open_page()
        super().setUpClass()

    @classmethod
    def open_page(cls):
        """Opens a page with the programs. The browser sometimes aborts a fetch and caches the failure for the page, so this
        retries with a new page."""
        for again in (True, False):
            cls.browser.open(f"{origin}/")
            try:
                return cls.browser.run('await Promise.all([import("/steps.mjs"), import("/whatwg.mjs")]);')
            except AssertionError as failed:
                if not again or "Failed to fetch" not in str(failed):
                    raise

    @classmethod
    def run_checks(cls, url, checks):
        results = cls.browser.run(
            """
            const [job] = args;
            const [{ run }, { open }] = await Promise.all([import("/steps.mjs"), import("/whatwg.mjs")]);
            const results = [];
            await run(open, job, (result) => results.push(result));
            return results;
            """,
            {"url": url, "checks": checks},
        )
        return matrix.judge(results, checks)


@matrix.with_checks(matrix.OURS)
class Chromium(InABrowser, unittest.TestCase):
    @staticmethod
    def start():
        if not webdriver.available():
            raise unittest.SkipTest("chromium and chromedriver not installed")
        return webdriver.Browser()


@matrix.with_checks(matrix.OURS)
class Firefox(InABrowser, unittest.TestCase):
    RELEASE = True

    @staticmethod
    def start():
        if webdriver.FIREFOX is None:
            raise unittest.SkipTest("firefox-esr not installed")
        return webdriver.Firefox()
