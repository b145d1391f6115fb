"""`GET /sse/TOPIC` with readers that others wrote: sseclient-py, Chromium's EventSource, and through nginx."""

import http.client
import json
import unittest

import sseclient
import test_nginx
from harness import PATIENCE_S, Server, request
from test_browser import InFrontOfAPage


def ask(server, method, path, body=None):
    """Sends a request to the admin address. Returns the JSON of the answer."""
    status, _, answer = request(server.admin, method, path, body, {"Content-Type": "text/plain"})
    assert status == 200, (status, answer)
    return json.loads(answer)


def publish(server, topic, text):
    return ask(server, "POST", f"/topics/{topic}", text.encode())["offset"]


class Stream:
    """An event stream, read by sseclient-py for the duration of the block."""

    def __init__(self, connection, path, last=None, host=None):
        self.connection = connection
        headers = {} if last is None else {"Last-Event-ID": last}
        connection.request("GET", path, headers=headers | ({"Host": host} if host else {}))
        self.response = connection.getresponse()
        assert self.response.status == 200, (self.response.status, self.response.read())
        assert self.response.headers["Content-Type"] == "text/event-stream"
        self.events = sseclient.SSEClient(iter(self.read, b"")).events()

    def read(self):
        return self.response.read1(65536)

    def next(self):
        event = next(self.events)
        return event.event, event.id, event.data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self.connection.close()


class WithSseclient(unittest.TestCase):
    denied = False

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--shards", "2", denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def open(self, path, last=None):
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)
        return Stream(connection, path, last)

    def test_it_gets_every_message_and_returns_to_its_position(self):
        with self.open("/sse/news") as stream:
            name, start, _ = stream.next()
            self.assertEqual(name, "subscribed")
            epoch = start.split("-")[0]
            texts = ["one", "two\nlines", " spaces ", "grün ☃", "five"]
            for text in texts:
                publish(self.server, "news", text)
            for number, text in enumerate(texts, 1):
                self.assertEqual(stream.next(), ("message", f"{epoch}-{number}", text))
        publish(self.server, "news", "missed")
        with self.open("/sse/news", f"{epoch}-{len(texts)}") as stream:
            name, _, data = stream.next()
            self.assertEqual((name, json.loads(data)["recovered"]), ("subscribed", True))
            self.assertEqual(stream.next(), ("message", f"{epoch}-{len(texts) + 1}", "missed"))

    def test_it_is_told_that_its_position_is_unknown(self):
        with self.open("/sse/other", "77e0-12") as stream:
            self.assertEqual(stream.next()[0], "reset")

    def test_it_is_told_why_the_stream_ends(self):
        with self.open("/sse/closed") as stream:
            stream.next()
            ask(self.server, "DELETE", "/connections?topic=closed")
            self.assertEqual(stream.next(), ("end", None, "4010 closed by an operator"))
            with self.assertRaises(StopIteration):
                stream.next()


class WithSseclientOnEpoll(WithSseclient):
    denied = True


# Opens an event stream whose events are queued.
LISTEN = """
    const [url, credentials] = args;
    const stream = new EventSource(url, { withCredentials: credentials });
    const waiting = [], asked = [];
    const take = ({ type, lastEventId, data }) => {
        const event = [type, lastEventId, data];
        asked.length ? asked.shift()(event) : waiting.push(event);
    };
    for (const type of ["message", "subscribed", "reset", "gap", "keyed", "bytes", "end"]) {
        stream.addEventListener(type, take);
    }
    window.stream = stream;
    window.next = () => waiting.length ? Promise.resolve(waiting.shift()) : new Promise((r) => asked.push(r));
    return await new Promise((resolve) => {
        stream.onopen = () => resolve("open");
        stream.onerror = () => resolve(stream.readyState === EventSource.CLOSED ? "closed" : "lost");
    });
"""


class InTheBrowser(InFrontOfAPage):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server("--allow-origin", cls.origin, "--shards", "2")
        cls.addClassCleanup(cls.server.__exit__)

    def listen(self, path, credentials=False):
        url = f"http://{self.server.host}:{self.server.port}{path}"
        return self.browser.run(LISTEN, url, credentials)

    def next(self):
        return self.browser.run("return await next()")

    def test_a_page_of_an_allowed_origin_returns_by_itself_and_misses_nothing(self):
        self.browser.open(f"{self.origin}/")
        for credentials in (False, True):
            topic = f"pages-{credentials}"
            self.assertEqual(self.listen(f"/sse/{topic}", credentials), "open")
            name, start, _ = self.next()
            self.assertEqual(name, "subscribed")
            epoch = start.split("-")[0]
            publish(self.server, topic, "one\ntwo")
            self.assertEqual(self.next(), ["message", f"{epoch}-1", "one\ntwo"])
            self.assertEqual(ask(self.server, "DELETE", f"/connections?topic={topic}")["closed"], 1)
            # An event without an id keeps the last one.
            self.assertEqual(self.next(), ["end", f"{epoch}-1", "4010 closed by an operator"])
            publish(self.server, topic, "missed")
            name, position, data = self.next()
            self.assertEqual((name, position), ("subscribed", f"{epoch}-1"))
            self.assertTrue(json.loads(data)["recovered"])
            self.assertEqual(self.next(), ["message", f"{epoch}-2", "missed"])
            self.browser.run("stream.close()")

    def test_the_servers_own_page_may_listen(self):
        self.browser.open(f"http://{self.server.host}:{self.server.port}/broadcast")
        self.assertEqual(self.listen("/sse/own"), "open")
        self.assertEqual(self.next()[0], "subscribed")
        self.browser.run("stream.close()")

    def test_a_page_whose_origin_is_not_allowed_cannot_listen(self):
        self.browser.open(self.origin.replace("127.0.0.1", "localhost") + "/")
        self.assertEqual(self.listen("/sse/own"), "closed")


class ThroughNginx(test_nginx.BehindNginx):
    def open(self, nginx, last=None):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", nginx.port, timeout=PATIENCE_S, context=nginx.authority.context
        )
        return Stream(connection, "/sse/news", last, host=test_nginx.NAME)

    def test_events_pass_at_once_and_a_drain_ends_the_stream(self):
        with Server("--allow-host", test_nginx.NAME) as server:
            nginx = self.nginx((test_nginx.UPSTREAM, f"server 127.0.0.1:{server.port};"))
            with self.open(nginx) as stream:
                name, start, _ = stream.next()
                self.assertEqual(name, "subscribed")
                epoch = start.split("-")[0]
                # Each is read before the next is published, so nothing holds them back.
                for number in range(1, 20):
                    publish(server, "news", f"number {number}")
                    self.assertEqual(stream.next(), ("message", f"{epoch}-{number}", f"number {number}"))
                with self.open(nginx, f"{epoch}-18") as returned:
                    self.assertEqual(returned.next()[0], "subscribed")
                    self.assertEqual(returned.next()[2], "number 19")
                server.terminate()
                name, _, data = stream.next()
                self.assertEqual((name, data.split(" ")[0]), ("end", "1001"))
                with self.assertRaises(StopIteration):
                    stream.next()

