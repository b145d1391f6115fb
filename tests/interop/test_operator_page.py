"""The operator's page on the admin address, in Chromium."""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import unittest
import urllib.parse

from harness import BINARY, Raw, Server, frame, stopped, threads_of, token_file
from webdriver import Browser, available

SCREENSHOTS = os.environ.get("ECHORING_SCREENSHOTS")
TOKEN = "0123456789abcdef0123456789abcdef"


class ThePageItself(unittest.TestCase):
    """The response, without a browser."""

    def check(self, server, **options):
        status, headers, body = server.get("/", **options)
        self.assertEqual((status, headers.get_content_type()), (200, "text/html"))
        policy = headers["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none'; "), policy)
        self.assertIn("frame-ancestors 'none'", policy)
        self.assertNotIn("unsafe", policy)
        for tag, directive in ((b"script", "script-src"), (b"style", "style-src")):
            (content,) = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), body, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            self.assertIn(f"{directive} 'sha256-{digest}'", policy)
        return body

    def test_it_is_one_file_with_a_strict_policy(self):
        with Server() as server:
            body = self.check(server)
            self.assertEqual(re.findall(rb'(?:src|href)="(?!data:)[^"]*"', body), [])
            self.assertEqual(server.get("/", method="HEAD")[::2], (200, b""))
            self.assertEqual(server.get("/", method="POST")[0], 405)

    def test_without_the_token_the_page_comes_and_no_data(self):
        with token_file(TOKEN) as file, Server("--admin-token-file", file) as server:
            body = self.check(server)
            for secret in (str(server.pid), str(server.port), TOKEN):
                self.assertNotIn(secret.encode(), body)
            for path in ("/stats", "/topics", "/connections", "/limits", "/metrics"):
                self.assertEqual(server.get(path)[0], 401, path)


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InTheBrowser(unittest.TestCase):
    HEAVY = True
    SECONDS = 40

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        # The page of the test before may still have asked its server, which is gone.
        self.browser.open("about:blank")
        self.browser.log()

    def server(self, *flags, **options):
        server = Server(*flags, **options)
        self.addCleanup(server.__exit__)
        return server

    def open(self, server):
        self.browser.open(f"http://127.0.0.1:{server.admin[1]}/")

    def until_shown(self, state="serving"):
        self.browser.until(f"document.body.dataset.state === '{state}'")

    def until_text(self, selector, pattern):
        found = f"(document.querySelector({json.dumps(selector)}) || {{}}).textContent || ''"
        self.browser.until(f"new RegExp({json.dumps(pattern)}).test({found})")

    def shoot(self, name):
        if SCREENSHOTS:
            self.browser.screenshot(os.path.join(SCREENSHOTS, f"operator-{name}.png"))

    def subscriber(self, server, topic):
        peer = Raw(server).open(f"/broadcast/{urllib.parse.quote(topic, safe='')}")
        self.addCleanup(peer.close)
        return peer

    def log(self):
        """The console, without the browser's line about a list that this server does not have."""
        return [line for line in self.browser.log() if not re.search(r"/(connections|limits)\b.* 404 ", line)]

    def clean_console(self):
        self.assertEqual(self.log(), [], "the console stays empty")

    def test_figures_follow_the_server_and_the_console_stays_empty(self):
        server = self.server("--shards", "2")
        self.browser.look(1280, 900, "light")
        self.open(server)
        self.until_shown()
        self.clean_console()
        self.browser.run("document.getElementById('interval').value = '1000'; schedule();")
        reader = self.subscriber(server, "<b>prices</b>")
        with Raw(server).open("/broadcast/%3Cb%3Eprices%3C%2Fb%3E") as publisher, Raw(server).open() as echo:
            for number in range(50):
                echo.send(frame(1, b"hello"))
                echo.read_frame()
            server.get("/topics/%3Cb%3Eprices%3C%2Fb%3E", method="POST", headers={"Content-Type": "text/plain"})
            self.until_text("#tile-connections p", "^3 ")
            self.until_text("#latency tbody tr:nth-child(2) td:last-child", "^[1-9]")
            self.assertRegex(self.browser.text("#latency tbody tr:nth-child(2)"), "(µs|ms)")
            self.until_text("#topics tbody", "<b>prices</b>")
            self.assertEqual(self.browser.run("return document.querySelectorAll('#topics b').length"), 0)
            del publisher
        with Raw(server).open() as wrong:
            wrong.send(frame(1, b"bare", mask=None))
            self.assertEqual(wrong.read_close(), 1002)
        self.until_text("#codes-table", "1002 protocol error")
        self.assertEqual(self.browser.run("return document.querySelectorAll('#shards tbody tr').length"), 2)
        label = self.browser.run("return document.querySelector('#tile-connections svg').getAttribute('aria-label')")
        self.assertRegex(label, r"^last 60\s+s: \d+ to \d+, now \d+$")
        self.clean_console()
        fetched = self.browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        origin = f"http://127.0.0.1:{server.admin[1]}/"
        self.assertTrue(all(name.startswith((origin, "data:")) for name in fetched), fetched)
        self.shoot("light")
        reader.close()

    def test_each_row_of_the_latencies_has_a_label_of_its_own(self):
        self.open(self.server())
        self.until_shown()
        # Two answers, and no third one soon.
        self.browser.run("document.getElementById('interval').value = '30000'; schedule(); ask_now();")
        labels = "[...document.querySelectorAll('#latency tbody tr')].map((row) => row.firstChild.textContent)"
        self.browser.until(f"{labels}.length > 0")
        shown = self.browser.run(f"return {labels}")
        self.assertEqual(len(shown), len(set(shown)), shown)

    def test_a_restart_a_drain_and_silence_are_seen_at_once(self):
        server = self.server("--shards", "2", "--drain", "1m")
        self.browser.look(1280, 900, "dark")
        self.open(server)
        self.until_shown()
        with self.subscriber(server, "t"):
            self.browser.run("document.getElementById('interval').value = '1000'; schedule();")
            self.until_text("#tile-connections p", "^1 ")
            server.terminate()
            self.until_shown("draining")
            self.until_text("#banners", "draining")
            self.shoot("draining")
        server.terminate()
        server.wait()
        self.until_shown("stale")
        self.assertIn("does not answer", self.browser.text("#banners"))
        # Figures stay, and look old once the transition has begun.
        self.browser.until("getComputedStyle(document.querySelector('main')).opacity !== '1'")
        self.shoot("stale")
        # Failed requests are logged by the browser, and nothing else is.
        self.assertEqual([line for line in self.log() if "ERR_CONNECTION_REFUSED" not in line], [])
        self.server("--shards", "1", admin=f"127.0.0.1:{server.admin[1]}")
        self.until_shown()
        self.until_text("#banners", "restarted")
        self.until_text("#tile-connections p", "^0 ")
        self.browser.until("document.querySelectorAll('#shards tbody tr').length === 1")
        self.assertEqual([line for line in self.log() if "ERR_CONNECTION_REFUSED" not in line], [])

    def test_a_stalled_shard_is_seen_at_once(self):
        server = self.server("--shards", "2")
        self.open(server)
        self.until_shown()
        shard = next(threads_of(server.pid, "shard-1"))
        with stopped(shard):
            self.until_shown("stalled")
            self.until_text("#banners", "shards 1 make no progress")
            self.shoot("stalled")
            # A page that begins now says so too, and does not call lists empty that it has not got.
            self.open(server)
            self.until_shown("stalled")
            self.assertEqual(self.browser.text("#topics-table .empty"), "No answer yet.")
        self.until_shown("serving")
        # The browser logs the 503 of /healthz and of /connections, and requests that are given up.
        self.assertEqual([line for line in self.log() if "/healthz" not in line and "/connections" not in line], [])

    def test_a_banned_address_is_named_at_the_top_and_in_the_limits(self):
        server = self.server("--max-connections-per-address", "1", "--ban-after", "1", "--driver", "epoll")
        self.browser.look(1280, 800, "light")
        self.open(server)
        self.until_shown()
        self.browser.run("document.getElementById('interval').value = '1000'; schedule();")
        with Raw(server).open(), Raw(server) as second:
            self.assertEqual(second.upgrade()[0], 429)
            self.until_text("#banners", "1 address is banned: 127\\.0\\.0\\.1\\.")
            self.until_text("#banners", "Clients were over a limit in the last minute")
            self.until_text("#refused-table tbody tr.bad", "127\\.0\\.0\\.1.*10\\s+min")
            self.until_text("#limits-table tbody tr", "max_connections_per_address.*1")
        self.shoot("banned")
        self.clean_console()

    def test_a_token_is_asked_for_used_and_forgotten(self):
        with token_file(TOKEN) as file:
            server = self.server("--admin-token-file", file)
            self.open(server)
            self.browser.until("!document.getElementById('access').hidden")
            self.assertEqual(self.browser.run("return document.activeElement.id"), "token")
            self.shoot("token")
            self.browser.press("#token", "not the right one\n")
            self.until_text("#why", "does not accept|visible ASCII")
            self.browser.press("#token", "fedcba9876543210\n")
            self.until_text("#why", "does not accept")
            self.assertTrue(self.browser.run("return document.getElementById('main').hidden"))
            self.browser.press("#token", TOKEN + "\n")
            self.until_shown()
            # The tab remembers it, and nothing else does.
            self.open(server)
            self.until_shown()
            self.assertEqual(self.browser.run("return [localStorage.length, document.cookie]"), [0, ""])
            self.assertNotIn(TOKEN, self.browser.run("return document.documentElement.outerHTML + location.href"))
            self.browser.click("#forget")
            self.browser.until("!document.getElementById('access').hidden")
            self.assertEqual(self.browser.run("return sessionStorage.length"), 0)
            refused = [line for line in self.log() if "401" not in line]
            self.assertEqual(refused, [])

    def test_everything_is_reached_by_the_keyboard(self):
        self.open(self.server())
        self.until_shown()
        self.browser.press("body", "?")
        self.assertTrue(self.browser.run("return document.getElementById('help').open"))
        self.browser.press("#help button", "\n")
        self.assertFalse(self.browser.run("return document.getElementById('help').open"))
        self.browser.press("body", "p")
        self.until_shown("paused")
        self.browser.press("body", "p")
        self.until_shown()
        self.browser.press("body", "-")
        self.assertEqual(self.browser.run("return document.getElementById('interval').value"), "5000")
        self.browser.press("body", "2")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "latency-title")
        self.browser.press("#shards thead th:nth-child(2) button", "\n")
        sorted_by = "return document.querySelector('#shards thead th:nth-child(2)').getAttribute('aria-sort')"
        self.assertEqual(self.browser.run(sorted_by), "descending")
        self.browser.press("#shards thead th:nth-child(2) button", "\n")
        self.assertEqual(self.browser.run(sorted_by), "ascending")
        order = self.browser.run(
            """
            const stops = [...document.querySelectorAll("button, select, input, [tabindex='0']")];
            return stops.filter((stop) => stop.checkVisibility() && stop.tabIndex > 0).length;
            """
        )
        self.assertEqual(order, 0, "the focus follows the page")
        self.clean_console()

    def test_a_phone_under_load_needs_no_scrolling_sideways(self):
        server = self.server("--shards", "2", "--demo", "on")
        # A peer that does not read, and a long name.
        slow = self.subscriber(server, "x" * 200)
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        load = subprocess.Popen(
            [BINARY, "bench", server.url("/echo"), "-c", "8", "-d", "30s", "--rate", "2000", "--json", "-"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        self.addCleanup(load.wait)
        self.addCleanup(load.send_signal, signal.SIGKILL)
        for scheme in ("light", "dark"):
            self.browser.look(390, 844, scheme)
            self.open(server)
            self.until_shown()
            self.until_text("#tile-messages_in p", "^[1-9].*/s")
            self.until_text("#topics tbody", "xxxx")
            wider = self.browser.run(
                """
                const boxes = [...document.querySelectorAll("body, main, .panel, li, td, th, p")];
                return boxes.filter((box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
                    .map((box) => box.outerHTML.slice(0, 200));
                """
            )
            self.assertEqual(wider, [])
            page = self.browser.run("return [document.documentElement.scrollWidth, innerWidth]")
            self.assertLessEqual(*page)
            small = self.browser.run(
                """
                const targets = [...document.querySelectorAll("button, select, input")].filter((one) => one.checkVisibility());
                return targets.filter((one) => one.getBoundingClientRect().height < 43).map((one) => one.outerHTML);
                """
            )
            self.assertEqual(small, [])
            self.shoot(f"phone-{scheme}")
        self.clean_console()


if __name__ == "__main__":
    unittest.main()
