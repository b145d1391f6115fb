"""The unidirectional transports of Centrifuge's protocol: a request with the connect command, and a stream of pushes. Read as Centrifugo's
documentation shows: by EventSource (sseclient-py), and line by line."""

import http.client
import json
import time
import unittest
import urllib.parse

import jwt
import sseclient
from harness import PATIENCE_S, Server, request, text_files

SSE = "/connection/uni_sse"
LINES = "/connection/uni_http_stream"
SECRET = "a secret of at least thirty-two bytes"
CONFIGURATION = """
allow_origin = ["https://app.example"]
ping_interval = "2s"
pong_timeout = "1s"

[topic_defaults]
subscribe = "claim"
history = "claim"
publish = "operator"
history_messages = 100
"""


def token(*channels, user="alice", seconds=600):
    claims = {"sub": user, "exp": int(time.time()) + seconds, "channels": channels}
    return jwt.encode(claims, SECRET, "HS256")


def setUpModule():
    global options
    configuration, secret = unittest.enterModuleContext(text_files(echoring_toml=CONFIGURATION, secret=SECRET))
    options = ("--config", configuration, "--auth-jwt-key", secret, "--shards", "3")


class Stream:
    """A stream of pushes, for the duration of the block."""

    def __init__(self, server, path, command=None, method="GET", headers=None):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
        body = None
        if command is not None and method == "GET":
            path += "?" + urllib.parse.urlencode({"cf_connect": json.dumps(command)})
        elif command is not None:
            body = json.dumps(command)
        self.connection.request(method, path, body, headers or {})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, (self.response.status, self.response.read())
        chunks = iter(lambda: self.response.read1(65536), b"")
        if path.startswith(SSE):
            assert self.response.headers["Content-Type"] == "text/event-stream"
            self.texts = (event.data for event in sseclient.SSEClient(chunks).events())
        else:
            self.texts = iter(self.response.readline, b"")
        self.pings = 0

    def next(self):
        """The next push; None at the end."""
        for text in self.texts:
            push = json.loads(text)
            if push:
                return push
            self.pings += 1
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self.connection.close()


class Streams(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*options)
        cls.addClassCleanup(cls.server.__exit__)

    def call(self, method, **parameters):
        reply = self.server.call(method, **parameters)
        self.assertNotIn("error", reply)
        return reply["result"]

    def ways(self):
        for path, method in ((SSE, "GET"), (SSE, "POST"), (LINES, "GET"), (LINES, "POST")):
            with self.subTest(path=path, method=method):
                yield lambda command, path=path, method=method: Stream(self.server, path, command, method)

    def test_a_stream_begins_with_its_subscriptions_and_has_what_is_published(self):
        for number, open_stream in enumerate(self.ways()):
            channel = f"news.{number}"
            with open_stream({"token": token(channel), "name": "page"}) as stream:
                connected = stream.next()["connect"]
                self.assertEqual(list(connected["subs"]), [channel])
                self.assertEqual((connected["ping"], connected.get("pong", False)), (2, False))
                self.assertTrue(connected["expires"])
                for data in ({"text": "a\r\nb"}, "c", [1, 2], None):
                    self.call("publish", channel=channel, data=data, tags={"kind": "n"})
                    push = stream.next()
                    self.assertEqual((push["channel"], push["pub"]["data"]), (channel, data))
                    self.assertEqual(push["pub"]["tags"], {"kind": "n"})
                self.call("subscribe", user="alice", channel=f"later.{number}")
                pushes = [stream.next()]
                self.assertEqual(pushes[0]["channel"], f"later.{number}")
                self.assertIn("subscribe", pushes[0])
                self.call("publish", channel=f"later.{number}", data=1)
                self.assertEqual(stream.next()["pub"]["data"], 1)
                self.call("unsubscribe", user="alice", channel=f"later.{number}")
                self.assertEqual(stream.next()["unsubscribe"]["code"], 2000)
                self.assertEqual(stream.pings, 0, "the first comes after two seconds")
                self.call("disconnect", user="alice")
                self.assertEqual(stream.next()["disconnect"]["code"], 3503)
                self.assertIsNone(stream.next())

    def test_raw_line_ends_between_the_tokens_of_data_end_no_event(self):
        with Stream(self.server, SSE, {"token": token("raw")}) as stream:
            self.assertIn("connect", stream.next())
            body = b'{"channel":"raw","data":{"a":\r\n\r1}}'
            status, _, answer = request(self.server.admin, "POST", "/api/publish", body, {"Content-Type": "application/json"})
            self.assertEqual(status, 200, answer)
            self.assertEqual(stream.next()["pub"]["data"], {"a": 1})

    def test_a_stream_is_pinged_and_answers_nothing(self):
        for open_stream in self.ways():
            with open_stream({"token": token("quiet")}) as stream:
                self.assertIn("connect", stream.next())
                for _ in range(3):
                    self.assertEqual(json.loads(next(stream.texts)), {})
                self.call("publish", channel="quiet", data="still there")
                self.assertEqual(stream.next()["pub"]["data"], "still there")

    def test_a_stream_recovers_its_subscriptions(self):
        first = self.call("publish", channel="kept", data=0)
        for data in (1, 2):
            self.call("publish", channel="kept", data=data)
        for open_stream in self.ways():
            position = {"recover": True, "epoch": first["epoch"], "offset": first["offset"]}
            with open_stream({"token": token("kept"), "subs": {"kept": position}}) as stream:
                subscription = stream.next()["connect"]["subs"]["kept"]
                self.assertTrue(subscription["recovered"])
                self.assertEqual([publication["data"] for publication in subscription["publications"]], [1, 2])

    def test_a_client_that_is_not_let_in_is_told_why(self):
        bad = jwt.encode({"sub": "alice"}, "another secret of thirty-two bytes", "HS256")
        for open_stream in self.ways():
            for command, code in (
                ({"token": bad}, 3500),
                ({}, 3500),
                ({"token": token("news", seconds=-60)}, 3005),
            ):
                with open_stream(command) as stream:
                    end = stream.next()["disconnect"]
                    self.assertEqual((end["code"], end.get("reconnect", False)), (code, code < 3500))
                    self.assertIsNone(stream.next())

    def test_header_fields_have_the_token_too(self):
        for method in ("GET", "POST"):
            headers = {"Authorization": f"Bearer {token('headed')}"}
            with Stream(self.server, LINES, {}, method, headers) as stream:
                self.assertEqual(list(stream.next()["connect"]["subs"]), ["headed"])

    def test_requests_that_are_none_for_a_stream_have_a_status(self):
        address = (self.server.host, self.server.port)
        for path in (SSE, LINES):
            for method, query, body, headers, status in (
                ("PUT", "", b"", {}, 405),
                ("GET", "?cf_connect=%7B", None, {}, 400),
                ("POST", "", b"x" * 65537, {}, 413),
                ("GET", "", None, {"Origin": "https://other.example"}, 403),
            ):
                found, _, answer = request(address, method, path + query, body, headers)
                self.assertEqual(found, status, (method, query, answer))
            with Stream(self.server, path, [1], "POST") as stream:
                self.assertEqual(stream.next()["disconnect"]["code"], 3501)

    def test_pages_of_allowed_origins_ask_first(self):
        address = (self.server.host, self.server.port)
        origin = {"Origin": "https://app.example"}
        status, headers, _ = request(address, "OPTIONS", LINES, None, origin)
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, origin["Origin"]))
        self.assertEqual(headers["Access-Control-Allow-Methods"], "GET, POST")
        with Stream(self.server, LINES, {"token": token("page")}, "POST", origin) as stream:
            self.assertEqual(stream.response.headers["Access-Control-Allow-Origin"], origin["Origin"])
            self.assertIn("connect", stream.next())


class Ends(unittest.TestCase):
    def test_streams_are_told_when_the_server_ends(self):
        with Server(*options) as server:
            streams = [Stream(server, path, {"token": token("news")}) for path in (SSE, LINES)]
            for stream in streams:
                self.assertIn("connect", stream.next())
            server.terminate()
            for stream in streams:
                with stream:
                    end = stream.next()["disconnect"]
                    self.assertEqual((end["code"], end["reconnect"]), (3001, True))
