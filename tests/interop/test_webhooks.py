"""Webhooks of the server, at a receiver that verifies signatures and that fails in many ways."""

import base64
import collections
import contextlib
import hashlib
import hmac
import json
import os
import queue
import socket
import tempfile
import threading
import time
import unittest

from harness import PATIENCE_S, Raw, Server, refusing_port, wait_until
from relay import Relay
from test_cluster import Nats, Node
from test_v1 import RawClient

SECRET = b"a secret of at least twenty-four bytes"
KINDS = [
    "topic_occupied",
    "topic_vacated",
    "member_joined",
    "member_left",
    "connection_opened",
    "connection_closed",
    "history_lost",
]
TOPICS = """
[[topics]]
pattern = "rooms.*"
presence = "everybody"

[[topics]]
pattern = "kept.*"
history_messages = 1000
history_bytes = "16MiB"
"""


class Receiver:
    """Keeps the bodies of the requests that it accepts. It answers each with the next of `answers`, and then with 204.

    An answer is a status, bytes that are sent as they are before the connection ends, or a function that returns one of them.
    """

    def __init__(self, port=0):
        self.secret = SECRET
        self.answers = queue.Queue()
        # The id and the body of each request, and the answer that it got.
        self.requests = queue.Queue()
        # All events that `events` has looked at.
        self.seen = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/events"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        # The server ends a request that takes too long.
        with connection, connection.makefile("rb") as stream, contextlib.suppress(ConnectionError):
            while head := self._head(stream):
                body = stream.read(int(head["content-length"]))
                self._verify(head, body)
                try:
                    answer = self.answers.get_nowait()
                except queue.Empty:
                    answer = 204
                self.requests.put((head["webhook-id"], json.loads(body), answer))
                answer = answer() if callable(answer) else answer
                try:
                    if isinstance(answer, bytes):
                        connection.sendall(answer)
                        return
                    status, *fields = answer if isinstance(answer, tuple) else (answer,)
                    lines = "".join(f"{field}\r\n" for field in fields)
                    connection.sendall(f"HTTP/1.1 {status} X\r\n{lines}Content-Length: 0\r\n\r\n".encode())
                except OSError:
                    return

    @staticmethod
    def _head(stream):
        lines = iter(lambda: stream.readline().decode().strip(), "")
        if not next(lines, "").startswith("POST /events HTTP/1.1"):
            return None
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def _verify(self, head, body):
        """As any library for Standard Webhooks does."""
        signed = b".".join((head["webhook-id"].encode(), head["webhook-timestamp"].encode(), body))
        signature = base64.b64encode(hmac.digest(self.secret, signed, hashlib.sha256)).decode()
        assert f"v1,{signature}" in head["webhook-signature"].split(), head
        assert abs(int(head["webhook-timestamp"]) - time.time()) < PATIENCE_S, head

    def request(self):
        """The next request: its id, its body, and the answer that it gets."""
        return self.requests.get(timeout=PATIENCE_S)

    def events(self, *kinds):
        """The next accepted event of each of these kinds, in this order. Events of other kinds are left out."""
        found = []
        while len(found) < len(kinds):
            _, body, answer = self.request()
            if answer == 204:
                self.seen += body["events"]
                found += [event for event in body["events"] if event["type"] in kinds]
        assert [event["type"] for event in found] == list(kinds), found
        return found

    def rest(self):
        """The events of the accepted requests so far."""
        events = []
        while not self.requests.empty():
            _, body, answer = self.requests.get()
            events += body["events"] if answer == 204 else []
        return events

    def close(self):
        self.listener.close()


class Webhooks(unittest.TestCase):
    """A server with a receiver. It is told that the server has started."""

    denied = False

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.secret_file = os.path.join(self.directory, "secret")
        self.write_secrets(SECRET)
        self.configuration = os.path.join(self.directory, "echoring.toml")
        self.receiver = self.started(Receiver())

    def write_secrets(self, *secrets):
        with open(self.secret_file, "wb") as file:
            file.write(b"\n".join(secrets))

    def started(self, receiver):
        self.addCleanup(receiver.close)
        return receiver

    def configure(self, *tables, kinds=KINDS, **keys):
        """Writes the configuration: a table with these keys for the receiver, and further tables."""
        tables = [{"url": self.receiver.url, "events": kinds, **keys}, *tables]
        with open(self.configuration, "w") as file:
            file.write(f"shards = 2\n{TOPICS}")
            for table in tables:
                table = {"secret_file": self.secret_file, **table}
                lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
                file.write(f"\n[[webhooks]]\n{lines}\n")

    def start(self, *flags, **keys):
        self.configure(**keys)
        return self.run_server(*flags)

    def run_server(self, *flags, **options):
        server = Server("--config", self.configuration, *flags, denied=self.denied, **options)
        self.addCleanup(server.__exit__)
        return server

    def join(self, server, topic):
        client = RawClient(server).open()
        self.addCleanup(client.close)
        client.subscribe(topic)
        return client

    def assert_alive(self, client):
        client.ask(type="ping", id=1)
        while (event := client.hear())["type"] != "pong":
            self.assertEqual(event["type"], "presence")

    def metric(self, server, line):
        _, _, text = server.get("/metrics")
        return next(float(found.rsplit(" ", 1)[1]) for found in text.decode().splitlines() if found.startswith(line))


class Told(Webhooks):
    """The events."""

    def test_a_connection_a_topic_and_a_member_come_and_go(self):
        server = self.start()
        (restart,) = self.receiver.events("history_lost")
        self.assertEqual((restart["reason"], restart.get("topic")), ("restart", None))
        client = self.join(server, "rooms.1")
        opened, *here = self.receiver.events("connection_opened", "topic_occupied", "member_joined")
        client.close()
        *gone, vacated = self.receiver.events("connection_closed", "member_left", "topic_vacated")
        self.assertEqual([event["topic"] for event in (*here, gone[1], vacated)], ["rooms.1"] * 4)
        closed, left = gone
        self.assertEqual(opened["path"], "/broadcast")
        self.assertEqual([opened[key] for key in ("connection", "client")], [closed[key] for key in ("connection", "client")])
        self.assertEqual(closed["code"], 1006)
        self.assertIn(closed["reason"], ("gone", "failed"))
        self.assertEqual(here[1]["client"], opened["client"])
        self.assertEqual(left["client"], opened["client"])
        ids = [event["id"] for event in self.receiver.seen]
        self.assertEqual(len(set(ids)), len(ids))
        self.assertTrue(all(abs(event["time_ms"] / 1e3 - time.time()) < PATIENCE_S for event in (opened, vacated)))

    def test_only_what_a_table_asks_for_is_told(self):
        other = self.started(Receiver())
        self.configure({"url": other.url, "events": ["topic_occupied"], "topics": "b*"}, kinds=["connection_opened"], path="/sse/*")
        server = self.run_server()
        for path in ("/echo", "/broadcast/a", "/broadcast/b"):
            self.enterContext(Raw(server)).open(path)
        stream = self.enterContext(Raw(server))
        stream.send(b"GET /sse/b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.read_head()
        (event,) = self.receiver.events("connection_opened")
        self.assertEqual(event["path"], "/sse/b")
        (event,) = other.events("topic_occupied")
        self.assertEqual(event["topic"], "b")
        self.assertEqual(self.receiver.rest() + other.rest(), [])

    def test_connections_that_wait_for_the_owner_of_a_topic_are_told(self):
        server = self.start(kinds=["connection_opened"])
        paths = [f"/{route}/{number}" for route in ("broadcast", "sse") for number in range(8)]
        for path in paths:
            raw = self.enterContext(Raw(server))
            if path.startswith("/sse"):
                raw.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                self.assertEqual(raw.read_head()[0], 200)
            else:
                raw.open(path)
        told = self.receiver.events(*["connection_opened"] * len(paths))
        self.assertEqual([event["path"] for event in told], paths)

    def test_who_returns_at_once_has_not_vacated_the_topic(self):
        server = self.start(kinds=["topic_occupied", "topic_vacated"])
        first = self.join(server, "a")
        self.receiver.events("topic_occupied")
        first.ask(type="unsubscribe", topic="a")
        self.assertEqual(first.hear()["type"], "unsubscribed")
        first.subscribe("a")
        first.close()
        self.assertEqual([event["type"] for event in self.receiver.events("topic_vacated")], ["topic_vacated"])

    def test_a_refused_request_opens_nothing(self):
        server = self.start(kinds=["connection_opened", "connection_closed"])
        with Raw(server) as raw:
            self.assertEqual(raw.upgrade("/nowhere")[0], 404)
        with Raw(server).open():
            pass
        opened, closed = self.receiver.events("connection_opened", "connection_closed")
        self.assertEqual((opened["path"], closed["path"]), ("/echo", "/echo"))

    def test_a_history_that_is_evicted_is_told(self):
        server = self.start("--memory-budget", "16MiB", kinds=["history_lost"])
        self.receiver.events("history_lost")
        publisher = RawClient(server).open()
        self.addCleanup(publisher.close)
        for number in range(600):
            publisher.ask(type="publish", id=number, topic=f"kept.{number % 2}", text="x" * 60_000)
            publisher.hear()
        event = self.receiver.events("history_lost")[0]
        self.assertEqual(event["reason"], "memory")
        self.assertIn(event["topic"], ("kept.0", "kept.1"))


class ToldWithoutIoUring(Told):
    denied = True


class Delivery(Webhooks):
    """A receiver that fails."""

    def begin(self, **keys):
        return self.start(kinds=["topic_occupied", "history_lost"], **keys)

    def test_a_request_that_fails_is_made_again_with_the_same_ids(self):
        for answer in (500, b"", b"HTTP/1.1 20", (503, "Retry-After: 2")):
            self.receiver.answers.put(answer)
        began = time.monotonic()
        server = self.begin()
        requests = [self.receiver.request() for _ in range(5)]
        self.assertEqual(len({id for id, _, _ in requests}), 1)
        self.assertTrue(all(body == requests[0][1] for _, body, _ in requests))
        # Three delays of at least a half, one and two seconds; the last one is the longer one of Retry-After and four.
        self.assertGreaterEqual(time.monotonic() - began, 0.5 + 1 + 2 + 4)
        self.assertEqual(self.metric(server, "echoring_webhook_requests_failed_total"), 4)
        wait_until(lambda: self.metric(server, "echoring_webhook_events_delivered_total") == 1, "the event is delivered")

    def test_retry_after_is_heeded(self):
        self.receiver.answers.put((429, "Retry-After: 3"))
        self.begin()
        first = self.receiver.request()
        began = time.monotonic()
        self.assertEqual(self.receiver.request()[0], first[0])
        self.assertGreaterEqual(time.monotonic() - began, 2.9)

    def test_a_refusal_is_final_and_the_next_request_tells_the_loss(self):
        for status in (410, 400):
            self.receiver.answers.put(status)
        server = self.begin()
        lost = self.receiver.request()
        self.join(server, "a")
        self.receiver.request()
        self.join(server, "b")
        id, body, answer = self.receiver.request()
        self.assertNotEqual(id, lost[0])
        self.assertEqual(([event["topic"] for event in body["events"]], body["lost"], answer), (["b"], 2, 204))
        self.assertEqual(self.metric(server, 'echoring_webhook_events_lost_total{cause="refused"'), 2)
        server.wait_for_log(r"events are refused, and given up.*410")

    def test_a_receiver_that_is_slow_is_asked_again(self):
        may_go_on = threading.Event()
        self.addCleanup(may_go_on.set)

        def slow():
            may_go_on.wait(PATIENCE_S)
            return b""

        self.receiver.answers.put(slow)
        server = self.begin(timeout="200ms")
        first = self.receiver.request()
        self.assertEqual(self.receiver.request()[:2], first[:2])
        server.wait_for_log("no answer within 200ms")

    def test_a_receiver_that_is_down_gets_everything_in_order_when_it_is_up(self):
        with refusing_port() as port:
            self.receiver.close()
            self.receiver.url = f"http://127.0.0.1:{port}/events"
            server = self.begin(batch=2)
            server.wait_for_log("events are not accepted, and sent again")
            for name in "abcde":
                self.join(server, name)
        receiver = self.started(Receiver(port))
        events, sizes = [], []
        while len(events) < 6:
            _, body, _ = receiver.request()
            events += body["events"]
            sizes.append(len(body["events"]))
        self.assertEqual([event.get("topic") for event in events], [None, *"abcde"])
        self.assertLessEqual(max(sizes), 2)

    def test_an_old_event_is_given_up(self):
        for _ in range(20):
            self.receiver.answers.put(500)
        server = self.begin(give_up_after="1s")
        server.wait_for_log("events were not accepted in time")
        self.assertEqual(self.metric(server, 'echoring_webhook_events_lost_total{cause="expired"'), 1)

    def test_beyond_the_bound_events_are_lost_and_the_receiver_is_told(self):
        may_go_on = threading.Event()
        self.addCleanup(may_go_on.set)
        self.receiver.answers.put(lambda: may_go_on.wait(PATIENCE_S) and 200)
        server = self.begin(queue="64KiB", timeout="60s")
        self.receiver.request()
        # Each takes some 300 bytes.
        client = self.join(server, "x" * 200 + "0")
        for number in range(1, 400):
            client.ask(type="subscribe", id=number, topic="x" * 200 + str(number))
            client.hear()
            client.ask(type="unsubscribe", topic="x" * 200 + str(number - 1))
            client.hear()
        lost = wait_until(
            lambda: self.metric(server, 'echoring_webhook_events_lost_total{cause="queue_full"'), "events are lost"
        )
        self.assertLessEqual(self.metric(server, "echoring_webhook_queue_bytes"), 64 * 1024)
        may_go_on.set()
        told = 0
        while told < lost:
            told += self.receiver.request()[1]["lost"]
        wait_until(lambda: self.metric(server, "echoring_webhook_events_waiting") == 0, "nothing waits")


class Life(Webhooks):
    """The end of a server, its reloads, and its successors."""

    def test_a_drain_sends_what_waits(self):
        self.receiver.answers.put(500)
        server = self.start()
        client = self.join(server, "rooms.1")
        self.receiver.request()
        server.terminate()
        self.assertEqual(client.read_close(), 1001)
        self.assertEqual(server.wait(), 0)
        types = [event["type"] for event in self.receiver.rest()]
        self.assertEqual(sorted(types), sorted(KINDS))

    def test_a_receiver_that_is_down_delays_the_end_for_a_bounded_time(self):
        with refusing_port() as port:
            self.receiver.url = f"http://127.0.0.1:{port}/events"
            server = self.start()
            server.wait_for_log("events are not accepted, and sent again")
            began = time.monotonic()
            server.terminate()
            self.assertEqual(server.wait(), 0)
            self.assertLess(time.monotonic() - began, 8)
        server.wait_for_log(r"events are lost with the process.*\b1\b|\b1\b.*events are lost with the process")

    def test_a_reload_keeps_the_queue_of_a_url_and_begins_that_of_another(self):
        self.receiver.answers.put((503, "Retry-After: 2"))
        server = self.start(kinds=["topic_occupied"])
        self.join(server, "a")
        self.receiver.request()
        other = self.started(Receiver())
        self.configure({"url": other.url, "events": ["topic_occupied"]}, kinds=["topic_vacated"])
        status, _, report = server.get("/reload", "POST")
        self.assertEqual(status, 200, report)
        changed = [change["key"] for change in json.loads(report)["changed"]]
        self.assertIn("webhooks", changed)
        self.assertNotIn(SECRET.decode(), report.decode())
        client = self.join(server, "b")
        self.assertEqual([event["topic"] for event in other.events("topic_occupied")], ["b"])
        client.close()
        # What waited before, and what it is told now.
        self.assertEqual([event["topic"] for event in self.receiver.events("topic_occupied", "topic_vacated")], ["a", "b"])
        self.configure(kinds=["topic"])
        status, _, body = server.get("/reload", "POST")
        self.assertEqual(status, 422, body)
        self.assertIn(b"webhooks.events: expected", body)

    def test_a_reload_replaces_a_secret(self):
        server = self.start(kinds=["topic_occupied"])
        new = SECRET[::-1]
        for number, secrets in enumerate([(SECRET, new), (new,)]):
            self.write_secrets(*secrets)
            status, _, report = server.get("/reload", "POST")
            self.assertEqual((status, json.loads(report)["files"]), (200, [self.secret_file]))
            for secret in secrets:
                self.receiver.secret = secret
                self.join(server, f"{number} {secret == new}")
                self.receiver.events("topic_occupied")
        self.write_secrets(b"short")
        status, _, body = server.get("/reload", "POST")
        self.assertEqual(status, 422, body)
        self.assertNotIn(b"short", body.replace(b"shorter", b""))

    def test_a_takeover_repeats_nothing(self):
        server = self.start("--drain", "1h")
        client = self.join(server, "rooms.1")
        opened, *_ = self.receiver.events("connection_opened", "topic_occupied", "member_joined")
        admin, listen = (f"127.0.0.1:{port}" for port in (server.admin[1], server.port))
        successor = self.run_server("--drain", "1h", "--takeover", admin=admin, listen=listen)
        self.assertEqual(server.wait(), 0)
        self.assert_alive(client)
        self.join(successor, "b")
        events = self.receiver.events("connection_opened", "topic_occupied")
        self.assertEqual(events[1]["topic"], "b")
        client.close()
        closed, left, vacated = self.receiver.events("connection_closed", "member_left", "topic_vacated")
        self.assertEqual([closed[key] for key in ("connection", "client", "path")], [opened[key] for key in ("connection", "client", "path")])
        self.assertEqual((left["topic"], left["client"], vacated["topic"]), ("rooms.1", opened["client"], "rooms.1"))


class LifeWithoutIoUring(Life):
    denied = True


class Cluster(Webhooks):
    def told(self, count, *kinds):
        """So many events of these kinds, each with its node."""
        found = []
        while len(found) < count:
            _, body, _ = self.receiver.request()
            found += [(body["node"], event) for event in body["events"] if event["type"] in kinds]
        return found

    def test_each_node_tells_about_its_topics_and_members_are_told_once(self):
        nats = Nats()
        self.addCleanup(nats.close)
        self.configure()
        nodes = []
        for name in "ab":
            nodes.append(Node(nats, name, "--config", self.configuration))
            self.addCleanup(nodes[-1].__exit__)
        for node, other in zip(nodes, "ba"):
            node.await_members(other)
        rooms = [f"rooms.{number}" for number in range(8)]
        for node in nodes:
            for room in rooms:
                self.join(node, room)
        told = self.told(32, "topic_occupied", "member_joined")
        occupied = sorted((node, event["topic"]) for node, event in told if event["type"] == "topic_occupied")
        self.assertEqual(occupied, [(node, room) for node in "ab" for room in rooms])
        joined = {(event["topic"], event["client"]) for _, event in told if event["type"] == "member_joined"}
        self.assertEqual(len(joined), 16)
        nodes[1].process.kill()
        left = self.told(8, "member_left", "member_joined")
        self.assertEqual(sorted((node, event["topic"]) for node, event in left), [("a", room) for room in rooms])
        self.assertLessEqual({(event["topic"], event["client"]) for _, event in left}, joined)

    def test_a_planned_change_of_owners_tells_nothing_again(self):
        nats = Nats()
        self.addCleanup(nats.close)
        self.configure(kinds=("member_joined", "member_left"))
        nodes, clients = {}, []
        rooms = [f"rooms.{number}" for number in range(30)]
        for name in "abc":
            # The third node takes topics over that have members.
            nodes[name] = Node(nats, name, "--config", self.configuration)
            self.addCleanup(nodes[name].__exit__)
            for other in nodes:
                nodes[other].await_members(*(set(nodes) - {other}))
            clients += [self.join(nodes[name], room) for room in rooms]
        joined = self.told(90, "member_joined", "member_left")
        for client in clients:
            client.close()
        left = self.told(90, "member_left", "member_joined")
        counts = collections.Counter((event["type"], event["topic"], event["client"]) for _, event in joined + left)
        self.assertEqual([change for change, count in counts.items() if count > 1], [])
        self.assertEqual({kind for kind, *_ in counts}, {"member_joined", "member_left"})
        self.assertGreater(len({node for node, _ in left}), 1, "the owners are several")

    def cluster(self, nats, *names):
        """Nodes of a cluster. Those in `nats` reach it by a relay of their own."""
        servers = nats if isinstance(nats, dict) else dict.fromkeys(names, nats)
        nodes = {}
        for name in names:
            nodes[name] = Node(servers[name], name, "--config", self.configuration)
            self.addCleanup(nodes[name].__exit__)
        for name in names:
            nodes[name].await_members(*(set(names) - {name}))
        return nodes

    def test_one_node_tells_of_a_node_that_is_killed_and_none_of_one_that_leaves(self):
        nats = Nats()
        self.addCleanup(nats.close)
        kinds = ("node_lost", "node_returned", "topic_occupied")
        self.configure(kinds=kinds)
        nodes = self.cluster(nats, *"abcd")
        nodes["d"].terminate()
        self.assertEqual(nodes["d"].wait(), 0)
        for name in "abc":
            nodes[name].await_members(*(set("abc") - {name}))
        nodes["c"].process.kill()
        for name, other in zip("ab", "ba"):
            nodes[name].await_members(other)
            # This is told behind everything else.
            self.join(nodes[name], "rooms.after")
        told = []
        while sum(event["type"] == "topic_occupied" for _, event in told) < 2:
            told += self.told(1, *kinds)
        lost = [(node, event["type"], event["peer"]) for node, event in told if event["type"] != "topic_occupied"]
        self.assertIn(lost, ([("a", "node_lost", "c")], [("b", "node_lost", "c")]))

    def test_nodes_that_were_cut_off_are_told_of_when_they_return(self):
        nats = Nats()
        self.addCleanup(nats.close)
        relay = Relay("127.0.0.1", nats.port)
        self.addCleanup(relay.close)
        kinds = ("node_lost", "node_returned")
        self.configure(kinds=kinds)
        self.cluster({"a": nats, "b": nats, "c": relay}, *"abc")

        def told(kind):
            events = self.told(3, *kinds)
            self.assertEqual({event["type"] for _, event in events}, {kind})
            # Each side takes the other for dead.
            pairs = [("others" if node in "ab" else node, event["peer"]) for node, event in events]
            self.assertCountEqual(pairs, [("others", "c"), ("c", "a"), ("c", "b")])

        for _ in range(2):
            with relay.held():
                told("node_lost")
            told("node_returned")


if __name__ == "__main__":
    unittest.main()
