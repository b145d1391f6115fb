"""Servers with configurations that `import-centrifugo` has written: what was closed there is closed, what was open is open.

The configurations are those of tests/program/import.rs, with their own secrets."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
import unittest

import jwt
import test_centrifuge as sdk
from harness import BINARY, PATIENCE_S, Server, request
from test_centrifuge_hooks import Service
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CONFIGURATIONS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "program", "import")


@contextlib.contextmanager
def imported(name, **replaced):
    """A server with an imported configuration, in which words are replaced."""
    with open(os.path.join(CONFIGURATIONS, name)) as file:
        text = file.read()
    for word, replacement in replaced.items():
        text = text.replace(word, replacement)
    with tempfile.TemporaryDirectory() as folder:
        path, secrets, out = (os.path.join(folder, part) for part in (name, "secrets", "echoring.toml"))
        with open(path, "w") as file:
            file.write(text)
        command = [BINARY, "import-centrifugo", path, "--secrets-dir", secrets, "--out", out]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        with Server("--config", out) as server:
            yield server


def token(secret, user="alice", **claims):
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600, **claims}, secret, "HS256")


class Session:
    """A raw connection."""

    def __init__(self, test, server, connect_parameters):
        self.socket = connect(server.url(sdk.PATH), open_timeout=PATIENCE_S)
        test.addCleanup(self.socket.close)
        self.connected = self.ask("connect", **connect_parameters)

    def ask(self, name, **parameters):
        """The reply to a command. Pushes before it are dropped."""
        self.socket.send(json.dumps({"id": 1, name: parameters}))
        while True:
            reply = json.loads(self.socket.recv(PATIENCE_S))
            if reply.get("id") == 1:
                return reply

    def code(self, name, channel, **parameters):
        """The code of the error of a command; None if it succeeds."""
        return self.ask(name, channel=channel, **parameters).get("error", {}).get("code")

    def publish(self, channel):
        return self.code("publish", channel, data={"a": 1})


class Imported(unittest.TestCase):
    maxDiff = None

    def publish_by_api(self, server, key, channel):
        body = json.dumps({"channel": channel, "data": {"hello": 1}})
        headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        status, _, body = request(server.admin, "POST", "/api/publish", body, headers)
        return json.loads(body).get("error") if status == 200 else status

    def test_a_laravel_application(self):
        secret = "hmac-of-laravel-0123456789-0123456789"
        with imported("laravel.json") as server:
            alice = Session(self, server, {"token": token(secret)})
            # Every user subscribes to everything without a namespace, and only the back end publishes.
            self.assertIsNone(alice.code("subscribe", "orders"))
            self.assertEqual(alice.publish("orders"), 103)
            self.assertIsNone(alice.code("presence", "orders"))
            self.assertEqual(alice.code("history", "orders", limit=10), 103)
            self.assertEqual(alice.code("subscribe", "$private"), 103)
            private = token(secret, channel="$private")
            self.assertIsNone(alice.code("subscribe", "$private", token=private))
            self.assertEqual(alice.code("subscribe", "orders:7"), 102)
            self.assertEqual(alice.publish("orders:7"), 102)
            # Nobody else is let in.
            self.assertEqual(Session(self, server, {}).connected["error"]["code"], 101)
            # The back end has its key.
            self.assertIsNone(self.publish_by_api(server, "api-key-of-laravel-0123456789", "orders"))
            for key in ("", "another-0123456789"):
                self.assertEqual(self.publish_by_api(server, key, "orders"), 401)
            # The sites that were listed, and no others.
            for origin, status in (("http://localhost:8080", None), ("http://evil.example", 403)):
                try:
                    connect(server.url(sdk.PATH), origin=origin, open_timeout=PATIENCE_S).close()
                    refused = None
                except InvalidStatus as error:
                    refused = error.response.status_code
                self.assertEqual(refused, status, origin)

    def test_an_open_chat_beside_a_live_stream(self):
        secret = "hmac-of-livestream-0123456789-0123456789"
        with imported("livestream.toml") as server:
            anonymous = Session(self, server, {})
            self.assertIsNone(anonymous.code("subscribe", "stream"))
            self.assertEqual(anonymous.publish("stream"), 103)
            self.assertIsNone(anonymous.code("history", "stream", limit=10))
            self.assertEqual(anonymous.code("presence", "stream"), 103)
            self.assertIsNone(anonymous.publish("reactions:heart"))
            self.assertEqual(anonymous.code("subscribe", "other:heart"), 102)
            for key in (secret, "older-hmac-of-livestream-0123456789"):
                alice = Session(self, server, {"token": token(key)})
                self.assertIsNone(alice.code("subscribe", "stream"))
                self.assertIsNone(alice.publish("stream"))
                self.assertIsNone(alice.code("presence", "stream"))
            for origin, is_open in (
                ("https://live.example", True),
                ("https://eu.live.example", True),
                ("https://live.example.evil", False),
                ("http://localhost:3000", False),
            ):
                try:
                    connect(server.url(sdk.PATH), origin=origin, open_timeout=PATIENCE_S).close()
                    self.assertTrue(is_open, origin)
                except InvalidStatus as error:
                    self.assertEqual((error.response.status_code, is_open), (403, False), origin)

    def test_a_messenger_with_personal_channels(self):
        secret = "hmac-of-messenger-0123456789-0123456789"
        with imported("messenger.json") as server:
            alice, bob = (Session(self, server, {"token": token(secret, user)}) for user in ("alice", "bob"))
            self.assertEqual(list(alice.connected["connect"]["subs"]), ["personal:#alice"])
            self.assertEqual(list(bob.connected["connect"]["subs"]), ["personal:#bob"])
            # Channels of users are for those in their names.
            self.assertIsNone(alice.code("subscribe", "personal:7#bob,alice"))
            self.assertIsNone(bob.code("subscribe", "personal:7#bob,alice"))
            for channel in ("personal:#bob", "personal:7#bob", "personal:7", "anything", "$personal:#alice"):
                self.assertEqual(alice.code("subscribe", channel), 103, channel)
            self.assertEqual(alice.publish("personal:#alice"), 103)
            self.assertEqual(alice.code("subscribe", "rooms:7"), 102)
            self.assertIsNone(self.publish_by_api(server, "api-key-of-messenger-0123456789", "personal:#alice"))
            pushed = json.loads(alice.socket.recv(PATIENCE_S))["push"]
            self.assertEqual((pushed["channel"], pushed["pub"]["data"]), ("personal:#alice", {"hello": 1}))

    def test_a_rails_application_that_is_asked(self):
        class Application(Service):
            def answer(self, path, body):
                if path == "/centrifugo/connect":
                    return 200, {"result": {"user": "alice"}}
                is_allowed = body.get("channel") in ("chat:1", None)
                return 200, {"result": {}} if is_allowed else {"error": {"code": 1000, "message": "no"}}

        application = Application()
        self.addCleanup(application.close)
        with imported("rails.yaml", **{"http://localhost:3000": application.url("")}) as server:
            alice = Session(self, server, {})
            self.assertEqual(application.asked("/centrifugo/connect")[0]["client"], alice.connected["connect"]["client"])
            self.assertIsNone(alice.code("subscribe", "chat:1"))
            self.assertIsNone(alice.publish("chat:1"))
            self.assertEqual(alice.code("subscribe", "chat:2"), 1000)
            self.assertEqual(alice.publish("chat:2"), 1000)
            self.assertIsNone(alice.code("subscribe", "news:today"))
            self.assertEqual(alice.publish("news:today"), 103)
            self.assertEqual(alice.code("subscribe", "anything"), 103)
            self.assertEqual(alice.code("subscribe", "rooms:1"), 102)
            self.assertNotIn("error", alice.ask("rpc", method="sum", data=[1, 2]))


class Sdk(sdk.SdkTests):
    """A messenger as its SDK sees it."""

    SECRET = "hmac-of-messenger-0123456789-0123456789"

    @classmethod
    def start(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        return stack.enter_context(imported("messenger.json"))

    def client(self, url=None, tokens=()):
        client = super().client(url, tokens)
        client.start("connect")
        return client

    def test_a_user_gets_what_is_published_to_the_personal_channel(self):
        client = self.client(tokens=[token(self.SECRET)])
        client.next("server subscribed", channel="personal:#alice")
        client.start("subscribe", channel="personal:#bob")
        self.assertEqual(client.next("unsubscribed", channel="personal:#bob")["code"], 103)
        client.start("subscribe", channel="rooms:7")
        self.assertEqual(client.next("unsubscribed", channel="rooms:7")["code"], 102)


globals().update(sdk.for_each_sdk(Sdk))
