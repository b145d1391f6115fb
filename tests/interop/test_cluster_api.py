"""Centrifugo's HTTP API of nodes in a cluster: it answers the same wherever it is asked, about the topics and clients of all nodes."""

import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import test_centrifuge as sdk
from harness import request, wait_until
from test_centrifuge_server_subscriptions import Session
from test_cluster import InACluster, Nats

CONFIGURATION = """
[topic_defaults]
history_messages = 100
subscribe = "authenticated"
publish = "everybody"
presence = "everybody"

[[topics]]
pattern = "tagged.*"
allow_tags_filter = true

[[topics]]
pattern = "durable.*"
durable = true
history_messages = 5
history_bytes = "4MiB"
"""
# Some for each node to own.
TOPICS = [f"topic.{number}" for number in range(9)]


def token(user):
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600}, sdk.SECRET, "HS256")


class Api(InACluster):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.nats = Nats("-js", "-sd", os.path.join(folder.name, "streams"))
        self.addCleanup(self.nats.close)
        configuration, secret = (os.path.join(folder.name, name) for name in ("echoring.toml", "secret"))
        for path, content in ((configuration, CONFIGURATION), (secret, sdk.SECRET)):
            with open(path, "w") as file:
                file.write(content)
        self.flags = ("--config", configuration, "--auth-jwt-key", secret)
        self.nodes = self.start("a", "b", "c", flags=self.flags)

    def call(self, node, method, **parameters):
        reply = node.call(method, **parameters)
        self.assertIn("result", reply, (node.name, method, parameters))
        return reply["result"]

    def session(self, node, user):
        session = Session(node)
        self.addCleanup(session.close)
        session.send({"id": 1, "connect": {"token": token(user)}})
        return session, session.take()["connect"]["client"]

    def subscribe(self, session, topic):
        while True:
            session.send({"id": 2, "subscribe": {"channel": topic}})
            while "id" not in (reply := session.take()):
                pass
            if "subscribe" in reply:
                return
            self.assertEqual(reply["error"]["code"], 111, reply)

    def await_users(self, node, topic, expected):
        """Waits until the clients with their users are these."""

        def users():
            presence = self.call(node, "presence", channel=topic)["presence"]
            return {client: each["user"] for client, each in presence.items()}

        wait_until(lambda: users() == expected, lambda: f"{expected}: {users()}")

    def test_history_is_the_same_at_nodes_that_neither_own_the_topic_nor_have_subscribers(self):
        for topic in TOPICS:
            last = [self.call(self.nodes[0], "publish", channel=topic, data=number) for number in range(5)][-1]
            for node in self.nodes * 2:
                history = self.call(node, "history", channel=topic, limit=3, reverse=True)
                self.assertEqual([each["data"] for each in history["publications"]], [4, 3, 2], node.name)
                self.assertEqual({key: history[key] for key in ("offset", "epoch")}, last)
                since = {"offset": 3, "epoch": last["epoch"]}
                history = self.call(node, "history", channel=topic, limit=-1, since=since)
                self.assertEqual([each["data"] for each in history["publications"]], [3, 4])
                self.assertEqual(self.call(node, "history", channel=topic)["publications"], [])
                wrong = node.call("history", channel=topic, limit=1, since={"offset": 1, "epoch": "1"})
                self.assertEqual(wrong["error"]["code"], 112)

    def test_history_of_a_durable_topic_is_read_from_its_stream(self):
        text = "x" * 1_000
        for number in range(300):
            self.call(self.nodes[0], "publish", channel="durable.orders", data=[number, text])
        for node in self.nodes:
            numbers, since = [], None
            while True:
                position = {"since": since} if since else {}
                history = self.call(node, "history", channel="durable.orders", limit=-1, **position)
                self.assertEqual(history["offset"], 300)
                if not history["publications"]:
                    break
                numbers += [each["data"][0] for each in history["publications"]]
                since = {"offset": history["publications"][-1]["offset"], "epoch": history["epoch"]}
            self.assertEqual(numbers, list(range(300)), node.name)
            latest = self.call(node, "history", channel="durable.orders", limit=50, reverse=True)
            self.assertEqual([each["data"][0] for each in latest["publications"]], list(range(299, 249, -1)))
            self.assertEqual(node.call("history", channel="durable.orders", limit=-1, reverse=True)["error"]["code"], 106)

    def test_presence_is_the_same_at_every_node(self):
        for topic in TOPICS:
            ids = {}
            for node in self.nodes[:2]:
                session, client = self.session(node, f"user at {node.name}")
                self.subscribe(session, topic)
                ids[client] = f"user at {node.name}"
            for node in self.nodes:
                self.await_users(node, topic, ids)
                stats = self.call(node, "presence_stats", channel=topic)
                self.assertEqual(stats, {"num_clients": 2, "num_users": 2})

    def test_tags_versions_and_skipped_history_are_the_same_at_all_nodes(self):
        for number in range(6):
            topic = f"tagged.{number}"
            session, _ = self.session(self.nodes[0], "alice")
            session.send({"id": 2, "subscribe": {"channel": topic, "tf": {"key": "n", "cmp": "neq", "val": "0"}}})
            while "id" not in session.take():
                pass
            for n, node in enumerate(self.nodes):
                self.call(node, "publish", channel=topic, data=n, tags={"n": str(n)}, version=n + 1)
                again = self.call(self.nodes[0], "publish", channel=topic, data=n, version=n + 1)
                self.assertEqual(again["offset"], n + 1)
            self.call(self.nodes[1], "publish", channel=topic, data="gone", skip_history=True)
            pushed = []
            while len(pushed) < 3:
                push = session.take().get("push", {})
                pushed += [push["pub"]] if "pub" in push else []
            self.assertEqual([(pub["data"], pub.get("tags")) for pub in pushed], [(1, {"n": "1"}), (2, {"n": "2"}), ("gone", None)])
            for node in self.nodes:
                history = self.call(node, "history", channel=topic, limit=2, reverse=True)
                self.assertEqual([each["data"] for each in history["publications"]], [2, 1], node.name)
                self.assertEqual(history["publications"][0]["tags"], {"n": "2"})
            self.assertEqual(self.call(self.nodes[2], "history_remove", channel=topic), {})
            for node in self.nodes:
                history = self.call(node, "history", channel=topic, limit=10)
                self.assertEqual((history["publications"], history["offset"]), ([], 4), node.name)
        self.assertEqual(self.nodes[0].call("history_remove", channel="durable.x")["error"]["code"], 108)

    def test_users_are_refreshed_and_blocked_at_all_nodes(self):
        sessions = [self.session(node, "alice")[0] for node in self.nodes]
        self.call(self.nodes[0], "refresh", user="alice", expire_at=int(time.time()) + 3_600)
        for session in sessions:
            self.assertTrue(session.take()["push"]["refresh"]["expires"])
        self.call(self.nodes[1], "block_user", user="alice")
        for session in sessions:
            self.assertEqual(session.closed(), 3005)

    def test_topics_that_nobody_has_are_empty_everywhere(self):
        for node in self.nodes:
            history = self.call(node, "history", channel="nothing", limit=5)
            self.assertEqual((history["publications"], history["offset"]), ([], 0))
            self.assertEqual(self.call(node, "presence", channel="nothing"), {"presence": {}})

    def test_clients_of_all_nodes_are_listed_subscribed_unsubscribed_and_disconnected(self):
        sessions = [self.session(node, "alice") for node in self.nodes]
        other, _ = self.session(self.nodes[1], "bob")
        for session, _ in sessions:
            self.subscribe(session, "shared")
        self.subscribe(other, "of bob")
        for node in self.nodes:
            channels = self.call(node, "channels")["channels"]
            self.assertEqual(channels, {"shared": {"num_clients": 3}, "of bob": {"num_clients": 1}})
            nodes = self.call(node, "info")["nodes"]
            self.assertEqual(sorted(each["name"] for each in nodes), ["a", "b", "c"])
            self.assertEqual(sum(each["num_clients"] for each in nodes), 4)
        self.call(self.nodes[0], "subscribe", user="alice", channel="invited", data=7)
        for session, _ in sessions:
            push = session.take()["push"]
            self.assertEqual((push["channel"], push["subscribe"]["data"]), ("invited", 7))
        self.call(self.nodes[1], "unsubscribe", user="alice", channel="invited")
        for session, _ in sessions:
            self.assertIn("unsubscribe", session.take()["push"])
        kept = sessions[2][1]
        self.call(self.nodes[2], "disconnect", user="alice", whitelist=[kept])
        for session, _ in sessions[:2]:
            self.assertEqual(session.closed(), 3503)
        self.call(self.nodes[0], "publish", channel="shared", data="after")
        self.assertEqual(sessions[2][0].take()["push"]["pub"]["data"], "after")
        self.call(self.nodes[0], "disconnect", user="alice", client=kept)
        self.assertEqual(sessions[2][0].closed(), 3503)

    def test_a_message_to_an_identity_reaches_its_connections_at_all_nodes(self):
        def send(node, user, body, media):
            status, _, answer = request(node.admin, "POST", f"/identities/{user}", body, {"Content-Type": media})
            return status, json.loads(answer)

        sessions = [self.session(node, "alice")[0] for node in self.nodes]
        other, _ = self.session(self.nodes[1], "bob")
        for node in self.nodes:
            for body, media, expected in ((b"{}", "application/json", {}), (b"hello", "text/plain", "hello"), (b"\0", "a/b", "AA==")):
                status, answer = send(node, "alice", body, media)
                self.assertEqual((status, answer["sent"], answer["busy"]), (200, 3, 0), answer)
                self.assertNotIn("silent_nodes", answer)
                for session in sessions:
                    self.assertEqual(session.take()["push"], {"message": {"data": expected}})
        self.assertEqual(send(self.nodes[0], "bob", b"1", "application/json")[1]["sent"], 1)
        self.assertEqual(other.take()["push"], {"message": {"data": 1}})
        self.assertEqual(send(self.nodes[0], "carol", b"1", "application/json")[0], 404)
        silent = self.nodes[2]
        silent.process.kill()
        silent.wait()
        status, answer = send(self.nodes[0], "alice", b"1", "application/json")
        self.assertEqual((status, answer["sent"]), (200, 2), answer)
        self.assertLessEqual(set(answer.get("silent_nodes", [])), {"c"})

    def test_a_node_that_does_not_answer_is_an_error_and_then_no_longer_asked(self):
        silent = self.nodes.pop()
        silent.process.kill()
        silent.wait()

        def is_answered():
            reply = self.nodes[0].call("disconnect", user="alice")
            if "error" in reply:
                self.assertEqual(reply["error"]["code"], 100)
                self.assertIn("node c", reply["error"]["message"])
            return "error" not in reply

        wait_until(is_answered, "the others know")
        self.nodes[0].await_members("b")
        names = [each["name"] for each in self.call(self.nodes[0], "info")["nodes"]]
        self.assertEqual(sorted(names), ["a", "b"])

    def test_many_questions_at_once_are_all_answered(self):
        for topic in TOPICS:
            self.call(self.nodes[0], "publish", channel=topic, data=topic)

        def ask(number):
            node, topic = self.nodes[number % 3], TOPICS[number % len(TOPICS)]
            return topic, self.call(node, "history", channel=topic, limit=1)["publications"]

        with ThreadPoolExecutor(16) as threads:
            for topic, publications in threads.map(ask, range(400)):
                self.assertEqual([each["data"] for each in publications], [topic])


if __name__ == "__main__":
    import unittest

    unittest.main()
