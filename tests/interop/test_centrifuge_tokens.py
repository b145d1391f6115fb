"""Tokens of subscriptions of Centrifuge's client protocol, with unmodified SDKs, and with raw messages."""

import json
import os
import time
import unittest

import jwt
import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_files
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CONFIGURATION = """
[topic_defaults]
subscribe = "claim"
history = "claim"
publish = "everybody"
history_messages = 1000

[[topics]]
pattern = "closed"
subscribe = "operator"

[[topics]]
pattern = "room"
presence = "claim"

[[topics]]
pattern = "open"
subscribe = "everybody"
"""


# As closed as Centrifugo is without options, but for the namespace "chat".
CLOSED = """
allow_origin = ["https://app.example"]

[auth]
jwt_key = "KEY"

[topic_defaults]
subscribe = "claim"
publish = "operator"
history = "claim"

# Channels of users, in front of the tables that open namespaces: the first pattern that matches decides.
[[topics]]
pattern = "*#*"

# The namespace "chat", with allow_subscribe_for_client and allow_publish_for_client.
[[topics]]
pattern = "chat:*"
subscribe = "authenticated"
publish = "authenticated"
presence = "authenticated"
history = "authenticated"
history_messages = 100
history_age = "5m"
"""


def token(channel, seconds=600, subject="alice", **claims):
    """A token of a subscription."""
    claims = {"channel": channel, "sub": subject, "exp": int(time.time()) + seconds, **claims}
    return jwt.encode(claims, sdk.SECRET, "HS256")


def setUpModule():
    global options
    configuration, secret = unittest.enterModuleContext(text_files(echoring_toml=CONFIGURATION, secret=sdk.SECRET))
    options = ("--config", configuration, "--auth-jwt-key", secret)


def command(socket, name, parameters, id=1):
    socket.send(json.dumps({"id": id, name: parameters}))
    return json.loads(socket.recv(PATIENCE_S))


def session(test):
    """A raw connection to the server of a test, and what the server said of it."""
    socket = connect(test.server.url(sdk.PATH), open_timeout=PATIENCE_S)
    test.addCleanup(socket.close)
    return socket, command(socket, "connect", {"token": sdk.token()})["connect"]


class Sdk(sdk.SdkTests):
    @staticmethod
    def start():
        return Server(*options)

    def connected(self):
        return super().connected(tokens=[sdk.token()])

    def test_a_token_lets_a_client_subscribe(self):
        client = self.connected()
        client.start("subscribe", channel="news")
        self.assertEqual(client.next("unsubscribed", channel="news")["code"], 103)
        subscribed = client.subscribe("weather", tokens=[token("weather", data={"hello": 1})], recoverable=True)
        self.assertTrue(subscribed["recoverable"])
        self.assertEqual(client.unpack(subscribed["data"]), {"hello": 1})
        client.publish("weather", "sunny")
        self.assertEqual(client.publications("weather", 1), [(1, "sunny")])
        history = client.do("history", channel="weather", limit=10)
        self.assertEqual([client.unpack(publication["data"]) for publication in history["publications"]], ["sunny"])

    def test_a_token_is_refreshed_before_the_subscription_expires(self):
        client = self.connected()
        client.subscribe("short", tokens=[token("short", 6), token("short", 600)])
        client.next("subscription token", channel="short")
        # A subscription that expires later, and is not refreshed, has ended.
        socket, _ = session(self)
        command(socket, "subscribe", {"channel": "ends", "token": token("ends", 6)})
        self.assertEqual(json.loads(socket.recv(PATIENCE_S))["push"]["unsubscribe"]["code"], 2501)
        client.publish("short", "still here")
        self.assertEqual(client.publications("short", 1)[0][1], "still here")
        self.assertNotIn("unsubscribed", client.kinds())
        self.assertNotIn("subscribing", [event["event"] for event in client.events if event.get("code", 0) >= 2000])

    def test_an_expired_token_is_replaced(self):
        client = self.connected()
        client.subscribe("late", tokens=[token("late", -1), token("late", 600)])
        client.next("subscription token", channel="late")
        client.publish("late", 1)
        self.assertEqual(client.publications("late", 1), [(1, 1)])

    def test_a_subscription_without_a_fresh_token_ends(self):
        client = self.connected()
        client.subscribe("ending", tokens=[token("ending", 3)])
        client.next("subscription token", channel="ending")
        self.assertIn(client.next("unsubscribed", channel="ending")["code"], (1, 2501))
        client.subscribe("open")


globals().update(sdk.for_each_sdk(Sdk))


class Wire(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*options)
        cls.addClassCleanup(cls.server.__exit__)

    def session(self):
        return session(self)

    command = staticmethod(command)

    def test_a_token_is_for_one_topic_and_one_client(self):
        socket, connected = self.session()
        for wrong in (
            token("other"),
            token("news", subject="bob"),
            token("news", client="0"),
            token("news", aud="elsewhere"),
            sdk.token(),
            "no token",
            jwt.encode({"channel": "news", "sub": "alice", "exp": int(time.time()) + 600}, "x" * 32, "HS256"),
        ):
            reply = self.command(socket, "subscribe", {"channel": "news", "token": wrong})
            self.assertEqual(reply["error"]["code"], 103, wrong)
        reply = self.command(socket, "subscribe", {"channel": "closed", "token": token("closed")})
        self.assertEqual(reply["error"]["code"], 103)
        reply = self.command(socket, "subscribe", {"channel": "news", "token": token("news", -1)})
        self.assertEqual(reply["error"]["code"], 109)
        past = token("news", expire_at=int(time.time()) - 1)
        reply = self.command(socket, "subscribe", {"channel": "news", "token": past})
        self.assertEqual(reply["error"]["code"], 110)
        own = token("news", client=connected["client"], expire_at=0)
        reply = self.command(socket, "subscribe", {"channel": "news", "token": own})
        self.assertNotIn("expires", reply["subscribe"])

    def test_a_token_includes_the_list_of_members(self):
        socket, connected = self.session()
        reply = self.command(socket, "subscribe", {"channel": "room", "token": token("room")})
        self.assertIn("subscribe", reply)
        reply = self.command(socket, "presence", {"channel": "room"})
        self.assertEqual(list(reply["presence"]["presence"]), [connected["client"]])
        self.assertEqual(self.command(socket, "presence_stats", {"channel": "room"})["presence_stats"]["num_clients"], 1)

    def test_a_token_of_a_subscription_does_not_open_a_connection(self):
        with connect(self.server.url(sdk.PATH), open_timeout=PATIENCE_S) as socket:
            with self.assertRaises(ConnectionClosed) as closed:
                self.command(socket, "connect", {"token": token("news")})
            self.assertEqual(closed.exception.rcvd.code, 3500)

    def test_an_expired_subscription_ends_and_a_refreshed_one_stays(self):
        socket, _ = self.session()
        for channel in ("ends", "stays"):
            reply = self.command(socket, "subscribe", {"channel": channel, "token": token(channel, 3)})
            self.assertTrue(reply["subscribe"]["expires"])
            self.assertLessEqual(reply["subscribe"]["ttl"], 3)
        reply = self.command(socket, "sub_refresh", {"channel": "stays", "token": token("stays")})
        self.assertTrue(reply["sub_refresh"]["expires"])
        self.assertGreater(reply["sub_refresh"]["ttl"], 500)
        for channel, wrong, code in (
            ("stays", token("ends"), 103),
            ("stays", token("stays", -1), 109),
            ("stays", "", 103),
            ("unknown", token("unknown"), 103),
        ):
            reply = self.command(socket, "sub_refresh", {"channel": channel, "token": wrong})
            self.assertEqual(reply["error"]["code"], code)
        ended = json.loads(socket.recv(PATIENCE_S))
        expected = {"channel": "ends", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}
        self.assertEqual(ended, {"push": expected})
        reply = self.command(socket, "history", {"channel": "stays", "limit": 0})
        self.assertIn("history", reply)
        reply = self.command(socket, "history", {"channel": "ends", "limit": 0})
        self.assertEqual(reply["error"]["code"], 103)

    def test_without_keys_there_are_no_such_tokens(self):
        path = os.path.join(os.path.dirname(options[1]), "tokens.toml")
        with open(path, "w") as file:
            file.write('[[tokens]]\ntoken = "a-static-token-of-some-length"\nsubject = "alice"\n')
        with Server("--auth-tokens", path) as server:
            with connect(server.url(sdk.PATH), open_timeout=PATIENCE_S) as socket:
                self.command(socket, "connect", {"token": "a-static-token-of-some-length"})
                reply = self.command(socket, "subscribe", {"channel": "news", "token": token("news")})
                self.assertEqual(reply["error"]["code"], 108)


class ComingFromCentrifugo(unittest.TestCase):
    """A configuration as closed as Centrifugo's stays closed for tokens that name nothing."""

    @classmethod
    def setUpClass(cls):
        path = os.path.join(os.path.dirname(options[1]), "closed.toml")
        with open(path, "w") as file:
            file.write(CLOSED.replace("KEY", options[3]))
        cls.server = Server("--config", path, "--shards", "2")
        cls.addClassCleanup(cls.server.__exit__)

    def session(self, **claims):
        """A function that gives a command, and returns the code of its error, or `None`."""
        socket = connect(self.server.url(sdk.PATH), open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        claims = {"sub": "alice", "exp": int(time.time()) + 600, **claims}

        def command(name, **parameters):
            socket.send(json.dumps({"id": 1, name: parameters}))
            lines = []
            while not any(reply.get("id") == 1 for reply in lines):
                lines += [json.loads(line) for line in socket.recv(PATIENCE_S).split("\n")]
            reply = next(reply for reply in lines if reply.get("id") == 1)
            return reply.get("error", {}).get("code")

        self.assertIsNone(command("connect", token=jwt.encode(claims, sdk.SECRET, "HS256")))
        return command

    def test_a_token_of_some_user_opens_nothing_that_no_table_opens(self):
        command = self.session()
        for channel in ("news", "$private", "$chat:x", "chat:x#bob", "chat:x#alice,bob", "#bob", "other:x"):
            self.assertEqual(command("subscribe", channel=channel), 103, channel)
            self.assertEqual(command("publish", channel=channel, data=1), 103, channel)
        for name in ("history", "presence"):
            self.assertEqual(command(name, channel="news"), 103)
        self.assertIsNone(command("subscribe", channel="chat:x"))
        self.assertIsNone(command("publish", channel="chat:x", data=1))
        self.assertIsNone(command("presence", channel="chat:x"))
        self.assertIsNone(command("history", channel="chat:x", limit=1))

    def test_what_tokens_name_is_open(self):
        command = self.session(channels=["own:7"], subscribe=["*#alice"])
        self.assertIsNone(command("subscribe", channel="chat:x#alice"))
        self.assertEqual(command("subscribe", channel="chat:x#bob"), 103)
        self.assertIsNone(command("subscribe", channel="$private", token=token("$private")))
        self.assertEqual(command("subscribe", channel="$private", token=token("$private", subject="bob")), 103)
        self.assertIsNone(command("history", channel="own:7", limit=1))

    def test_nobody_without_a_token_is_let_in(self):
        with connect(self.server.url(sdk.PATH), open_timeout=PATIENCE_S) as socket:
            socket.send('{"id":1,"connect":{}}')
            self.assertEqual(json.loads(socket.recv(PATIENCE_S))["error"]["code"], 101)


if __name__ == "__main__":
    unittest.main()
