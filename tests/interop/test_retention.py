"""Messages that are kept for connections that move are sent to those only, not to others who ask for history at that time."""

import contextlib
import http.client
import json

from harness import PATIENCE_S, Server, text_file, wait_until
from test_backends import Case, connect
from test_centrifugo_api import Subscriber
from test_event_streams import Stream, publish
from test_webhooks import RawClient

TOPIC = "t"
MESSAGES = ["first", "second", "third"]


class Retention(Case):
    SECONDS = 20

    @contextlib.contextmanager
    def moved(self, kind, kept):
        """A server whose connections have just moved, one of them a subscriber of the topic, which keeps so many messages.

        Then messages are published, which the subscriber gets.
        """
        config = lambda shards: f"shards = {shards}\ndrain = '1h'\nrebalance = 'off'\n[[topics]]\npattern = '*'\nhistory_messages = {kept}\n"
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(text_file(config(2)))
            server = stack.enter_context(Server("--config", file, denied=self.denied))
            members = [RawClient(server).open() for _ in range(16)]
            for member in members:
                stack.callback(member.close)
                position = member.subscribe(TOPIC)
            match kind:
                case "takeover":
                    addresses = {"listen": f"{server.host}:{server.port}", "admin": f"127.0.0.1:{server.admin[1]}"}
                    successor = stack.enter_context(Server("--config", file, "--takeover", denied=self.denied, **addresses))
                    self.assertEqual(server.wait(), 0)
                    server = successor
                case "shards":
                    with open(file, "w") as changed:
                        changed.write(config(3))
                    self.assertEqual(server.get("/reload", "POST")[0], 200)
                    wait_until(lambda: not any("process" in one for one in self.connections(server)), "all have moved")
                case "rebalance":
                    # As anybody can who sees which connections share a shard.
                    shards = {one["address"]: one["shard"] for one in self.connections(server)}
                    shard_of = lambda member: shards["%s:%s" % member.socket.getsockname()]
                    left = [member for member in members if shard_of(member) == 0]
                    for member in left:
                        member.close()
                    members = [member for member in members if member not in left]
                    wait_until(lambda: len(self.connections(server)) == len(members), "those of one shard are closed")
                    status, _, answer = server.get("/rebalance", "POST")
                    self.assertEqual(status, 200, answer)
                    wait_until(lambda: {one["shard"] for one in self.connections(server)} == {0, 1}, "some have moved")
            for text in MESSAGES:
                publish(server, TOPIC, text)
            for member in members:
                self.assertEqual([self.text(member) for _ in MESSAGES], MESSAGES)
            yield server, position

    @staticmethod
    def connections(server):
        return json.loads(server.get("/connections?limit=100")[2])["connections"]

    @staticmethod
    def text(member):
        """The text of the next message, which has no gap before it."""
        while (event := member.hear())["type"] != "message":
            assert event["type"] == "unsubscribed", event
        return event["text"]

    def test_a_topic_without_a_history_shows_nothing(self):
        for kind in ("takeover", "shards", "rebalance"):
            with self.subTest(kind), self.moved(kind, 0) as (server, position):
                self.assert_newcomers_get(server, position, [])

    def test_a_topic_with_a_history_shows_no_more_than_that(self):
        for kind in ("takeover", "rebalance"):
            with self.subTest(kind), self.moved(kind, 2) as (server, position):
                self.assert_newcomers_get(server, position, MESSAGES[1:])

    def assert_newcomers_get(self, server, position, kept):
        """Whoever asks for all messages gets these, and then what is live."""
        epoch = position["epoch"]
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(connect(server.url(f"/broadcast/{TOPIC}")))
            session = RawClient(server).open()
            stack.callback(session.close)
            session.ask(type="subscribe", topic=TOPIC, position={"epoch": epoch, "offset": position["offset"]})
            answer = session.hear()
            self.assertFalse(answer["recovered"], answer)
            connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
            stream = stack.enter_context(Stream(connection, f"/sse/{TOPIC}", last=f"{epoch}-{position['offset']}"))
            centrifuge = Subscriber(server)
            stack.callback(centrifuge.socket.close)
            recovery = {"recover": True, "epoch": epoch, "offset": position["offset"]}
            subscribed = centrifuge.do(subscribe={"channel": TOPIC, **recovery})["subscribe"]
            self.assertFalse(subscribed.get("recovered", False))
            self.assertEqual([one["data"] for one in subscribed.get("publications", [])], kept)
            history = centrifuge.do(history={"channel": TOPIC, "limit": -1})["history"]
            self.assertEqual([one["data"] for one in history.get("publications", [])], kept)
            answer = server.call("history", channel=TOPIC, limit=-1)
            self.assertEqual([one["data"] for one in answer.get("result", {}).get("publications", [])], kept)
            publish(server, TOPIC, "live")
            self.assertEqual(plain.recv(PATIENCE_S), "live")
            heard = []
            while "live" not in heard:
                event = session.hear()
                heard += [event["text"]] if event["type"] == "message" else []
            self.assertEqual(heard, [*kept, "live"])
            seen = []
            while "live" not in seen:
                name, _, data = stream.next()
                seen += [data] if name == "message" else []
            self.assertEqual(seen, [*kept, "live"])
            self.assertEqual(centrifuge.publication()["data"], "live")


class RetentionWithoutIoUring(Retention):
    denied = True
