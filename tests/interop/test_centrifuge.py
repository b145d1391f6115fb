"""Centrifuge's client protocol, with unmodified SDKs and with raw messages.

Each SDK is a program of `peers`, a process that takes commands as lines of JSON, and prints answers and events:

    {"id": 1, "action": "subscribe", "channel": "news"}
    {"answer": 1, "result": null}
    {"event": "subscribed", "channel": "news", "wasRecovering": false, …}

Clients of protobuf carry bytes, which are `{"bytes": BASE64}` there.
"""

import base64
import collections
import contextlib
import http.client
import json
import os
import queue
import subprocess
import threading
import time
import unittest

import jwt
import programs
from harness import PATIENCE_S, Server, quote, suspended, text_files, wait_until
from relay import Relay
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATH = "/connection/websocket"
SECRET = "a secret of at least thirty-two bytes"
# More bytes than the socket buffers and the allowed lag of a subscriber hold together.
FLOOD = 600
FLOOD_BYTES = 32 * 1024
CONFIGURATION = """
[[topics]]
pattern = "kept.*"
history_messages = 100000
history_bytes = "64MiB"
lag_bytes = "64KiB"

[[topics]]
pattern = "short.*"
history_messages = 3

[[topics]]
pattern = "deltas.*"
delta = "fossil"
history_messages = 1000
lag_bytes = "64KiB"

[[topics]]
pattern = "rooms.*"
presence = "everybody"

[[topics]]
pattern = "prices.*"
slow = "conflate"

[[topics]]
pattern = "closed.*"
subscribe = "nobody"
publish = "nobody"

[[topics]]
pattern = "ours.*"
publish = "operator"
"""


def token(seconds=600, subject="alice"):
    return jwt.encode({"sub": subject, "exp": int(time.time()) + seconds}, SECRET, "HS256")


def state(number):
    """A value that resembles that of the number before."""
    return {"title": "Grüße, 水", "rows": [f"row {row} of the table: {number if row == 7 else row}" for row in range(50)], "number": number}


def post(server, topic, value):
    """Publishes a JSON value over the admin address."""
    connection = http.client.HTTPConnection(*server.admin, timeout=PATIENCE_S)

    def answer():
        connection.request("POST", f"/topics/{topic}", json.dumps(value), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        # A shard of a machine with much else to do is busy.
        assert response.status in (200, 429), (response.status, body)
        return response.status == 200 and json.loads(body)

    with contextlib.closing(connection):
        return wait_until(answer, "a shard that is not busy")


def setUpModule():
    global configuration, secret
    configuration, secret = unittest.enterModuleContext(text_files(echoring_toml=CONFIGURATION, secret=SECRET))


class Failed(Exception):
    """An SDK's operation failed with this code."""

    def __init__(self, error):
        super().__init__(error)
        self.code = error["code"]


class Client:
    """A process with an SDK."""

    def __init__(self, command, url, protobuf, tokens=()):
        self.protobuf = protobuf
        settings = {"url": url, "protobuf": protobuf, "tokens": list(tokens), "timeout_ms": 1000 * PATIENCE_S}
        self.process = subprocess.Popen(
            [*command, json.dumps(settings)],
            env=programs.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines = queue.Queue()
        self.events, self.answers = collections.deque(), {}
        self.last_id = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def _take(self):
        try:
            line = self.lines.get(timeout=PATIENCE_S)
        except queue.Empty:
            last = [{key: value for key, value in event.items() if key != "data"} for event in list(self.events)[-5:]]
            raise AssertionError(f"nothing for {PATIENCE_S} s; {len(self.events)} events before, the last {last}") from None
        if line is None:
            raise AssertionError(f"the client ended: {list(self.events)}")
        if "event" in line:
            self.events.append(line)
        else:
            self.answers[line["answer"]] = line

    def start(self, action, **parameters):
        self.last_id += 1
        self.process.stdin.write(json.dumps({"id": self.last_id, "action": action, **parameters}) + "\n")
        self.process.stdin.flush()
        return self.last_id

    def finish(self, id):
        while id not in self.answers:
            self._take()
        answer = self.answers.pop(id)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["result"]

    def do(self, action, **parameters):
        return self.finish(self.start(action, **parameters))

    def next(self, kind, **fields):
        """The next event of this kind with these fields. Others stay."""
        wanted = {"event": kind, **fields}
        seen = 0
        while True:
            for index, event in list(enumerate(self.events))[seen:]:
                if wanted.items() <= event.items():
                    del self.events[index]
                    return event
            seen = len(self.events)
            self._take()

    def kinds(self):
        return [event["event"] for event in self.events]

    def pack(self, value):
        if not self.protobuf:
            return value
        return {"bytes": base64.b64encode(json.dumps(value).encode()).decode()}

    def unpack(self, data):
        return json.loads(base64.b64decode(data["bytes"])) if self.protobuf else data

    def publications(self, channel, count):
        """The offsets and values of the next publications."""
        events = [self.next("publication", channel=channel) for _ in range(count)]
        return [(event["offset"], self.unpack(event["data"])) for event in events]

    def connect(self):
        self.start("connect")
        return self.next("connected")["client"]

    def subscribe(self, channel, **options):
        self.do("subscribe", channel=channel, **options)
        return self.next("subscribed", channel=channel)

    def publish(self, channel, value):
        self.do("publish", channel=channel, data=self.pack(value))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class SdkTests:
    """What tests for each SDK in each encoding have in common: a server, and clients."""

    @classmethod
    def setUpClass(cls):
        programs.require(cls.package)
        cls.server = cls.start()
        cls.addClassCleanup(cls.server.__exit__)

    def client(self, url=None, tokens=()):
        client = Client(self.command(), url or self.server.url(PATH), self.protobuf, tokens)
        self.addCleanup(client.close)
        return client

    def connected(self, url=None, tokens=()):
        client = self.client(url, tokens)
        client.connect()
        return client

    def relay(self):
        relay = Relay(self.server.host, self.server.port)
        self.addCleanup(relay.close)
        return relay

    def fails(self, code, client, action, **parameters):
        with self.assertRaises(Failed) as failed:
            client.do(action, **parameters)
        self.assertEqual(failed.exception.code, code)


class Sdk(SdkTests):
    @staticmethod
    def start():
        return Server("--config", configuration)

    def test_empty_data_are_published(self):
        client = self.connected()
        empty = {"bytes": ""} if self.protobuf else ""
        for channel, options in (("news.empty", {}), ("deltas.empty", {"delta": "fossil"})):
            client.subscribe(channel, **options)
            sent = [empty, client.pack(state(1)), empty, empty, client.pack(state(2))]
            for data in sent:
                client.do("publish", channel=channel, data=data)
            events = [client.next("publication", channel=channel) for _ in sent]
            # A field without bytes is not sent, and one SDK has nothing then.
            self.assertEqual([event["data"] or empty for event in events], sent)

    def test_what_one_client_publishes_reaches_the_others_and_itself(self):
        one, other = self.connected(), self.connected()
        subscribed = one.subscribe("news")
        self.assertEqual((subscribed["wasRecovering"], subscribed["recovered"]), (False, False))
        other.subscribe("news")
        values = [{"text": "Grüße, 水", "n": [1, None, 2.5]}, "two\nlines", 7, None, [], False]
        for value in values:
            one.publish("news", value)
        offset = subscribed["position"]["offset"]
        expected = [(offset + 1 + number, value) for number, value in enumerate(values)]
        for client in (one, other):
            self.assertEqual(client.publications("news", len(values)), expected)

    def test_text_and_bytes_of_raw_routes_arrive(self):
        client = self.connected()
        client.subscribe("raw")
        with connect(self.server.url("/broadcast/raw"), open_timeout=PATIENCE_S) as raw:
            raw.send('say "é"\n')
            raw.send(b"\x00\xff\xfe")
            data = [client.next("publication", channel="raw")["data"] for _ in range(2)]
            texts = [base64.b64encode(sent).decode() for sent in ('say "é"\n'.encode(), b"\x00\xff\xfe")]
            if self.protobuf:
                self.assertEqual(data, [{"bytes": text} for text in texts])
            else:
                self.assertEqual(data, ['say "é"\n', texts[1]])
            client.publish("raw", {"a": 1})
            self.assertEqual(json.loads(raw.recv(PATIENCE_S)), {"a": 1})

    def test_who_has_unsubscribed_gets_nothing(self):
        client = self.connected()
        client.subscribe("left")
        client.do("unsubscribe", channel="left")
        self.assertEqual(client.next("unsubscribed", channel="left")["code"], 0)
        client.subscribe("still here")
        client.publish("left", 1)
        client.publish("still here", 2)
        self.assertEqual(client.publications("still here", 1)[0][1], 2)
        self.assertNotIn("publication", client.kinds())

    def test_history_is_read_from_both_ends(self):
        client = self.connected()
        client.subscribe("kept.history")
        for number in range(1, 11):
            client.publish("kept.history", number)

        def history(**parameters):
            result = client.do("history", channel="kept.history", **parameters)
            return [publication["offset"] for publication in result["publications"]], result["position"]

        none, position = history(limit=0)
        self.assertEqual((none, position["offset"]), ([], 10))
        since = {"offset": 4, "epoch": position["epoch"]}
        for parameters, expected in [
            ({"limit": -1}, range(1, 11)),
            ({"limit": 3}, range(1, 4)),
            ({"limit": 3, "reverse": True}, range(10, 7, -1)),
            ({"limit": 3, "since": since}, range(5, 8)),
            ({"limit": 100, "since": since}, range(5, 11)),
            ({"limit": 100, "since": since, "reverse": True}, range(3, 0, -1)),
        ]:
            with self.subTest(**parameters):
                self.assertEqual(history(**parameters), (list(expected), position))
        result = client.do("history", channel="kept.history", limit=-1)
        values = [client.unpack(publication["data"]) for publication in result["publications"]]
        self.assertEqual(values, list(range(1, 11)))
        self.fails(112, client, "history", channel="kept.history", limit=1, since={"offset": 4, "epoch": "f00d"})

    def test_members_of_a_room_are_listed_and_told(self):
        one, other = self.client(), self.client()
        first, second = one.connect(), other.connect()
        one.subscribe("rooms.blue", join_leave=True)
        self.assertEqual(one.next("join", channel="rooms.blue")["client"], first)
        other.subscribe("rooms.blue")
        self.assertEqual(one.next("join", channel="rooms.blue")["client"], second)
        present = other.do("presence", channel="rooms.blue")
        self.assertEqual({info["client"] for info in present}, {first, second})
        stats = other.do("presence_stats", channel="rooms.blue")
        # Both are anonymous, which is one user.
        self.assertEqual(stats, {"clients": 2, "users": 1})
        other.do("unsubscribe", channel="rooms.blue")
        self.assertEqual(one.next("leave", channel="rooms.blue")["client"], second)
        # Who did not ask is not told.
        self.assertNotIn("join", other.kinds())

    def test_a_client_recovers_what_it_missed_while_it_was_away(self):
        relay = self.relay()
        client = self.connected(relay.url(PATH))
        subscribed = client.subscribe("kept.away", recoverable=True)
        self.assertTrue(subscribed["recoverable"] and subscribed["positioned"])
        post(self.server, "kept.away", 0)
        self.assertEqual(client.publications("kept.away", 1), [(1, 0)])
        with relay.cut():
            for number in range(1, 51):
                post(self.server, "kept.away", number)
        again = client.next("subscribed", channel="kept.away")
        self.assertEqual((again["wasRecovering"], again["recovered"]), (True, True))
        self.assertEqual(again["position"]["epoch"], subscribed["position"]["epoch"])
        post(self.server, "kept.away", 51)
        expected = [(number + 1, number) for number in range(1, 52)]
        self.assertEqual(client.publications("kept.away", 51), expected)

    def test_a_client_is_told_that_it_cannot_recover(self):
        relay = self.relay()
        client = self.connected(relay.url(PATH))
        client.subscribe("short.away", recoverable=True)
        with relay.cut():
            for number in range(10):
                post(self.server, "short.away", number)
        again = client.next("subscribed", channel="short.away")
        self.assertEqual((again["wasRecovering"], again["recovered"]), (True, False))
        client.publish("short.away", "live")
        while client.publications("short.away", 1) != [(11, "live")]:
            pass

    def test_a_slow_reader_recovers(self):
        client = self.connected()
        client.subscribe("kept.slow", recoverable=True)
        with suspended(client.process):
            for number in range(FLOOD):
                post(self.server, "kept.slow", [number, "x" * FLOOD_BYTES])
        self.assertEqual(client.next("subscribing", channel="kept.slow", code=2500)["reason"], "insufficient state")
        publications = client.publications("kept.slow", FLOOD)
        self.assertEqual([(offset, value[0]) for offset, value in publications], [(n + 1, n) for n in range(FLOOD)])
        again = client.next("subscribed", channel="kept.slow")
        self.assertEqual((again["wasRecovering"], again["recovered"]), (True, True))
        self.assertNotIn("disconnected", client.kinds())

    def test_deltas_lead_to_what_was_published(self):
        bytes_sent = {}
        for delta in (None, "fossil"):
            relay = self.relay()
            client = self.connected(relay.url(PATH))
            channel = f"deltas.{delta}.{self.protobuf}"
            client.subscribe(channel, recoverable=True, delta=delta)
            states = [state(number) for number in range(20)]
            # One at a time, so that none is whole because it reached the shard together with the one before it.
            for number in range(10):
                post(self.server, channel, states[number])
                self.assertEqual(client.publications(channel, 1), [(number + 1, states[number])])
            with relay.cut():
                for number in range(10, 15):
                    post(self.server, channel, states[number])
            self.assertTrue(client.next("subscribed", channel=channel)["recovered"])
            for number in range(15, 20):
                post(self.server, channel, states[number])
            self.assertEqual(client.publications(channel, 10), list(enumerate(states, 1))[10:])
            publications = client.do("history", channel=channel, limit=3)["publications"]
            self.assertEqual([client.unpack(publication["data"]) for publication in publications], states[:3])
            # What does not resemble the message before it, and what follows.
            others = [7, "text", state(3), None, state(4), "x" * 500, "x" * 499 + "y"]
            for value in others:
                client.publish(channel, value)
            self.assertEqual([value for _, value in client.publications(channel, len(others))], others)
            bytes_sent[delta] = relay.bytes_sent
        self.assertLess(2 * bytes_sent["fossil"], bytes_sent[None], bytes_sent)

    def test_publications_are_compressed_with_those_before_them(self):
        channel, quotes = "quotes", [quote(number) for number in range(100)]
        with Server("--shards", "1", "--compress", "shared; server_max_window_bits=9") as server:
            # From four subscribers on, and from a later one, which has to get the window first.
            clients = [self.connected(server.url(PATH)) for _ in range(5)]
            for client in clients[:4]:
                client.subscribe(channel)
            for number, value in enumerate(quotes):
                if number == 30:
                    clients[4].subscribe(channel)
                post(server, channel, value)
            for client in clients[:4]:
                self.assertEqual([value for _, value in client.publications(channel, len(quotes))], quotes)
            self.assertEqual([value for _, value in clients[4].publications(channel, len(quotes) - 30)], quotes[30:])
            compression = server.stats()["node"]["compression"]
            self.assertLess(2 * compression["bytes_out"], compression["bytes_out_plain"])

    def test_a_slow_reader_of_deltas_recovers(self):
        client = self.connected()
        channel = f"deltas.slow.{self.protobuf}"
        client.subscribe(channel, recoverable=True, delta="fossil")
        values = [[number, os.urandom(FLOOD_BYTES // 2).hex()] for number in range(FLOOD)]
        with suspended(client.process):
            for value in values:
                post(self.server, channel, value)
        client.next("subscribing", channel=channel, code=2500)
        client.next("subscribed", channel=channel)
        post(self.server, channel, values[0])
        # Those that the history has no room for are missing.
        while (event := client.next("publication", channel=channel))["offset"] <= FLOOD:
            self.assertEqual(client.unpack(event["data"]), values[event["offset"] - 1])
        self.assertEqual(client.unpack(event["data"]), values[0])

    def test_topics_without_deltas_ignore_that_they_are_asked_for(self):
        client = self.connected()
        client.subscribe("whole", delta="fossil")
        for number in range(3):
            client.publish("whole", state(number))
        self.assertEqual([value for _, value in client.publications("whole", 3)], [state(n) for n in range(3)])

    def test_errors_have_the_codes_of_the_protocol(self):
        client = self.connected()
        client.subscribe("plain")
        self.fails(108, client, "rpc", method="anything", data=client.pack({}))
        self.fails(103, client, "publish", channel="ours.feed", data=client.pack(1))
        self.fails(107, client, "publish", channel="a\nb", data=client.pack(1))
        self.fails(108, client, "presence", channel="plain")
        self.fails(108, client, "presence_stats", channel="plain")
        self.fails(103, client, "history", channel="not subscribed", limit=1)
        client.do("subscribe", channel="closed.door")
        self.assertEqual(client.next("unsubscribed", channel="closed.door")["code"], 102)
        # It goes on.
        client.publish("plain", "still")
        self.assertEqual(client.publications("plain", 1)[0][1], "still")

    def test_a_takeover_is_not_noticed(self):
        flags = ("--config", configuration, "--drain", "1s")
        first = Server(*flags)
        self.addCleanup(first.__exit__)
        client = self.connected(first.url(PATH))
        client.subscribe("kept.over", recoverable=True)
        client.events.clear()
        post(first, "kept.over", "before")
        admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
        successor = Server(*flags, "--takeover", admin=admin, listen=listen)
        self.addCleanup(successor.__exit__)
        post(successor, "kept.over", "meanwhile")
        self.assertEqual(first.wait(), 0)
        post(successor, "kept.over", "after")
        self.assertEqual(
            client.publications("kept.over", 3), [(1, "before"), (2, "meanwhile"), (3, "after")]
        )
        client.publish("kept.over", "its own")
        self.assertEqual(client.publications("kept.over", 1), [(4, "its own")])
        self.assertEqual(client.kinds(), [])

    def test_a_server_that_is_killed_and_started_again_has_another_epoch(self):
        first = Server("--config", configuration)
        self.addCleanup(first.__exit__)
        client = self.connected(first.url(PATH))
        subscribed = client.subscribe("kept.killed", recoverable=True)
        post(first, "kept.killed", "before")
        self.assertEqual(client.publications("kept.killed", 1), [(1, "before")])
        first.process.kill()
        first.wait()
        second = Server("--config", configuration, listen=f"127.0.0.1:{first.port}")
        self.addCleanup(second.__exit__)
        again = client.next("subscribed", channel="kept.killed")
        self.assertEqual((again["wasRecovering"], again["recovered"]), (True, False))
        self.assertNotEqual(again["position"]["epoch"], subscribed["position"]["epoch"])
        post(second, "kept.killed", "after")
        self.assertEqual(client.publications("kept.killed", 1), [(1, "after")])


class WithTokens:
    """Tests with tokens, for each SDK in JSON."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.guarded = Server("--config", configuration, "--auth-jwt-key", secret)
        cls.addClassCleanup(cls.guarded.__exit__)

    def guest(self, *tokens):
        return self.client(self.guarded.url(PATH), tokens)

    def test_a_token_names_the_user(self):
        client = self.guest(token(subject="bob"))
        client.connect()
        client.subscribe("rooms.users")
        self.assertEqual([info["user"] for info in client.do("presence", channel="rooms.users")], ["bob"])

    def test_an_expired_token_is_replaced(self):
        client = self.guest(token(-10), token())
        client.connect()
        self.assertIn("token", client.kinds())
        client.publish("anything", 1)

    def test_a_token_is_refreshed_before_it_expires(self):
        client = self.guest(token(8), token())
        client.connect()
        client.subscribe("refreshed")
        client.next("token")
        # Longer than the first token is valid.
        with connect(self.guarded.url("/echo"), additional_headers={"Authorization": f"Bearer {token(8)}"}) as other:
            with self.assertRaises(ConnectionClosed):
                other.recv(PATIENCE_S)
        client.publish("refreshed", "still here")
        self.assertEqual(client.publications("refreshed", 1)[0][1], "still here")
        self.assertNotIn("disconnected", client.kinds())

    def test_clients_without_a_valid_token_stay_away(self):
        forged = jwt.encode({"sub": "eve", "exp": int(time.time()) + 600}, SECRET + "!", "HS256")
        for tokens, code in [((), 101), ((forged,), 3500)]:
            client = self.guest(*tokens)
            client.start("connect")
            self.assertEqual(client.next("disconnected")["code"], code)

    def test_a_client_whose_user_may_not_return_stops(self):
        # Its process starts and connects within these seconds.
        client = self.guest(token(8))
        client.connect()
        client.next("token")
        self.assertEqual(client.next("disconnected")["reason"], "unauthorized")


class WithPositions:
    def test_a_client_begins_at_a_position_that_it_knows(self):
        _, second, _ = (post(self.server, "kept.since", number) for number in (1, 2, 3))
        position = {key: second[key] for key in ("epoch", "offset")}
        client = self.connected()
        subscribed = client.subscribe("kept.since", since=position, recoverable=True)
        self.assertEqual((subscribed["wasRecovering"], subscribed["recovered"]), (True, True))
        self.assertEqual(client.publications("kept.since", 1), [(3, 3)])


class JavaScript:
    package = "centrifuge"

    @staticmethod
    def command():
        return programs.node("centrifuge_sdk.mjs")


class Python:
    package = "centrifuge-python"

    @staticmethod
    def command():
        return programs.python("centrifuge_sdk.py")


def for_each_sdk(tests, javascript=object, json_only=object):
    """The classes of tests with each SDK in both encodings, by name. `javascript` has tests for that SDK, and `json_only` those for
    the encoding."""
    classes = {}
    for sdk, own in ((JavaScript, javascript), (Python, object)):
        for encoding, more in (("Json", json_only), ("Protobuf", object)):
            name = f"{sdk.__name__}{encoding}"
            bases = [base for base in (more, own, sdk, tests) if base is not object]
            members = {"protobuf": encoding == "Protobuf", "__module__": tests.__module__}
            classes[name] = type(name, (*bases, unittest.TestCase), members)
    return classes


globals().update(for_each_sdk(Sdk, WithPositions, WithTokens))


class Wire(unittest.TestCase):
    """What the SDKs do not send, or do not show."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--config", configuration)
        cls.addClassCleanup(cls.server.__exit__)

    def open(self, subprotocols=None, query=""):
        socket = connect(self.server.url(PATH + query), subprotocols=subprotocols, open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        return socket

    def replies(self, socket, count):
        """The next replies, each a line of a message."""
        lines = []
        while len(lines) < count:
            lines += socket.recv(PATIENCE_S).split("\n")
        return [json.loads(line) for line in lines]

    def session(self):
        socket = self.open()
        socket.send('{"id":1,"connect":{}}')
        (reply,) = self.replies(socket, 1)
        return socket, reply

    def post_keyed(self, topic, key, value):
        with connect(self.server.url("/broadcast"), subprotocols=["echoring.v1.json"]) as publisher:
            publisher.send(json.dumps({"type": "publish", "id": 1, "topic": topic, "key": key, "data": value}))
            self.assertEqual(json.loads(publisher.recv(PATIENCE_S))["type"], "published")

    def closed(self, socket):
        with self.assertRaises(ConnectionClosed) as closed:
            while True:
                socket.recv(PATIENCE_S)
        return closed.exception.rcvd.code, closed.exception.rcvd.reason

    def test_a_session_says_what_the_client_needs(self):
        _, reply = self.session()
        self.assertEqual(sorted(reply), ["connect", "id"])
        connect = reply["connect"]
        self.assertEqual(sorted(connect), ["client", "ping", "pong", "version"])
        self.assertEqual((connect["ping"], connect["pong"]), (25, True))

    def test_the_subprotocol_chooses_the_encoding(self):
        for subprotocols, chosen in [
            (None, None),
            (["centrifuge-json"], "centrifuge-json"),
            (["centrifuge-protobuf"], "centrifuge-protobuf"),
        ]:
            self.assertEqual(self.open(subprotocols).subprotocol, chosen)
        # A connect command with the id 1.
        binary = b"\x04\x08\x01\x22\x00"
        for query in ("?cf_protocol=protobuf", "?format=protobuf"):
            socket = self.open(query=query)
            socket.send(binary)
            self.assertEqual(socket.recv(PATIENCE_S)[1:3], b"\x08\x01")
        socket = self.open()
        socket.send(binary)
        self.assertEqual(self.closed(socket), (3501, "bad request"))

    def test_a_plain_request_is_told_what_is_there(self):
        status, _, _ = self.server.get(PATH, address=(self.server.host, self.server.port))
        self.assertEqual(status, 426)

    def test_many_commands_come_in_one_message(self):
        socket = self.open()
        commands = ['{"id":1,"connect":{}}']
        commands += [f'{{"id":{id},"subscribe":{{"channel":"many.{id}"}}}}' for id in range(2, 102)]
        commands += ['{"id":102,"ping":{}}', '{"id":103,"publish":{"channel":"many.2","data":{"a" :1}}}']
        socket.send("\n".join(commands) + "\n")
        replies = self.replies(socket, 104)
        ids = [reply["id"] for reply in replies if "id" in reply]
        self.assertEqual(sorted(ids), list(range(1, 104)))
        self.assertIn({"push": {"channel": "many.2", "pub": {"data": {"a": 1}, "offset": 1}}}, replies)
        self.assertIn({"id": 102, "ping": {}}, replies)
        self.assertIn({"id": 103, "publish": {}}, replies)

    def test_commands_that_cannot_be_served_have_errors(self):
        socket, _ = self.session()
        for command, code in [
            ('"rpc":{"method":"m"}', 108),
            ('"future":{}', 104),
            ('"subscribe":{"channel":""}', 107),
            ('"subscribe":{"channel":"c","type":1}', 108),
            ('"subscribe":{"channel":"c","tf":{"key":"k","cmp":"ex"}}', 107),
            ('"publish":{"channel":"c"}', 107),
            ('"publish":{"channel":"c","data":1,"removed":true}', 108),
            ('"sub_refresh":{"channel":"c","token":"t"}', 108),
            ('"presence":{"channel":"c"}', 103),
            ('"history":{"channel":"c"}', 103),
        ]:
            with self.subTest(command):
                socket.send('{"id":7,%s}' % command)
                (reply,) = self.replies(socket, 1)
                self.assertEqual((reply["id"], reply["error"]["code"]), (7, code), reply)
        socket.send('{"id":8,"subscribe":{"channel":"twice"}}\n{"id":9,"subscribe":{"channel":"twice"}}')
        by_id = {reply["id"]: reply for reply in self.replies(socket, 2)}
        self.assertEqual(by_id[9]["error"]["code"], 105)
        self.assertIn("subscribe", by_id[8])
        # Nobody answers a message without an id, and a pong that nobody asked for does no harm.
        socket.send('{"send":{"data":1}}\n{}\n{"id":10,"ping":{}}')
        self.assertEqual(self.replies(socket, 1), [{"id": 10, "ping": {}}])

    def test_a_client_chooses_what_an_unknown_position_means(self):
        socket, _ = self.session()
        position = '"recover":true,"epoch":"f00d","offset":4'
        socket.send('{"id":2,"subscribe":{"channel":"lost",%s,"flag":2}}' % position)
        (reply,) = self.replies(socket, 1)
        self.assertEqual(reply["error"]["code"], 112)
        socket.send('{"id":3,"subscribe":{"channel":"lost",%s}}' % position)
        (reply,) = self.replies(socket, 1)
        self.assertTrue(reply["subscribe"]["was_recovering"])
        self.assertNotIn("recovered", reply["subscribe"])

    def test_a_position_without_an_epoch_is_of_any(self):
        for number in range(3):
            post(self.server, "kept.any", number)
        socket, _ = self.session()
        socket.send('{"id":2,"subscribe":{"channel":"kept.any","recover":true,"offset":1}}')
        (reply,) = self.replies(socket, 1)
        self.assertTrue(reply["subscribe"]["recovered"])
        self.assertEqual([publication["data"] for publication in reply["subscribe"]["publications"]], [1, 2])
        for epoch in ("0", "no epoch"):
            socket, _ = self.session()
            position = '"recover":true,"epoch":"%s","offset":1' % epoch
            socket.send('{"id":2,"subscribe":{"channel":"kept.any",%s}}' % position)
            (reply,) = self.replies(socket, 1)
            self.assertNotIn("recovered", reply["subscribe"])

    def test_the_first_publication_is_whole_and_the_next_ones_are_deltas(self):
        socket, _ = self.session()
        socket.send('{"id":2,"subscribe":{"channel":"deltas.wire","delta":"fossil"}}')
        (reply,) = self.replies(socket, 1)
        self.assertTrue(reply["subscribe"]["delta"])
        epoch = reply["subscribe"]["epoch"]
        # One at a time: messages that reach a shard together are all whole for who has been sent none of them.
        first, *others = [self.published(state(number), socket)[0] for number in range(3)]
        self.assertNotIn("delta", first)
        self.assertEqual(json.loads(first["data"]), state(0))
        for publication in others:
            self.assertTrue(publication["delta"])
            self.assertLess(len(publication["data"]), len(first["data"]) / 2)
        # Whoever subscribes later begins with a whole one.
        late, _ = self.session()
        late.send('{"id":2,"subscribe":{"channel":"deltas.wire","delta":"fossil","recover":true,"epoch":"%s"}}' % epoch)
        (reply,) = self.replies(late, 1)
        recovered = reply["subscribe"]["publications"]
        self.assertEqual([publication.get("delta", False) for publication in recovered], [False, True, True])
        self.assertEqual([publication["data"] for publication in recovered[1:]], [other["data"] for other in others])
        early, whole = self.published(state(3), socket, late)
        self.assertTrue(early["delta"])
        self.assertEqual((json.loads(whole["data"]), whole.get("delta")), (state(3), None))
        for publication in self.published(state(3), socket, late):
            self.assertTrue(publication["delta"])

    def published(self, value, *sockets):
        """Publishes a value with deltas, and returns what each session receives of it."""
        post(self.server, "deltas.wire", value)
        return [self.replies(socket, 1)[0]["push"]["pub"] for socket in sockets]

    def test_the_latest_state_of_each_key_comes_first(self):
        for offset, key in enumerate(("EUR", "USD", "EUR"), 1):
            self.post_keyed("prices.all", key, offset)
        socket, _ = self.session()
        socket.send('{"id":2,"subscribe":{"channel":"prices.all"}}\n{"id":3,"publish":{"channel":"prices.all","data":1}}')
        by_id = {reply["id"]: reply for reply in self.replies(socket, 2)}
        publications = by_id[2]["subscribe"]["publications"]
        expected = [{"data": 2, "offset": 2, "key": "USD"}, {"data": 3, "offset": 3, "key": "EUR"}]
        self.assertEqual(publications, expected)
        self.assertEqual(by_id[3]["error"]["code"], 107)

    def test_senseless_messages_end_the_connection_for_good(self):
        for message in ("", "nonsense", "[]", '{"id":1}', '{"id":1,"ping":{}}', '{"connect":{}}', '{"id":1,"connect":[]}'):
            with self.subTest(message):
                socket = self.open()
                socket.send(message)
                self.assertEqual(self.closed(socket), (3501, "bad request"))
        socket, _ = self.session()
        socket.send('{"id":2,"connect":{}}')
        self.assertEqual(self.closed(socket), (3501, "bad request"))

    def test_who_does_not_connect_is_stale(self):
        with Server("--handshake-timeout", "2s") as server:
            with connect(server.url(PATH), open_timeout=PATIENCE_S) as socket:
                self.assertEqual(self.closed(socket), (3502, "stale"))

    def test_too_many_errors_end_the_connection(self):
        socket, _ = self.session()
        socket.send("\n".join(f'{{"id":{id},"rpc":{{}}}}' for id in range(2, 50)))
        self.assertEqual(self.closed(socket), (3509, "too many errors"))

    def test_a_node_that_stops_sends_its_clients_elsewhere(self):
        server = Server()
        self.addCleanup(server.__exit__)
        socket = connect(server.url(PATH), open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        socket.send('{"id":1,"connect":{}}')
        socket.recv(PATIENCE_S)
        server.terminate()
        self.assertEqual(self.closed(socket), (3001, "shutdown"))
        self.assertEqual(server.wait(), 0)

    def test_credentials_that_end_are_expired(self):
        server = Server("--auth-jwt-key", secret)
        self.addCleanup(server.__exit__)
        socket = connect(server.url(PATH), open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        socket.send(json.dumps({"id": 1, "connect": {"token": token(4)}}))
        (reply,) = self.replies(socket, 1)
        self.assertTrue(reply["connect"]["expires"])
        self.assertEqual(self.closed(socket), (3005, "connection expired"))

    def test_another_origin_is_refused(self):
        with self.assertRaises(InvalidStatus) as refused:
            connect(self.server.url(PATH), origin="https://elsewhere.example", open_timeout=PATIENCE_S)
        self.assertEqual(refused.exception.response.status_code, 403)


if __name__ == "__main__":
    unittest.main()
