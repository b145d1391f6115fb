"""What publications of Centrifugo's HTTP API may have besides data: versions, tags, and no place in the history. And what the API does
with the history and with the credentials of users."""

import json
import time
import unittest

import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_files, wait_until
from test_centrifugo_api import ApiTest, Subscriber, post
from websockets.sync.client import connect

TAGGED = """
[[topics]]
pattern = "tagged.*"
allow_tags_filter = true
delta = "fossil"
presence = "everybody"
"""
EUR = {"key": "symbol", "cmp": "eq", "val": "EUR"}


def setUpModule():
    global tagged
    tagged = unittest.enterModuleContext(text_files(tagged_toml=TAGGED))[0]


def recovered(subscriber, channel, offset, epoch):
    """The answer to a subscription that recovers: whether it has, and the data of what it missed."""
    position = {"recover": True, "offset": offset, "epoch": epoch}
    result = subscriber.do(subscribe={"channel": channel, **position})["subscribe"]
    return result.get("recovered", False), [publication["data"] for publication in result.get("publications", [])]


class Histories(ApiTest):
    def test_a_publication_that_skips_the_history_is_for_those_who_are_there(self):
        subscriber = self.subscriber("typing")
        first = self.call("publish", channel="typing", data="kept 1")
        skipped = self.call("publish", channel="typing", data="gone", skip_history=True)
        self.assertEqual(skipped["offset"], first["offset"] + 1)
        self.call("publish", channel="typing", data="kept 2")
        self.call("broadcast", channels=["typing"], data="gone", skip_history=True)
        seen = [subscriber.publication()["data"] for _ in range(4)]
        self.assertEqual(seen, ["kept 1", "gone", "kept 2", "gone"])
        publications = self.call("history", channel="typing", limit=-1)["publications"]
        self.assertEqual([publication["data"] for publication in publications], ["kept 1", "kept 2"])
        (latest,) = self.call("history", channel="typing", limit=1, reverse=True)["publications"]
        self.assertEqual(latest, {"data": "kept 2", "offset": first["offset"] + 2})
        late = self.subscriber()
        self.assertEqual(recovered(late, "typing", first["offset"], first["epoch"]), (True, ["kept 2"]))
        self.call("publish", channel="typing", data="live")
        self.assertEqual(late.publication()["offset"], first["offset"] + 4)

    def test_other_clients_are_told_of_the_gap_that_such_a_publication_leaves(self):
        first = self.call("publish", channel="v1.typing", data="kept")
        for skip in (True, False, True):
            self.call("publish", channel="v1.typing", data=1, skip_history=skip)
        with connect(self.server.url("/broadcast"), subprotocols=["echoring.v1.json"], open_timeout=PATIENCE_S) as client:
            position = {"epoch": first["epoch"], "offset": 1}
            client.send(json.dumps({"type": "subscribe", "topic": "v1.typing", "position": position}))
            events = []
            while len(events) < 4:
                event = json.loads(client.recv(PATIENCE_S))
                if event["type"] in ("subscribed", "gap", "message"):
                    events.append(event)
        self.assertEqual([event["type"] for event in events], ["subscribed", "gap", "message", "gap"])
        self.assertEqual([(gap["from"], gap["to"]) for gap in events if gap["type"] == "gap"], [(2, 2), (4, 4)])

    def test_old_versions_are_skipped(self):
        def offset(version, channel="document", **more):
            return self.call("publish", channel=channel, data=version, version=version, **more)["offset"]

        subscriber = self.subscriber("document")
        self.assertEqual([offset(version) for version in (3, 3, 2, 4, 1)], [1, 1, 1, 2, 2])
        # The numbers of another epoch begin anew.
        self.assertEqual([offset(version, version_epoch="new") for version in (1, 1, 2)], [3, 3, 4])
        self.assertEqual([subscriber.publication()["data"] for _ in range(4)], [3, 4, 1, 2])
        responses = self.call("broadcast", channels=["document", "document.2"], data=1, version=1)["responses"]
        self.assertEqual([response["result"]["offset"] for response in responses], [4, 1])
        # A topic without history has no versions.
        self.assertEqual([offset(1, channel="empty.x") for _ in range(2)], [1, 2])

    def test_removed_history_is_not_recovered(self):
        subscriber = self.subscriber("removed")
        position = self.call("publish", channel="removed", data=1)
        self.call("publish", channel="removed", data=2)
        self.assertEqual(self.call("history_remove", channel="removed"), {})
        self.assertEqual(self.call("history", channel="removed", limit=-1), {"publications": [], "offset": 2, "epoch": position["epoch"]})
        self.call("publish", channel="removed", data=3)
        self.assertEqual([subscriber.publication()["data"] for _ in range(3)], [1, 2, 3])
        self.assertEqual(recovered(self.subscriber(), "removed", 1, position["epoch"])[0], False)
        self.assertEqual(recovered(self.subscriber(), "removed", 2, position["epoch"]), (True, [3]))
        self.assertEqual(self.call("history_remove", channel="nobody has published here"), {})
        self.fails(108, "history_remove", channel="empty.x")

    def test_histories_and_versions_survive_a_takeover(self):
        with Server(*self.flags) as first:

            def publish(server, **parameters):
                return json.loads(post(server, "/api/publish", {"channel": "moved", **parameters})[1])["result"]

            position = publish(first, data=1)
            publish(first, data=2, skip_history=True)
            publish(first, data=3, version=3)
            admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
            with Server(*self.flags, "--takeover", admin=admin, listen=listen) as successor:
                self.assertEqual([publish(successor, data=version, version=version)["offset"] for version in (3, 4)], [3, 4])
                late = Subscriber(successor)
                self.addCleanup(late.close)
                self.assertEqual(recovered(late, "moved", 1, position["epoch"]), (True, [3, 4]))


class Credentials(ApiTest):
    def test_a_refreshed_user_stays_until_then(self):
        one, other = self.subscriber(user="frank"), self.subscriber(user="grace")
        self.assertEqual(self.call("refresh", user="frank", expire_at=int(time.time()) + 3_600), {})
        told = json.loads(one.take())["push"]["refresh"]
        self.assertTrue(told["expires"])
        self.assertAlmostEqual(told["ttl"], 3_570, delta=5)
        self.assertEqual(self.call("refresh", user="frank", client=one.client), {})
        self.assertEqual(json.loads(one.take())["push"]["refresh"], {})
        self.assertEqual(self.call("refresh", user="frank", expire_at=int(time.time()) + 2), {})
        self.assertEqual(one.close_code(), (3005, "connection expired"))
        self.assertEqual(self.call("refresh", user="grace", client=one.client, expired=True), {})
        other.do(ping={})
        self.assertEqual(self.call("refresh", user="grace", expired=True), {})
        self.assertEqual(other.close_code(), (3005, "connection expired"))
        self.fails(107, "refresh", user="")
        self.fails(108, "refresh", user="frank", info={"name": "Frank"})

    def test_a_user_of_a_server_that_drains_is_refreshed_through_its_successor(self):
        flags = (*self.flags, "--drain", "24h")
        with Server(*flags) as first:
            user = Subscriber(first, user="alice")
            admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
            with Server(*flags, "--takeover", admin=admin, listen=listen) as successor:
                body = {"user": "alice", "expire_at": int(time.time()) + 3_600}
                self.assertEqual(json.loads(post(successor, "/api/refresh", body)[1]), {"result": {}})
                self.assertIn("refresh", json.loads(user.take())["push"])
                user.close()
                self.assertEqual(first.wait(), 0)


class ErrorMode(ApiTest):
    def test_errors_are_statuses_for_those_who_want_that(self):
        def status(method, mode="transport", **parameters):
            headers = {"X-API-Key": "a-key-for-back-ends-of-centrifugo", "X-Centrifugo-Error-Mode": mode}
            status, body = post(self.server, f"/api/{method}", parameters, headers)
            return status, json.loads(body)

        for expected, code, method, parameters in (
            (400, 107, "publish", {"channel": "", "data": 1}),
            (400, 108, "history_remove", {"channel": "empty.x"}),
            (404, 104, "nothing", {}),
            (416, 112, "history", {"channel": "kept", "limit": 1, "since": {"offset": 1, "epoch": "f00d"}}),
        ):
            answer, body = status(method, **parameters)
            self.assertEqual((answer, body["code"]), (expected, code), method)
            self.assertEqual(sorted(body), ["code", "message"])
            # By default the body says so.
            self.assertEqual(status(method, "any", **parameters), (200, {"error": body}))
        self.assertEqual(status("publish", channel="a", data=1)[0], 200)
        # A batch and a broadcast have an error for each command.
        self.assertEqual(status("batch", commands=[{"nothing": {}}])[0], 200)
        self.assertEqual(status("broadcast", channels=[""], data=1)[0], 200)


class Tags(ApiTest):
    @classmethod
    def setUpClass(cls):
        cls.flags = ("--config", tagged, "--shards", "2")
        cls.server = cls.enterClassContext(Server(*cls.flags))

    def publish(self, channel, **tags):
        return self.call("publish", channel=channel, data=tags.get("n", "none"), tags=tags)

    def filtered(self, channel, tf, server=None, **more):
        subscriber = Subscriber(server or self.server)
        self.addCleanup(subscriber.close)
        return subscriber, subscriber.do(subscribe={"channel": channel, "tf": tf, **more})["subscribe"]

    def refused(self, channel, tf):
        subscriber = self.subscriber()
        subscriber.socket.send(json.dumps({"id": 9, "subscribe": {"channel": channel, "tf": tf}}))
        return json.loads(subscriber.take())["error"]["code"]

    def test_tags_come_with_publications_wherever_they_are_read(self):
        tags = {"symbol": "EUR", "größe": "", 'quo"ted': "a\nb"}
        subscriber = self.subscriber("tagged.read")
        first = self.call("publish", channel="tagged.read", data=0)
        self.call("publish", channel="tagged.read", data=1, tags=tags)
        self.assertNotIn("tags", subscriber.publication())
        self.assertEqual(subscriber.publication(), {"data": 1, "offset": 2, "tags": tags})
        history = self.call("history", channel="tagged.read", limit=-1)["publications"]
        self.assertEqual(history, [{"data": 0, "offset": 1}, {"data": 1, "offset": 2, "tags": tags}])
        (read,) = subscriber.do(history={"channel": "tagged.read", "limit": 1, "reverse": True})["history"]["publications"]
        self.assertEqual(read["tags"], tags)
        position = {"recover": True, "offset": 1, "epoch": first["epoch"]}
        late = self.subscriber().do(subscribe={"channel": "tagged.read", **position})["subscribe"]
        self.assertEqual(late["publications"], [{"data": 1, "offset": 2, "tags": tags}])
        self.call("broadcast", channels=["tagged.read"], data=2, tags={"a": "b"})
        self.assertEqual(subscriber.publication()["tags"], {"a": "b"})
        self.fails(107, "publish", channel="tagged.read", data=1, tags={"a": "x" * 5_000})
        self.assertEqual(post(self.server, "/api/publish", {"channel": "a", "data": 1, "tags": {"a": 1}})[0], 400)

    def test_a_filter_leaves_out_what_it_does_not_match(self):
        channel = "tagged.live"
        everything = self.subscriber(channel)
        euro, _ = self.filtered(channel, EUR)
        above, _ = self.filtered(channel, {"op": "and", "nodes": [{"key": "n", "cmp": "gt", "val": "2"}, {"op": "not", "nodes": [EUR]}]})
        for n, symbol in enumerate(("EUR", "USD", "EUR", "USD", "EUR", "USD"), 1):
            self.publish(channel, n=str(n), symbol=symbol)
        self.call("publish", channel=channel, data="untagged")
        for subscriber, expected in ((everything, "123456"), (euro, "135"), (above, "46")):
            self.assertEqual("".join(subscriber.publication()["data"] for _ in expected), expected)
        self.assertEqual(everything.publication()["data"], "untagged")
        # A subscriber that gets nothing more may be served after one that does.
        filtered = b"\nechoring_deliveries_filtered_total 9\n"
        wait_until(lambda: filtered in self.server.get("/metrics")[2], "nine deliveries are filtered")
        # Without a filter it gets everything, and nothing twice.
        euro.do(unsubscribe={"channel": channel})
        euro.do(subscribe={"channel": channel})
        self.publish(channel, n="8", symbol="USD")
        self.assertEqual(euro.publication()["offset"], 8)

    def test_what_is_recovered_is_filtered_and_no_loss(self):
        channel = "tagged.recovered"
        first = self.publish(channel, n="1", symbol="EUR")
        for n, symbol in enumerate(("USD", "EUR", "USD", "USD"), 2):
            self.publish(channel, n=str(n), symbol=symbol)
        position = {"recover": True, "offset": 1, "epoch": first["epoch"]}
        subscriber, result = self.filtered(channel, EUR, **position)
        self.assertTrue(result["recovered"])
        self.assertEqual([each["offset"] for each in result["publications"]], [3])
        self.assertEqual(result["offset"], 5)
        # History is read as it is.
        read = subscriber.do(history={"channel": channel, "limit": -1})["history"]["publications"]
        self.assertEqual(len(read), 5)
        self.publish(channel, n="6", symbol="USD")
        self.publish(channel, n="7", symbol="EUR")
        self.assertEqual(subscriber.publication()["offset"], 7)

    def test_there_are_no_deltas_with_a_filter(self):
        channel = "tagged.deltas"
        subscriber, result = self.filtered(channel, EUR, delta="fossil")
        self.assertNotIn("delta", result)
        for _ in range(2):
            self.call("publish", channel=channel, data={"text": "x" * 100}, tags={"symbol": "EUR"})
            self.assertEqual(subscriber.publication()["data"], {"text": "x" * 100})

    def test_filters_that_are_wrong_or_not_allowed_are_refused(self):
        self.assertEqual(self.refused("plain", EUR), 107)
        deep = EUR
        for _ in range(8):
            deep = {"op": "not", "nodes": [deep]}
        for tf in ({}, {"key": "a", "cmp": "like", "val": "b"}, [EUR], {"op": "or", "nodes": [EUR] * 64}, deep):
            self.assertEqual(self.refused("tagged.x", tf), 107, tf)
        subscriber = self.subscriber()
        subscriber.do(subscribe={"channel": "plain", "tf": None})

    def test_a_filter_moves_with_its_connection(self):
        flags = (*self.flags, "--drain", "24h")
        with Server(*flags) as first:
            subscriber, _ = self.filtered("tagged.moved", EUR, first)
            post(first, "/api/publish", {"channel": "tagged.moved", "data": 1, "tags": {"symbol": "EUR"}})
            self.assertEqual(subscriber.publication()["offset"], 1)
            admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
            with Server(*flags, "--takeover", admin=admin, listen=listen) as successor:
                # Once its last connection has moved.
                self.assertEqual(first.wait(), 0)
                for symbol in ("USD", "EUR"):
                    post(successor, "/api/publish", {"channel": "tagged.moved", "data": 1, "tags": {"symbol": symbol}})
                self.assertEqual(subscriber.publication()["offset"], 3)


class Sdk(sdk.SdkTests):
    """Of JavaScript only: the other SDKs have no filters."""

    @staticmethod
    def start():
        return Server("--config", tagged)

    def publish(self, channel, n, **tags):
        self.server.call("publish", channel=channel, data=n, tags=tags)

    def test_a_subscription_with_a_filter_recovers_what_it_matches(self):
        relay, channel = self.relay(), "tagged.sdk"
        client = self.connected(relay.url(sdk.PATH))
        client.subscribe(channel, recoverable=True, tags_filter=EUR)
        self.publish(channel, 1, symbol="EUR")
        self.publish(channel, 2, symbol="USD")
        event = client.next("publication", channel=channel)
        self.assertEqual((event["offset"], event["tags"]), (1, {"symbol": "EUR"}))
        with relay.cut():
            for n, symbol in enumerate(("USD", "EUR", "USD"), 3):
                self.publish(channel, n, symbol=symbol)
        subscribed = client.next("subscribed", channel=channel)
        self.assertEqual((subscribed["wasRecovering"], subscribed["recovered"]), (True, True))
        self.publish(channel, 6, symbol="EUR")
        self.assertEqual([client.next("publication", channel=channel)["offset"] for _ in range(2)], [4, 6])


class JavaScriptInJson(sdk.JavaScript, Sdk, unittest.TestCase):
    protobuf = False


class JavaScriptInProtobuf(sdk.JavaScript, Sdk, unittest.TestCase):
    protobuf = True


del ApiTest
