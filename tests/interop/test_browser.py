"""A real browser, with the server's page and with pages of another origin."""

import functools
import http.server
import threading
import unittest

from harness import Server
from webdriver import Browser, available


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves an empty page, so that a test's scripts run in another origin."""

    def do_GET(self):
        body = b"<!doctype html><title>a page of another origin</title>"
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# Opens a connection that queues its messages.
OPEN = """
    const [url] = args;
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    const waiting = [], asked = [];
    socket.onmessage = ({ data }) => asked.length ? asked.shift()(data) : waiting.push(data);
    window.socket = socket;
    window.next = () => waiting.length ? Promise.resolve(waiting.shift()) : new Promise((r) => asked.push(r));
    return await new Promise((resolve) => {
        socket.onopen = () => resolve("open");
        socket.onclose = ({ code }) => resolve("closed " + code);
    });
"""


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InFrontOfAPage(unittest.TestCase):
    """A browser, and a page of another origin than the server's."""

    HEAVY = True
    pages = Pages

    @classmethod
    def setUpClass(cls):
        pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), cls.pages)
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        cls.addClassCleanup(pages.server_close)
        cls.addClassCleanup(pages.shutdown)
        cls.origin = f"http://127.0.0.1:{pages.server_address[1]}"
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)


class InTheBrowser(InFrontOfAPage):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server("--max-message", "1MiB", "--allow-origin", cls.origin, "--shards", "2")
        cls.addClassCleanup(cls.server.__exit__)

    def own_page(self):
        self.browser.open(f"http://{self.server.host}:{self.server.port}/")
        self.browser.until("document.querySelector('#state').dataset.state === 'open'")

    def other_page(self, path):
        self.browser.open(f"{self.origin}/")
        self.assertEqual(self.browser.run(OPEN, self.server.url(path)), "open")

    def test_the_servers_own_page_echoes_text_and_binary(self):
        self.own_page()
        self.browser.type("#message", "Grüße an den Ring")
        self.browser.click("#send")
        self.browser.until("document.querySelector('#count').textContent === '1'")
        self.assertIn("Grüße an den Ring", self.browser.text("#log li"))
        self.assertRegex(self.browser.text("#log li"), r"text, 19 B, .*(µs|ms)")
        self.assertRegex(self.browser.text("#last"), "(µs|ms)$")
        self.browser.click("input[value=binary]")
        self.browser.click("#send")
        self.browser.until("document.querySelector('#count').textContent === '2'")
        self.assertIn("binary, 19 B", self.browser.text("#log li"))

    def test_the_servers_own_page_shows_markup_as_text(self):
        self.own_page()
        markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
        self.browser.type("#message", markup)
        self.browser.click("#send")
        self.browser.until("document.querySelector('#count').textContent === '1'")
        self.assertIn(markup, self.browser.text("#log li"))
        self.assertEqual(self.browser.run("return document.querySelectorAll('#log img, #log b').length"), 0)
        self.assertEqual(self.browser.run("return document.title"), "Echo – echoring")

    def test_the_servers_own_page_sends_a_hundred_and_closes_and_connects_again(self):
        self.own_page()
        self.browser.click("#many")
        self.browser.until("document.querySelector('#count').textContent === '100'")
        self.browser.click("#toggle")
        self.browser.until("document.querySelector('#state').dataset.state === 'closed'")
        self.assertIn("1000", self.browser.text("#state"))
        self.browser.click("#toggle")
        self.browser.until("document.querySelector('#state').dataset.state === 'open'")

    def test_a_page_echoes_text_binary_and_a_message_of_1_mib(self):
        self.other_page("/echo")
        self.assertEqual(self.browser.run("socket.send('héllo'); return await next()"), "héllo")
        sums = self.browser.run(
            """
            const sent = new Uint8Array(1 << 20);
            for (let i = 0; i < sent.length; i += 65536) crypto.getRandomValues(sent.subarray(i, i + 65536));
            const results = [];
            for (const message of [new Uint8Array([0, 255, 128]), sent]) {
                socket.send(message);
                const got = new Uint8Array(await next());
                results.push([got.length, got.every((byte, i) => byte === message[i])]);
            }
            const text = "µ".repeat(1 << 19);
            socket.send(text);
            results.push(await next() === text);
            return results;
            """
        )
        self.assertEqual(sums, [[3, True], [1 << 20, True], True])

    def test_two_pages_in_one_topic_hear_each_other(self):
        self.other_page("/broadcast/pages")
        first = self.browser.tab()
        second = self.browser.new_tab()
        self.addCleanup(functools.partial(self.browser.switch, first))
        self.other_page("/broadcast/pages")
        self.browser.run("socket.send('from the second'); socket.send(new Uint8Array([1, 2, 3]))")
        self.browser.switch(first)
        self.assertEqual(self.browser.run("return await next()"), "from the second")
        self.assertEqual(self.browser.run("return [...new Uint8Array(await next())]"), [1, 2, 3])
        self.browser.run("socket.send('from the first')")
        self.browser.switch(second)
        self.assertEqual(self.browser.run("return await next()"), "from the first")

    def test_a_page_whose_origin_is_not_allowed_cannot_connect(self):
        self.browser.open(self.origin.replace("127.0.0.1", "localhost") + "/")
        self.assertEqual(self.browser.run(OPEN, self.server.url("/echo")), "closed 1006")
