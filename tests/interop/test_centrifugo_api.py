"""Centrifugo's HTTP API on the admin address, with requests as the public client libraries send them."""

import base64
import contextlib
import json
import os
import tempfile
import time
import unittest

import jwt
from harness import PATIENCE_S, Server, request, token_file
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

KEY = "a-key-for-back-ends-of-centrifugo"
READ_KEY = "a-key-for-dashboards-that-only-read"
SECRET = "a secret of at least thirty-two bytes"
CLIENTS = "/connection/websocket"
CONFIGURATION = """
[[topics]]
pattern = "rooms.*"
presence = "everybody"

[[topics]]
pattern = "empty.*"
history_messages = 0

[[topics]]
pattern = "prices.*"
slow = "conflate"

[[topics]]
pattern = "ours.*"
publish = "operator"
"""


class Subscriber:
    """A client of Centrifuge's protocol in JSON."""

    def __init__(self, server, *channels, user=None):
        self.socket = connect(server.url(CLIENTS), open_timeout=PATIENCE_S)
        params = {}
        if user:
            claims = {"sub": user, "exp": int(time.time()) + 600}
            params["token"] = jwt.encode(claims, SECRET, "HS256")
        self.last_id, self.lines = 0, []
        self.client = self.do(connect=params)["connect"]["client"]
        for channel in channels:
            self.do(subscribe={"channel": channel})

    def take(self):
        """The next reply or push, as text. Pings of the protocol are answered."""
        while True:
            while not self.lines:
                self.lines = [line for line in self.socket.recv(PATIENCE_S).split("\n") if line]
            line = self.lines.pop(0)
            if line != "{}":
                return line
            self.socket.send("{}")

    def do(self, **command):
        self.last_id += 1
        self.socket.send(json.dumps({"id": self.last_id, **command}))
        while True:
            reply = json.loads(self.take())
            if reply.get("id") == self.last_id:
                assert "error" not in reply, reply
                return reply

    def publication(self):
        return json.loads(self.take())["push"]["pub"]

    def close_code(self):
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.socket.recv(PATIENCE_S)
        return self.socket.close_code, self.socket.close_reason

    def close(self):
        self.socket.close()


def post(server, path, body, headers=None):
    """Sends a request. Returns the status and the body."""
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": KEY} if headers is None else headers)
    status, _, body = request(server.admin, "POST", path, body, headers)
    return status, body


class ApiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        configuration, secret = (os.path.join(directory, name) for name in ("echoring.toml", "secret"))
        for path, content in ((configuration, CONFIGURATION), (secret, SECRET)):
            with open(path, "w") as file:
                file.write(content)
        flags = ("--config", configuration, "--auth-jwt-key", secret, "--auth-anonymous", "--shards", "2")
        flags += ("--admin-token-file", stack.enter_context(token_file(KEY)))
        flags += ("--admin-read-token-file", stack.enter_context(token_file(READ_KEY)))
        cls.flags = flags
        cls.server = stack.enter_context(Server(*flags))

    def subscriber(self, *channels, user=None):
        subscriber = Subscriber(self.server, *channels, user=user)
        self.addCleanup(subscriber.close)
        return subscriber

    def call(self, method, **parameters):
        """A method as `cent` and `gocent` call it: the parameters are the body. Returns the result."""
        status, body = post(self.server, f"/api/{method}", parameters)
        self.assertEqual(status, 200, body)
        reply = json.loads(body)
        self.assertEqual(list(reply), ["result"])
        return reply["result"]

    def fails(self, code, method, **parameters):
        status, body = post(self.server, f"/api/{method}", parameters)
        error = json.loads(body)["error"]
        self.assertEqual((status, error["code"]), (200, code), error)
        self.assertIsInstance(error["message"], str)


class Methods(ApiTest):
    def test_a_publication_reaches_subscribers_byte_for_byte(self):
        subscriber = self.subscriber("news")
        raw = '{"channel": "news", "data": {"a" : [1e400, "\\u00e4"]}}'
        status, body = post(self.server, "/api/publish", raw)
        self.assertEqual(status, 200)
        result = json.loads(body)["result"]
        push = subscriber.take()
        self.assertIn('"data":{"a" : [1e400, "\\u00e4"]}', push)
        self.assertEqual(json.loads(push)["push"]["pub"]["offset"], result["offset"])
        self.assertRegex(result["epoch"], "^[0-9a-f]+$")

    def test_publications_are_ordered_with_those_of_the_admin_address(self):
        first = self.call("publish", channel="mixed", data=1)
        status, body = post(self.server, "/topics/mixed", "2", {"Authorization": f"Bearer {KEY}"})
        self.assertEqual((status, json.loads(body)["offset"]), (200, first["offset"] + 1))
        self.assertEqual(json.loads(body)["epoch"], first["epoch"])

    def test_data_in_base64_is_what_its_bytes_are(self):
        subscriber = self.subscriber("bytes")
        for data, expected in (
            (b'{"a":1}', {"a": 1}),
            (b"hello", "hello"),
            (b"\xff\x00", "/wA="),
            # JSON but for the encoding of its text.
            (b'"\xff"', "Iv8i"),
            (b'{"a":"\xed\xa0\x80"}', "eyJhIjoi7aCAIn0="),
        ):
            self.call("publish", channel="bytes", b64data=base64.b64encode(data).decode(), data="")
            self.assertEqual(subscriber.publication()["data"], expected)
        self.call("publish", channel="bytes", b64data="")
        self.assertEqual(subscriber.publication()["data"], "")

    def test_a_publication_with_an_idempotency_key_is_published_once(self):
        publish = {"channel": "orders", "data": {"buy": 3}, "idempotency_key": "5f0c"}
        first = self.call("publish", **publish)
        self.assertEqual(self.call("publish", **publish), first)
        self.fails(107, "publish", **{**publish, "data": {"buy": 4}})
        # Per channel.
        self.assertEqual(self.call("publish", **{**publish, "channel": "orders.2"})["offset"], 1)

    def test_a_broadcast_has_a_response_for_each_channel(self):
        one, two = self.subscriber("many.1"), self.subscriber("many.2")
        responses = self.call("broadcast", channels=["many.1", "", "many.2", "prices.x"], data={"n": 1})["responses"]
        self.assertEqual([list(response) for response in responses], [["result"], ["error"], ["result"], ["error"]])
        self.assertEqual([responses[n]["error"]["code"] for n in (1, 3)], [107, 107])
        for subscriber, response in ((one, responses[0]), (two, responses[2])):
            publication = subscriber.publication()
            self.assertEqual((publication["data"], publication["offset"]), ({"n": 1}, response["result"]["offset"]))

    def test_history_is_read_from_both_ends(self):
        for number in range(1, 11):
            position = self.call("publish", channel="kept", data=number)
        epoch = position["epoch"]
        since = {"offset": 4, "epoch": epoch}
        for parameters, expected in [
            ({}, []),
            ({"limit": 0}, []),
            ({"limit": -1}, range(1, 11)),
            ({"limit": 3}, range(1, 4)),
            ({"limit": 3, "reverse": True}, range(10, 7, -1)),
            ({"limit": 3, "since": since}, range(5, 8)),
            ({"limit": 100, "since": since, "reverse": True}, range(3, 0, -1)),
        ]:
            with self.subTest(**parameters):
                publications = [{"data": number, "offset": number} for number in expected]
                result = self.call("history", channel="kept", **parameters)
                self.assertEqual(result, {"publications": publications, "offset": 10, "epoch": epoch})
        self.fails(112, "history", channel="kept", limit=1, since={"offset": 4, "epoch": "f00d"})
        self.fails(108, "history", channel="empty.x", limit=1)
        unknown = self.call("history", channel="nobody has published here", limit=10)
        self.assertEqual(unknown, {"publications": [], "offset": 0, "epoch": ""})

    def test_a_long_history_is_read_in_parts(self):
        for number in range(40):
            self.call("publish", channel="long", data=[number, "x" * 8_000])
        seen, since = [], None
        while True:
            result = self.call("history", channel="long", limit=-1, **({"since": since} if since else {}))
            if not result["publications"]:
                break
            seen += [publication["data"][0] for publication in result["publications"]]
            since = {"offset": result["publications"][-1]["offset"], "epoch": result["epoch"]}
        # As many as the topic keeps.
        self.assertEqual(seen, list(range(seen[0], 40)))

    def test_presence_has_the_subscribers_of_all_shards(self):
        users = ("alice", "alice", "bob", None)
        subscribers = [self.subscriber("rooms.blue", user=user) for user in users]
        presence = self.call("presence", channel="rooms.blue")["presence"]
        expected = {
            subscriber.client: {"client": subscriber.client, "user": user or ""}
            for subscriber, user in zip(subscribers, users)
        }
        self.assertEqual(presence, expected)
        stats = self.call("presence_stats", channel="rooms.blue")
        self.assertEqual(stats, {"num_clients": 4, "num_users": 3})
        self.assertEqual(self.call("presence", channel="rooms.void"), {"presence": {}})
        self.fails(108, "presence", channel="plain")
        self.fails(108, "presence_stats", channel="plain")

    def test_channels_with_subscribers_are_listed(self):
        _subscribers = [self.subscriber("listed:1", "listed:2"), self.subscriber("listed:2")]
        self.call("publish", channel="listed:3", data=1)
        channels = self.call("channels", pattern="listed:*")["channels"]
        self.assertEqual(channels, {"listed:1": {"num_clients": 1}, "listed:2": {"num_clients": 2}})
        self.assertGreaterEqual(set(self.call("channels")["channels"]), set(channels))

    def test_info_is_about_the_node(self):
        self.subscriber("counted")
        (node,) = self.call("info")["nodes"]
        self.assertGreaterEqual(node["num_clients"], 1)
        self.assertGreaterEqual(node["num_subs"], 1)
        self.assertGreaterEqual(node["num_channels"], 1)
        self.assertEqual(node["version"], self.server_version())
        self.assertTrue(node["uid"] and node["name"])
        self.assertIsInstance(node["uptime"], int)

    def server_version(self):
        _, _, body = self.server.get("/stats", headers={"Authorization": f"Bearer {READ_KEY}"})
        return json.loads(body)["version"]

    def test_a_user_is_disconnected_on_all_shards(self):
        gone = [self.subscriber(user="carol") for _ in range(4)]
        stays = self.subscriber("stays", user="carola")
        self.assertEqual(self.call("disconnect", user="carol"), {})
        for subscriber in gone:
            self.assertEqual(subscriber.close_code(), (3503, "force disconnect"))
        self.call("publish", channel="stays", data=1)
        self.assertEqual(stays.publication()["data"], 1)
        self.assertEqual(self.call("disconnect", user="nobody"), {})

    def test_one_client_of_a_user_is_disconnected(self):
        one, two, three = (self.subscriber("left", user="dave") for _ in range(3))
        self.call("disconnect", user="eve", client=one.client)
        self.call("disconnect", user="dave", client=one.client, disconnect={"code": 4400, "reason": "upgrade"})
        self.assertEqual(one.close_code(), (4400, "upgrade"))
        self.call("disconnect", user="dave", whitelist=[two.client])
        self.assertEqual(three.close_code(), (3503, "force disconnect"))
        self.call("publish", channel="left", data=1)
        self.assertEqual(two.publication()["data"], 1)

    def test_a_user_of_a_server_that_drains_is_reached_through_its_successor(self):
        flags = (*self.flags, "--drain", "24h")
        with Server(*flags) as first:
            user, others = Subscriber(first, user="alice"), [Subscriber(first, user=name) for name in ("alice", "bob")]
            admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
            with Server(*flags, "--takeover", admin=admin, listen=listen) as successor:

                def call(method, **parameters):
                    status, body = post(successor, f"/api/{method}", parameters)
                    self.assertEqual((status, json.loads(body)), (200, {"result": {}}), method)

                whose = {"user": "alice", "client": user.client}
                call("subscribe", channel="rooms.b", data={"why": "invited", "n": 1.10}, **whose)
                pushed = json.loads(user.take())["push"]
                self.assertEqual((pushed["channel"], pushed["subscribe"]["data"]), ("rooms.b", {"why": "invited", "n": 1.1}))
                post(successor, "/api/publish", {"channel": "rooms.b", "data": 1})
                # Its own entry to the topic, which has presence, may come first.
                while "pub" not in (pushed := json.loads(user.take())["push"]):
                    self.assertIn("join", pushed)
                self.assertEqual(pushed["pub"]["data"], 1)
                call("unsubscribe", channel="rooms.b", **whose)
                self.assertIn("unsubscribe", json.loads(user.take())["push"])
                call("disconnect", user="alice", whitelist=[others[0].client])
                self.assertEqual(user.close_code(), (3503, "force disconnect"))
                others[0].do(ping={})
                call("disconnect", user="alice", disconnect={"code": 4400, "reason": "upgrade"})
                self.assertEqual(others[0].close_code(), (4400, "upgrade"))
                others[1].close()
                self.assertEqual(first.wait(), 0)
                call("disconnect", user="bob")

    def test_methods_that_do_not_exist_here_are_errors(self):
        for method in ("rpc", "nothing", "publish/more"):
            self.fails(104, method)
        self.fails(107, "publish", channel="", data=1)
        self.fails(107, "publish", channel="prices.a", data=1)
        self.fails(106, "publish", channel="a", data="x" * (70 * 1024))

    def test_topics_that_clients_may_not_publish_to_are_for_back_ends(self):
        self.assertEqual(self.call("publish", channel="ours.feed", data=1)["offset"], 1)


class Forms(ApiTest):
    def test_a_batch_has_a_reply_for_each_command(self):
        commands = [
            {"publish": {"channel": "batch", "data": 1}},
            {"publish": {"channel": "", "data": 1}},
            {"broadcast": {"channels": ["batch"], "data": 2}},
            {"history": {"channel": "batch", "limit": -1}},
            {"nothing": {}},
        ]
        for parallel in (False, True):
            status, body = post(self.server, "/api/batch", {"commands": commands, "parallel": parallel})
            self.assertEqual(status, 200)
            replies = json.loads(body)["replies"]
            self.assertEqual([list(reply) for reply in replies], [["publish"], ["error"], ["broadcast"], ["history"], ["error"]])
            self.assertEqual([reply["error"]["code"] for reply in replies if "error" in reply], [107, 104])
            offset = replies[0]["publish"]["offset"]
            self.assertEqual(replies[2]["broadcast"]["responses"][0]["result"]["offset"], offset + 1)
            self.assertEqual(replies[3]["history"]["offset"], offset + 1)

    def test_commands_of_older_versions_are_lines(self):
        commands = [
            {"method": "publish", "params": {"channel": "lines", "data": {"n": 1}}},
            {"id": 7, "method": "publish", "params": {"channel": "lines", "data": {"n": 2}}},
            {"method": "history", "params": {"channel": "lines", "limit": 10}},
            {"method": "info"},
            {"method": "nothing", "params": {}},
        ]
        status, body = post(self.server, "/api", "\n".join(map(json.dumps, commands)), {"Authorization": f"apikey {KEY}"})
        self.assertEqual(status, 200)
        replies = [json.loads(line) for line in body.splitlines()]
        self.assertEqual([reply.get("id") for reply in replies], [None, 7, None, None, None])
        self.assertEqual([replies[n]["result"]["offset"] for n in (0, 1, 2)], [1, 2, 2])
        self.assertEqual([pub["data"]["n"] for pub in replies[2]["result"]["publications"]], [1, 2])
        self.assertEqual(len(replies[3]["result"]["nodes"]), 1)
        self.assertEqual(replies[4]["error"]["code"], 104)

    def test_malformed_bodies_publish_nothing(self):
        good = json.dumps({"method": "publish", "params": {"channel": "none", "data": 1}})
        for path, body in (
            ("/api/publish", "{"),
            ("/api/publish", "[]"),
            ("/api/publish", '{"channel": 1, "data": 1}'),
            ("/api/publish", b"\xff"),
            ("/api", ""),
            ("/api", good + "\n{"),
            ("/api/batch", "{}"),
            ("/api/batch", '{"commands": [{"publish": {"channel": "none", "data": 1}}, {}]}'),
        ):
            with self.subTest(path=path, body=body):
                self.assertEqual(post(self.server, path, body)[0], 400)
        self.assertEqual(self.call("history", channel="none")["offset"], 0)
        self.assertEqual(post(self.server, "/api/publish", "{}", {"X-API-Key": KEY, "Content-Encoding": "gzip"})[0], 415)

    def test_a_request_is_bounded(self):
        channels = [f"bound.{number}" for number in range(1_024)]
        responses = self.call("broadcast", channels=channels, data=1)["responses"]
        self.assertTrue(all("result" in response for response in responses))
        status, _ = post(self.server, "/api/broadcast", {"channels": [*channels, "one more"], "data": 1})
        self.assertEqual(status, 413)
        commands = [{"broadcast": {"channels": channels, "data": 1}}, {"info": {}}]
        self.assertEqual(post(self.server, "/api/batch", {"commands": commands})[0], 413)
        for _ in range(20):
            self.call("publish", channel="bound.long", data="x" * 6_000)
        commands = [{"history": {"channel": "bound.long", "limit": -1}}] * 100 + [{"publish": {"channel": "bound.long", "data": 1}}]
        status, body = post(self.server, "/api/batch", {"commands": commands})
        self.assertLess(len(body), 2 * 1024 * 1024)
        self.assertEqual((status, json.loads(body)["replies"][-1]["error"]["code"]), (200, 106))

    def test_other_http_methods_are_refused(self):
        status, headers, _ = self.server.get("/api/info", headers={"X-API-Key": READ_KEY})
        self.assertEqual((status, headers["Allow"]), (405, "POST"))


class Keys(ApiTest):
    def publish(self, headers):
        return post(self.server, "/api/publish", {"channel": "keys", "data": 1}, headers)[0]

    def refusals(self):
        _, _, body = self.server.get("/stats", headers={"X-API-Key": READ_KEY})
        return json.loads(body)["admin"]["refused"]

    def test_the_write_token_is_the_key_however_it_is_sent(self):
        for headers in (
            {"X-API-Key": KEY},
            {"Authorization": f"apikey {KEY}"},
            {"Authorization": f"Bearer {KEY}"},
        ):
            self.assertEqual(self.publish(headers), 200, headers)

    def test_attempts_without_access_are_delayed_counted_and_logged(self):
        before = self.refusals()
        times = []
        for headers in ({}, {"X-API-Key": "wrong" * 8}, {"Authorization": "apikey"}, {"X-API-Key": READ_KEY}):
            begun = time.monotonic()
            status = self.publish(headers)
            times.append(time.monotonic() - begun)
            self.assertEqual(status, 403 if headers.get("X-API-Key") == READ_KEY else 401, headers)
        self.server.wait_for_log("admin requests without access were refused")
        after = self.refusals()
        self.assertEqual(after["unauthorized"] - before["unauthorized"], 3)
        self.assertEqual(after["forbidden"] - before["forbidden"], 1)
        # Each attempt is answered later: after `ADMIN_DELAY_MIN`, and twice that.
        for number, seconds in enumerate(times):
            self.assertGreaterEqual(seconds, 0.1 * 2**number)

    def test_the_read_token_calls_what_reads_and_nothing_of_a_request_that_does_more(self):
        headers = {"X-API-Key": READ_KEY}
        for method in ("info", "channels", "presence", "presence_stats", "history"):
            self.assertEqual(post(self.server, f"/api/{method}", {"channel": "rooms.a"}, headers)[0], 200, method)
        lines = [{"method": "info"}, {"method": "history", "params": {"channel": "quiet"}}]
        self.assertEqual(post(self.server, "/api", "\n".join(map(json.dumps, lines)), headers)[0], 200)
        before = self.refusals()
        publish = {"channel": "quiet", "data": 1}
        lines.insert(0, {"method": "publish", "params": publish})
        self.assertEqual(post(self.server, "/api", "\n".join(map(json.dumps, lines)), headers)[0], 403)
        commands = {"commands": [{"publish": publish}, {"info": {}}]}
        self.assertEqual(post(self.server, "/api/batch", commands, headers)[0], 403)
        self.assertEqual(self.refusals()["forbidden"] - before["forbidden"], 2)
        self.assertEqual(self.call("history", channel="quiet")["offset"], 0)

    def test_pages_in_browsers_are_refused(self):
        self.assertEqual(self.publish({"X-API-Key": KEY, "Origin": "null"}), 403)


class WithoutTokens(unittest.TestCase):
    def test_a_loopback_address_is_open_to_local_back_ends(self):
        with Server() as server:
            status, body = post(server, "/api/publish", {"channel": "a", "data": 1}, {})
            self.assertEqual((status, json.loads(body)["result"]["offset"]), (200, 1))
            # A key where none is required is ignored.
            self.assertEqual(post(server, "/api/info", {}, {"X-API-Key": "any"})[0], 200)
            headers = {"Host": "attacker.example"}
            self.assertEqual(post(server, "/api/info", {}, headers)[0], 403)
