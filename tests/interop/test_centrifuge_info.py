"""The application's data about clients, which other clients see: in presence, joins and leaves, and as authors of publications; with
unmodified SDKs of Centrifuge's client protocol, and with raw messages."""

import base64
import json
import time
import unittest

import jwt
import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_file, text_files, wait_until
from test_centrifuge_hooks import Service
from test_cluster import InACluster
from websockets.sync.client import connect

CONFIGURATION = """
[topic_defaults]
presence = "everybody"
history_messages = 100

[[topics]]
pattern = "chat.*"
publisher_info = true

[[topics]]
pattern = "latest.*"
slow = "conflate"
publisher_info = true
"""
ASKED = """
[[topics]]
pattern = "asked.*"
subscribe = "hook"
publish = "hook"
publisher_info = true
"""
# The most that is allowed.
LONGEST = "x" * (1024 - 2)


def token(user, seconds=600, **claims):
    return jwt.encode({"sub": user, "exp": int(time.time()) + seconds, **claims}, sdk.SECRET, "HS256")


def setUpModule():
    global options, asked_options
    texts = text_files(echoring_toml=CONFIGURATION, asked_toml=CONFIGURATION + ASKED, secret=sdk.SECRET)
    configuration, asked, secret = unittest.enterModuleContext(texts)
    options = ("--config", configuration, "--auth-jwt-key", secret, "--auth-anonymous")
    asked_options = ("--config", asked, *options[2:], "--shards", "3")


class Application(Service):
    """Lets clients in, and lets them subscribe, with data about them."""

    def answer(self, path, body):
        if path == "/connect":
            return 200, {"result": body["data"]}
        return 200, {"result": {"info": {"seat": body["user"]}} if path == "/subscribe" else {}}


class Session:
    """A session in raw JSON."""

    def __init__(self, test, server, **parameters):
        socket = connect(server.url(sdk.PATH), open_timeout=PATIENCE_S)
        test.addCleanup(socket.close)
        self.begin(socket, parameters)

    @classmethod
    def over(cls, socket, **parameters):
        """The session of an open connection."""
        session = cls.__new__(cls)
        session.begin(socket, parameters)
        return session

    def begin(self, socket, parameters):
        self.socket, self.lines, self.id = socket, [], 0
        self.client = self.do("connect", **parameters)["client"]

    def line(self, has):
        """The next message that has this member. Others stay."""
        while True:
            for index, line in enumerate(self.lines):
                if has(line):
                    return self.lines.pop(index)
            self.lines += [json.loads(line) for line in self.socket.recv(PATIENCE_S).split("\n")]

    def send(self, command, **parameters):
        self.id += 1
        self.socket.send(json.dumps({"id": self.id, command: parameters}))
        return self.id

    def do(self, command, **parameters):
        id = self.send(command, **parameters)
        reply = self.line(lambda line: line.get("id") == id)
        return reply.get(command, reply.get("error"))

    def pushed(self, kind, channel):
        push = self.line(lambda line: kind in line.get("push", {}) and line["push"]["channel"] == channel)["push"]
        return push[kind] if kind == "pub" else push[kind]["info"]


class Sdk(sdk.SdkTests):
    @staticmethod
    def start():
        return Server(*options, "--shards", "3")

    def about(self, value):
        """Data as this SDK has them."""
        if not self.protobuf:
            return value
        return {"bytes": base64.b64encode(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).decode()}

    def test_every_chat_shows_who_wrote(self):
        chat = f"chat.{self.id()}"
        alice = self.client(tokens=[token("alice", info={"name": "Älice"})])
        bob = self.client(tokens=[token("bob", info={"name": "Bob"})])
        ids = [client.connect() for client in (alice, bob)]
        alice.subscribe(chat, join_leave=True, recoverable=True)
        alice.next("join", channel=chat, user="alice", conn_info=self.about({"name": "Älice"}))
        bob.subscribe(chat)
        described = {"user": "bob", "client": ids[1], "conn_info": self.about({"name": "Bob"})}
        alice.next("join", channel=chat, **described)
        author = {"user": "alice", "client": ids[0], "conn_info": self.about({"name": "Älice"})}
        present = bob.do("presence", channel=chat)
        self.assertEqual({info["client"]: info for info in present}, {info["client"]: info for info in (author, described)})
        alice.publish(chat, "hello")
        for client in (alice, bob):
            self.assertEqual(client.next("publication", channel=chat)["info"], author)
        sdk.post(self.server, chat, "from the back end")
        self.assertNotIn("info", bob.next("publication", channel=chat))
        past = bob.do("history", channel=chat, limit=10)["publications"]
        self.assertEqual([publication.get("info") for publication in past], [author, None])
        bob.do("unsubscribe", channel=chat)
        alice.next("leave", channel=chat, **described)

    def test_where_it_is_not_switched_on_nobody_is_named(self):
        alice = self.client(tokens=[token("alice", info={"name": "Alice"})])
        alice.connect()
        alice.subscribe("quiet")
        alice.publish("quiet", 1)
        self.assertNotIn("info", alice.next("publication", channel="quiet"))

    def test_recovered_publications_name_their_authors(self):
        chat = f"chat.{self.id()}"
        relay = self.relay()
        alice, bob = self.client(tokens=[token("alice", info=7)]), self.client(relay.url(sdk.PATH), [token("bob")] * 3)
        id = alice.connect()
        bob.connect()
        bob.subscribe(chat, recoverable=True)
        with relay.cut():
            alice.publish(chat, "meanwhile")
        again = bob.next("subscribed", channel=chat)
        self.assertTrue(again["recovered"])
        author = {"user": "alice", "client": id, "conn_info": self.about(7)}
        self.assertEqual(bob.next("publication", channel=chat)["info"], author)


globals().update(sdk.for_each_sdk(Sdk))


class Raw(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.application = Application()
        cls.addClassCleanup(cls.application.close)
        hooks = [f"--hooks-{event}={cls.application.url(f'/{event}')}" for event in ("connect", "subscribe", "publish")]
        cls.server = Server(*asked_options, *hooks)
        cls.addClassCleanup(cls.server.__exit__)

    def session(self, **parameters):
        return Session(self, self.server, **parameters)

    def test_tokens_of_subscriptions_and_hooks_tell_about_a_client_in_a_channel(self):
        one = self.session(data={"user": "carol", "info": {"name": "Carol"}})
        one.do("subscribe", channel="chat.room", token=token("carol", channel="chat.room", info="host"))
        other = self.session(data={"info": "nobody's"})
        other.do("subscribe", channel="chat.room", join_leave=True)
        other.do("subscribe", channel="asked.room")
        described = {"user": "carol", "client": one.client, "conn_info": {"name": "Carol"}, "chan_info": "host"}
        nobody = {"user": "", "client": other.client, "conn_info": "nobody's"}
        self.assertEqual(other.do("presence", channel="chat.room")["presence"], {one.client: described, other.client: nobody})
        self.assertEqual(other.pushed("join", "chat.room"), nobody)
        one.do("publish", channel="chat.room", data=1)
        self.assertEqual(other.pushed("pub", "chat.room"), {"data": 1, "offset": 1, "info": described})
        one.do("subscribe", channel="asked.room")
        one.do("publish", channel="asked.room", data=2)
        asked = {**described, "chan_info": {"seat": "carol"}}
        self.assertEqual(other.pushed("pub", "asked.room"), {"data": 2, "offset": 1, "info": asked})
        # A token that is refreshed says what is true from now on.
        one.do("sub_refresh", channel="chat.room", token=token("carol", channel="chat.room", info="guest"))
        one.do("publish", channel="chat.room", data=3)
        self.assertEqual(other.pushed("pub", "chat.room")["info"]["chan_info"], "guest")
        one.do("unsubscribe", channel="chat.room")
        self.assertEqual(other.pushed("leave", "chat.room"), described)
        one.do("publish", channel="chat.room", data=4)
        self.assertNotIn("chan_info", other.pushed("pub", "chat.room")["info"])

    def test_the_back_end_reads_and_sets_them(self):
        one = self.session(data={"user": "dora", "b64info": "/w==", "subs": {"chat.api": {"info": [1]}}})
        described = {"user": "dora", "client": one.client, "conn_info": "/w==", "chan_info": [1]}
        present = lambda channel: self.server.call("presence", channel=channel)["result"]["presence"]
        self.assertEqual(present("chat.api"), {one.client: described})
        one.do("publish", channel="chat.api", data=5)
        past = self.server.call("history", channel="chat.api", limit=10)["result"]["publications"]
        self.assertEqual(past, [{"data": 5, "info": described, "offset": 1}])
        self.server.call("subscribe", user="dora", channel="chat.pushed", info={"by": "api"})
        wait_until(lambda: present("chat.pushed"), "a subscription")
        self.assertEqual(present("chat.pushed")[one.client]["chan_info"], {"by": "api"})
        self.assertEqual(self.server.call("subscribe", user="dora", channel="x", info=LONGEST + "xx")["error"]["code"], 107)

    def test_bytes_are_decoded_for_clients_that_speak_json(self):
        for sent, seen in [(b'{"a": [1]}', {"a": [1]}), (b"host", "host"), (b"\xff\x00", "/wA=")]:
            with self.subTest(sent=sent):
                b64 = base64.b64encode(sent).decode()
                one = self.session(data={"user": "eve", "b64info": b64, "subs": {"chat.bytes": {"b64info": b64}}})
                described = {"user": "eve", "client": one.client, "conn_info": seen, "chan_info": seen}
                self.assertEqual(one.do("presence", channel="chat.bytes")["presence"][one.client], described)
                present = self.server.call("presence", channel="chat.bytes")["result"]["presence"]
                self.assertEqual(present[one.client], described)

    def test_they_are_bounded(self):
        users = [f"user{number}" for number in range(100)]
        many = [self.session(token=token(user, info=LONGEST)) for user in users]
        for user, session in zip(users, many):
            session.do("subscribe", channel="chat.many", token=token(user, channel="chat.many", info=LONGEST))
        presence = many[0].do("presence", channel="chat.many")["presence"]
        self.assertEqual({info["chan_info"] + info["conn_info"] for info in presence.values()}, {2 * LONGEST})
        self.assertEqual(len(presence), len(many))
        self.assertEqual(many[0].do("presence_stats", channel="chat.many"), {"num_clients": 100, "num_users": 100})
        many[0].do("publish", channel="chat.many", data=LONGEST)
        self.assertEqual(many[1].pushed("pub", "chat.many")["info"]["chan_info"], LONGEST)
        socket = connect(self.server.url(sdk.PATH), open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        socket.send(json.dumps({"id": 1, "connect": {"token": token("erin", info=LONGEST + "x")}}))
        with self.assertRaises(Exception):
            socket.recv(PATIENCE_S)
        self.assertEqual(socket.close_code, 3500)

    def test_the_latest_of_a_key_names_its_author(self):
        one, other = self.session(token=token("alice", info=1)), self.session(token=token("bob"))
        one.do("publish", channel="latest.a", data=1, key="k")
        (latest,) = other.do("subscribe", channel="latest.a")["publications"]
        self.assertEqual(latest["info"], {"user": "alice", "client": one.client, "conn_info": 1})

    def test_sessions_of_the_other_protocol_see_the_subject_only(self):
        with connect(self.server.url("/broadcast"), open_timeout=PATIENCE_S, subprotocols=["echoring.v1.json"]) as socket:
            socket.send('{"type":"subscribe","id":1,"topic":"chat.both"}')
            events = lambda kind: next(iter(event for event in iter(lambda: json.loads(socket.recv(PATIENCE_S)), None) if event["type"] == kind))
            events("subscribed")
            one = self.session(token=token("alice", info={"name": "Alice"}))
            one.do("subscribe", channel="chat.both", join_leave=True)
            wait_until(lambda: events("presence").get("subject") == "alice", "the subject")
            socket.send('{"type":"presence","id":2,"topic":"chat.both"}')
            self.assertEqual(list(events("members")["subjects"].values()), ["alice"])
            socket.send('{"type":"publish","id":3,"topic":"chat.both","data":"hi"}')
            self.assertEqual(one.pushed("pub", "chat.both")["info"]["user"], "")

    def test_they_survive_a_takeover(self):
        flags = (*options, "--drain", "1s")
        first = Server(*flags)
        self.addCleanup(first.__exit__)
        alice = Session(self, first, token=token("alice", info={"name": "Alice"}))
        alice.do("subscribe", channel="chat.kept", token=token("alice", channel="chat.kept", info="host"))
        alice.do("publish", channel="chat.kept", data="before")
        admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
        successor = Server(*flags, "--takeover", admin=admin, listen=listen)
        self.addCleanup(successor.__exit__)
        self.assertEqual(first.wait(), 0)
        described = {"user": "alice", "client": alice.client, "conn_info": {"name": "Alice"}, "chan_info": "host"}
        bob = Session(self, successor, token=token("bob"))
        bob.do("subscribe", channel="chat.kept")
        self.assertEqual(bob.do("presence", channel="chat.kept")["presence"][alice.client], described)
        # The connection has moved, with everything about it.
        alice.do("publish", channel="chat.kept", data="after")
        self.assertEqual(bob.pushed("pub", "chat.kept"), {"data": "after", "offset": 2, "info": described})
        past = bob.do("history", channel="chat.kept", limit=10)["publications"]
        self.assertEqual([publication["info"] for publication in past], 2 * [described])


class Cluster(InACluster):
    def test_they_are_told_at_every_node(self):
        nodes = self.start("a", "b", flags=options)
        alice = Session(self, nodes[0], token=token("alice", info={"name": LONGEST[:500]}))
        bob = Session(self, nodes[1], token=token("bob"))
        described = {"user": "alice", "client": alice.client, "conn_info": {"name": LONGEST[:500]}}
        # Some for each node to own.
        for channel in (f"chat.{number}" for number in range(6)):
            bob.do("subscribe", channel=channel, join_leave=True)
            alice.do("subscribe", channel=channel, token=token("alice", channel=channel, info="host"))
            seen = {**described, "chan_info": "host"}
            while bob.pushed("join", channel) != seen:
                pass
            self.assertEqual(bob.do("presence", channel=channel)["presence"][alice.client], seen)
            alice.do("publish", channel=channel, data=1)
            self.assertEqual(bob.pushed("pub", channel)["info"], seen)
            self.assertEqual(bob.do("history", channel=channel, limit=1)["publications"][0]["info"], seen)
            alice.do("unsubscribe", channel=channel)
            self.assertEqual(bob.pushed("leave", channel), seen)


if __name__ == "__main__":
    unittest.main()
