"""Subscriptions that the server makes: by claims of tokens, by the connect hook, and by the HTTP API; with unmodified SDKs of
Centrifuge's client protocol, and with raw messages."""

import base64
import json
import time
import unittest

import jwt
import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_files
from test_centrifuge_hooks import Service
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CONFIGURATION = """
[topic_defaults]
history_messages = 1000
history_bytes = "64MiB"
lag_bytes = "64KiB"
subscribe = "claim"
history = "claim"
publish = "everybody"

[[topics]]
pattern = "closed"
subscribe = "operator"

[[topics]]
pattern = "short.*"
history_messages = 3

[[topics]]
pattern = "prices.*"
slow = "conflate"
snapshot = 10
"""


def token(user="alice", **claims):
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600, **claims}, sdk.SECRET, "HS256")


class Application(Service):
    """Answers the connect hook by the data of the client."""

    # Of clients without data.
    lifetime_s = None

    def answer(self, path, body):
        match body.get("data"):
            case {"error": code}:
                return 200, {"error": {"code": code, "message": "no", "temporary": code == 1001}}
            case {"disconnect": code}:
                return 200, {"disconnect": {"code": code, "reason": "go away"}}
            case "broken":
                return 500, {}
            case "nobody":
                return 200, {"result": {"channels": ["news"]}}
            case {"result": result}:
                return 200, {"result": result}
        until = {"expire_at": int(time.time()) + self.lifetime_s} if self.lifetime_s else {}
        return 200, {"result": {"user": "carol", "data": {"hello": "carol"}, "channels": ["news", "sports"], **until}}


def setUpModule():
    global options, application
    configuration, secret = unittest.enterModuleContext(text_files(echoring_toml=CONFIGURATION, secret=sdk.SECRET))
    options = ("--config", configuration, "--auth-jwt-key", secret, "--shards", "3")
    application = Application()
    unittest.addModuleCleanup(application.close)


def started(*more):
    return Server(*options, *more)


def api(server, method, **parameters):
    reply = server.call(method, **parameters)
    return reply.get("result", reply.get("error"))


class Sdk(sdk.SdkTests):
    @classmethod
    def start(cls):
        # Ids of clients are those of a server.
        cls.application = Application()
        cls.addClassCleanup(cls.application.close)
        return started(f"--hooks-connect={cls.application.url('/connect')}")

    def client(self, url=None, tokens=()):
        client = super().client(url, tokens)
        client.start("connect")
        return client

    def received(self, client, channel, count):
        events = [client.next("server publication", channel=channel) for _ in range(count)]
        return [(event["offset"], client.unpack(event["data"])) for event in events]

    def test_a_token_lists_subscriptions_and_they_recover(self):
        relay = self.relay()
        names = [f"own.{self.id()}.{number}" for number in range(6)]
        claims = {"channels": names[:4], "subs": {names[4]: {"data": {"kind": 4}}, names[5]: {}}}
        client = self.client(relay.url(sdk.PATH), [token(**claims)] * 3)
        for number, name in enumerate(names):
            subscribed = client.next("server subscribed", channel=name)
            self.assertFalse(subscribed["wasRecovering"])
            self.assertTrue(subscribed["recoverable"])
            if number == 4:
                self.assertEqual(client.unpack(subscribed["data"]), {"kind": 4})
        client.next("connected")
        for name in names:
            sdk.post(self.server, name, "live")
            self.assertEqual(self.received(client, name, 1), [(1, "live")])
        with relay.cut():
            for name in names[:5]:
                for number in range(3):
                    sdk.post(self.server, name, number)
        for name in names:
            subscribed = client.next("server subscribed", channel=name)
            self.assertEqual((subscribed["wasRecovering"], subscribed["recovered"]), (True, True))
        for name in names[:5]:
            self.assertEqual(self.received(client, name, 3), [(2, 0), (3, 1), (4, 2)])
        sdk.post(self.server, names[5], "after")
        self.assertEqual(self.received(client, names[5], 1), [(2, "after")])
        self.assertNotIn("server publication", client.kinds())

    def test_a_client_is_told_that_it_missed_messages(self):
        relay = self.relay()
        name = f"short.{self.id()}"
        client = self.client(relay.url(sdk.PATH), [token(channels=[name])] * 3)
        client.next("server subscribed", channel=name)
        sdk.post(self.server, name, "live")
        self.received(client, name, 1)
        with relay.cut():
            for number in range(6):
                sdk.post(self.server, name, number)
        subscribed = client.next("server subscribed", channel=name)
        self.assertEqual((subscribed["wasRecovering"], subscribed["recovered"]), (True, False))
        # The messages that are still in the topic come all the same.
        self.assertEqual(self.received(client, name, 3), [(5, 3), (6, 4), (7, 5)])

    def test_the_back_end_subscribes_and_unsubscribes_a_user(self):
        user = f"user {self.id()}"
        clients = [self.client(tokens=[token(user)]) for _ in range(2)]
        other = self.client(tokens=[token("somebody else")])
        ids = [client.next("connected")["client"] for client in clients]
        other.next("connected")
        name = f"closed.{self.id()}"
        self.assertEqual(api(self.server, "subscribe", user=user, channel=name, data={"why": "invited"}), {})
        for client in clients:
            subscribed = client.next("server subscribed", channel=name)
            self.assertEqual(client.unpack(subscribed["data"]), {"why": "invited"})
        sdk.post(self.server, name, 1)
        for client in clients:
            self.assertEqual(self.received(client, name, 1), [(1, 1)])
        # A second time has no effect.
        self.assertEqual(api(self.server, "subscribe", user=user, channel=name), {})
        self.assertEqual(api(self.server, "unsubscribe", user=user, channel=name, client=ids[0]), {})
        clients[0].next("server unsubscribed", channel=name)
        sdk.post(self.server, name, 2)
        self.assertEqual(self.received(clients[1], name, 1), [(2, 2)])
        self.assertEqual(api(self.server, "unsubscribe", user=user, channel=name), {})
        clients[1].next("server unsubscribed", channel=name)
        self.assertNotIn("server subscribed", clients[0].kinds() + clients[1].kinds() + other.kinds())
        self.assertNotIn("server publication", clients[0].kinds() + other.kinds())

    def test_the_back_end_subscribes_a_user_until_a_time(self):
        user = f"user {self.id()}"
        client = self.client(tokens=[token(user)])
        client.next("connected")
        name = f"closed.{self.id()}"
        until = int(time.time()) + 3
        self.assertEqual(api(self.server, "subscribe", user=user, channel=name, expire_at=until), {})
        client.next("server subscribed", channel=name)
        client.next("server unsubscribed", channel=name)
        self.assertGreaterEqual(time.time(), until)
        self.assertNotIn("disconnected", client.kinds())
        for parameters, code in (
            ({"expire_at": int(time.time()) - 1}, 110),
            ({"b64info": "?"}, 107),
        ):
            error = api(self.server, "subscribe", user=user, channel=name, **parameters)
            self.assertEqual(error.get("code"), code, parameters)
        self.assertNotIn("server subscribed", client.kinds())

    def test_the_back_end_ends_a_subscription_of_a_client(self):
        user = f"user {self.id()}"
        client = self.client(tokens=[token(user, subscribe="*")])
        client.next("connected")
        name = f"ended.{self.id()}"
        client.subscribe(name)
        self.assertEqual(api(self.server, "unsubscribe", user=user, channel=name), {})
        self.assertEqual(client.next("unsubscribed", channel=name)["code"], 2000)

    def test_the_application_lets_a_client_in(self):
        client = self.client()
        for name in ("news", "sports"):
            client.next("server subscribed", channel=name)
        connected = client.next("connected")
        self.assertEqual(client.unpack(connected["data"]), {"hello": "carol"})
        body, _ = self.application.asked("/connect", client=connected["client"])
        self.assertEqual((body["transport"], body["protocol"]), ("websocket", "protobuf" if self.protobuf else "json"))
        self.assertEqual(body["name"], "js" if self.package == "centrifuge" else "python")
        # The client has the name that the application gave it.
        self.assertEqual(api(self.server, "disconnect", user="carol", client=connected["client"]), {})
        self.assertEqual(client.next("disconnected")["code"], 3503)


    def test_a_client_that_is_let_in_until_a_time_returns_by_itself(self):
        self.application.lifetime_s = 3
        self.addCleanup(setattr, self.application, "lifetime_s", None)
        client = self.client()
        first = client.next("connected")["client"]
        self.assertEqual(client.next("connecting", code=3005)["reason"], "connection expired")
        self.assertNotEqual(client.next("connected")["client"], first)
        self.assertNotIn("disconnected", client.kinds())


globals().update(sdk.for_each_sdk(Sdk))


class Session:
    """A connection in JSON."""

    def __init__(self, server):
        self.socket = connect(server.url(sdk.PATH), open_timeout=PATIENCE_S, max_size=None, ping_interval=None)
        self.lines = []

    def send(self, *commands):
        self.socket.send("\n".join(json.dumps(command) for command in commands))

    def take(self):
        while not self.lines:
            self.lines = self.socket.recv(PATIENCE_S).split("\n")
        return json.loads(self.lines.pop(0))

    def closed(self):
        """The code of the Close frame. Replies before it are dropped."""
        try:
            while True:
                self.socket.recv(PATIENCE_S)
        except ConnectionClosed as closed:
            return closed.rcvd.code

    def close(self):
        """Sends a Close frame and waits for no answer: it would be behind the messages that nobody has read, so that none came in
        the ten seconds that the library waits."""
        self.socket.close_timeout = 0
        self.socket.close()


class Wire(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = started(f"--hooks-connect={application.url('/connect')}", "--hooks-timeout=2s")
        cls.addClassCleanup(cls.server.__exit__)

    def session(self):
        session = Session(self.server)
        self.addCleanup(session.close)
        return session

    def connect(self, *, then=(), **parameters):
        session = self.session()
        session.send({"id": 1, "connect": parameters}, *then)
        return session, session.take()

    def error(self, **parameters):
        session, reply = self.connect(**parameters)
        return reply["error"]["code"]

    def test_commands_behind_the_connect_command_wait_for_it(self):
        names = [f"waits.{number}" for number in range(20)]
        publish = {"id": 2, "publish": {"channel": names[7], "data": "first"}}
        subscribe = {"id": 3, "subscribe": {"channel": names[8]}}
        session, connected = self.connect(token=token(channels=names, subscribe="*"), then=(publish, subscribe))
        self.assertEqual(sorted(connected["connect"]["subs"]), sorted(names))
        offset = connected["connect"]["subs"][names[7]].get("offset", 0)
        replies = [session.take() for _ in range(3)]
        self.assertIn({"id": 2, "publish": {}}, replies)
        self.assertIn({"id": 3, "error": {"code": 105, "message": "already subscribed"}}, replies)
        pushed = {"channel": names[7], "pub": {"data": "first", "offset": offset + 1}}
        self.assertIn({"push": pushed}, replies)

    def test_positions_are_recovered_in_the_answer(self):
        epoch = sdk.post(self.server, "recovered", 1)["epoch"]
        for number in range(2, 5):
            sdk.post(self.server, "recovered", number)
        for position, recovered, offsets in (
            ({"epoch": epoch, "offset": 1}, True, [2, 3, 4]),
            ({"epoch": epoch, "offset": 4}, True, []),
            ({"offset": 2}, True, [3, 4]),
            ({"epoch": "abcdef", "offset": 2}, False, []),
            ({"epoch": epoch, "offset": 99}, False, []),
        ):
            with self.subTest(position=position):
                wanted = {"recovered": {"recover": True, **position}}
                _, reply = self.connect(token=token(channels=["recovered"]), subs=wanted)
                subscribed = reply["connect"]["subs"]["recovered"]
                self.assertTrue(subscribed["was_recovering"])
                self.assertEqual(subscribed.get("recovered", False), recovered)
                self.assertEqual([each["offset"] for each in subscribed.get("publications", [])], offsets)
                self.assertEqual((subscribed["offset"], subscribed["epoch"]), (4, epoch))
        _, reply = self.connect(token=token(channels=["recovered"]), subs={"recovered": {"recover": True, "offset": 2**63}})
        self.assertEqual(reply["error"]["code"], 107)

    def test_a_long_history_follows_the_answer(self):
        text = "x" * 3000
        epoch = sdk.post(self.server, "long", [0, text])["epoch"]
        for number in range(1, 400):
            sdk.post(self.server, "long", [number, text])
        wanted = {"long": {"recover": True, "epoch": epoch, "offset": 1}}
        session, reply = self.connect(token=token(channels=["long", "other"]), subs=wanted)
        subscribed = reply["connect"]["subs"]["long"]
        self.assertTrue(subscribed["recovered"])
        publications = subscribed["publications"]
        while len(publications) < 399:
            publications.append(session.take()["push"]["pub"])
        self.assertEqual([each["data"][0] for each in publications], list(range(1, 400)))
        sdk.post(self.server, "long", "live")
        self.assertEqual(session.take()["push"]["pub"], {"data": "live", "offset": 401})

    def test_no_message_is_lost_while_subscriptions_begin(self):
        # Publications go on while clients connect: each is in the answer or behind it.
        names = [f"busy.{number}" for number in range(10)]
        publisher = self.session()
        publisher.send({"id": 1, "connect": {"token": token()}})
        publisher.take()
        for attempt in range(20):
            commands = [{"id": 2 + at, "publish": {"channel": name, "data": at}} for at, name in enumerate(names * 10)]
            publisher.send(*commands)
            session, reply = self.connect(token=token(channels=names))
            position = {name: sub.get("offset", 0) for name, sub in reply["connect"]["subs"].items()}
            for _ in commands:
                publisher.take()
            last = {name: 10 * (attempt + 1) for name in names}
            while position != last:
                push = session.take()["push"]
                self.assertEqual(push["pub"]["offset"], position[push["channel"]] + 1)
                position[push["channel"]] += 1

    def test_a_topic_that_is_for_the_operator_is_no_subscription_of_a_token(self):
        self.assertEqual(self.error(token=token(channels=["news", "closed"])), 103)
        self.assertEqual(self.error(token=token(channels=["a\nb"])), 107)
        # The session is not half open, and nothing is left of its subscriptions.
        session, reply = self.connect(token=token(channels=["left", "closed"]))
        self.assertEqual(reply["error"]["code"], 103)
        session.send({"id": 2, "connect": {"token": token(channels=["news"])}})
        self.assertEqual(list(session.take()["connect"]["subs"]), ["news"])
        sdk.post(self.server, "left", 1)
        sdk.post(self.server, "news", 1)
        self.assertEqual(session.take()["push"]["channel"], "news")

    def test_malformed_claims_are_an_invalid_token(self):
        for claims in ({"channels": "news"}, {"subs": ["news"]}, {"channels": [str(number) for number in range(129)]}):
            session = self.session()
            session.send({"id": 1, "connect": {"token": token(**claims)}})
            self.assertEqual(session.closed(), 3500, claims)

    def test_a_client_that_lags_loses_the_connection_and_recovers(self):
        session, reply = self.connect(token=token(channels=["lag"]))
        position = reply["connect"]["subs"]["lag"]
        text = "x" * 32 * 1024
        dropped = lambda: self.server.stats()["node"]["deliveries"]["dropped"]["disconnect"]
        before = dropped()
        # Its Close frame waits for it only so long.
        for number in range(600):
            sdk.post(self.server, "lag", [number, text])
            if number % 10 == 0 and dropped() > before:
                break
        received = []
        try:
            while True:
                received.append(session.take()["push"]["pub"]["offset"])
        except ConnectionClosed as closed:
            self.assertEqual(closed.rcvd.code, 3010)
        first = position.get("offset", 0) + 1
        self.assertEqual(received, list(range(first, first + len(received))))
        wanted = {"lag": {"recover": True, "epoch": position["epoch"], "offset": received[-1] if received else first - 1}}
        session, reply = self.connect(token=token(channels=["lag"]), subs=wanted)
        self.assertTrue(reply["connect"]["subs"]["lag"]["recovered"])

    def test_the_application_refuses_a_client(self):
        self.assertEqual(self.error(data={"error": 1000}), 1000)
        self.assertEqual(self.error(data={"error": 1001}), 1001)
        self.assertEqual(self.error(data="broken"), 100)
        self.assertEqual(self.error(data={"result": {"user": "dave", "channels": ["closed"]}}), 103)
        session = self.session()
        session.send({"id": 1, "connect": {"data": {"disconnect": 4501}}})
        self.assertEqual(session.closed(), 4501)
        session, reply = self.connect(data={"error": 1001})
        session.send({"id": 2, "connect": {"data": "nobody"}})
        self.assertEqual(list(session.take()["connect"]["subs"]), ["news"])

    def test_bytes_of_the_application_are_decoded_for_clients_that_speak_json(self):
        for sent, seen in [
            (b'{"a": [1]}', {"a": [1]}),
            (b"7", 7),
            (b"null", None),
            (b'"text"', "text"),
            ("gr\u00fc\u00df\n dich".encode(), "gr\u00fc\u00df\n dich"),
            (b'{"a": ', '{"a": '),
            (b"\x00\xff\xfe", "AP/+"),
        ]:
            with self.subTest(sent=sent):
                b64 = base64.b64encode(sent).decode()
                result = {"user": "carol", "b64data": b64, "subs": {"own": {"b64data": b64}}}
                session, reply = self.connect(data={"result": result})
                self.assertEqual(reply["connect"]["data"], seen)
                self.assertEqual(reply["connect"]["subs"]["own"]["data"], seen)
                subscribed = api(self.server, "subscribe", user="carol", channel="pushed", b64data=b64)
                self.assertEqual((subscribed, session.take()["push"]["subscribe"]["data"]), ({}, seen))
                session.close()

    def test_a_client_without_a_name_has_subscriptions_too(self):
        _, reply = self.connect(data="nobody")
        self.assertEqual(list(reply["connect"]["subs"]), ["news"])
        self.assertNotIn("expires", reply["connect"])

    def test_the_application_says_when_a_connection_expires(self):
        session, reply = self.connect(data={"result": {"user": "erin", "expire_at": int(time.time()) + 3}})
        # There is no token to refresh.
        self.assertEqual(reply["connect"].keys() & {"expires", "ttl"}, set())
        self.assertEqual(session.closed(), 3005)

    def test_a_token_is_checked_as_ever_where_there_is_a_hook(self):
        session, reply = self.connect(token=token("frank"))
        self.assertIn("connect", reply)
        session = self.session()
        session.send({"id": 1, "connect": {"token": "wrong"}})
        self.assertEqual(session.closed(), 3500)

    def test_a_snapshot_follows_the_answer(self):
        headers = {"Authorization": f"Bearer {token()}"}
        url = self.server.url("/broadcast")
        with connect(url, subprotocols=["echoring.v1.json"], additional_headers=headers) as publisher:
            for key in ("EUR", "JPY"):
                publisher.send(json.dumps({"type": "publish", "id": 1, "topic": "prices.now", "key": key, "data": key}))
                publisher.recv(PATIENCE_S)
        session, reply = self.connect(token=token(channels=["prices.now"]))
        subscribed = reply["connect"]["subs"]["prices.now"]
        self.assertNotIn("publications", subscribed)
        keys = [session.take()["push"]["pub"]["key"] for _ in range(2)]
        self.assertEqual(keys, ["EUR", "JPY"])


class Off(unittest.TestCase):
    def test_without_authentication_the_application_names_clients(self):
        with Server("--config", options[1], f"--hooks-connect={application.url('/connect')}") as server:
            session = Session(server)
            session.send({"id": 1, "connect": {"data": {"result": {"user": "gina", "channels": ["news"]}}}})
            reply = session.take()
            self.assertEqual(list(reply["connect"]["subs"]), ["news"])
            self.assertEqual(api(server, "disconnect", user="gina"), {})
            self.assertEqual(session.closed(), 3503)


if __name__ == "__main__":
    unittest.main()
