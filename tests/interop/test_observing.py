"""What operators see of a running server beyond sums: counts by pattern of topics, evicted histories, the TCP of connections, and traces of
single clients and topics.
"""

import contextlib
import json
import socket
import unittest

from harness import PATIENCE_S, Raw, Server, frame, request, text_file, token_file, wait_until
from test_metrics import metrics, samples
from test_v1 import RawClient

DRIVERS = ("uring", "epoll")
SECRETS = {"alice": "secret-of-alice-0001", "bob": "secret-of-bob-000001"}
TOKENS = "".join(f'[[tokens]]\ntoken = "{secret}"\nsubject = "{name}"\nsubscribe = ["*"]\n' for name, secret in SECRETS.items())


def counted(server):
    return samples(metrics(server)[1].decode())


def table(pattern, **keys):
    return "\n".join(["[[topics]]", f'pattern = "{pattern}"', *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


class Patterns(unittest.TestCase):
    """Counts by the tables of a configuration."""

    def publish(self, server, topic, messages):
        """Three connections of which one publishes, until everything is delivered and counted."""
        with Raw(server).open(f"/broadcast/{topic}") as publisher:
            subscribers = [Raw(server).open(f"/broadcast/{topic}") for _ in range(2)]
            for _ in range(messages):
                publisher.send(frame(1, b"tick"))
            for subscriber in subscribers:
                self.assertEqual([subscriber.read_frame()[1] for _ in range(messages)], [b"tick"] * messages)
            return self.of(counted(server))

    @staticmethod
    def of(samples):
        """The figures by pattern: subscriptions, accepted, published bytes, sent, delivered bytes."""
        names = ("subscriptions{", "publications_total{", "published_bytes_total{", "deliveries_sent_total{", "delivered_bytes_total{")
        result = {}
        for name, value in samples.items():
            for place, short in enumerate(names):
                if name.startswith(f"echoring_pattern_{short}") and 'result="refused"' not in name:
                    pattern = name.split('topics="')[1].split('"')[0]
                    result.setdefault(pattern, [None] * len(names))[place] = value
        return result

    def test_a_reload_keeps_the_counts_of_the_patterns_that_stay(self):
        for driver in DRIVERS:
            with self.subTest(driver), text_file(table("fast.*") + table("gone.*")) as path:
                with Server("--config", path, "--shards=2", f"--driver={driver}") as server:
                    self.assertEqual(self.of(counted(server)), {pattern: [0] * 5 for pattern in ("*", "fast.*", "gone.*")})
                    figures = self.publish(server, "fast.a", 3)
                    # A text frame of four bytes has six.
                    self.assertEqual(figures["fast.*"], [3, 3, 12, 6, 36])
                    self.publish(server, "gone.a", 2)
                    self.publish(server, "another", 1)
                    with Raw(server).open("/broadcast/gone.a"):
                        wait_until(lambda: self.of(counted(server))["gone.*"][0] == 1, "the others have left")
                        with open(path, "w", encoding="utf-8") as file:
                            file.write(table("new.*") + table("fast.*"))
                        status, _, body = server.get("/reload", "POST")
                        self.assertEqual(status, 200, body)
                        figures = self.of(counted(server))
                        self.assertEqual(sorted(figures), ["*", "fast.*", "new.*"])
                        self.assertEqual(figures["fast.*"], [0, 3, 12, 6, 36])
                        # The subscriber counts with the pattern that its topic has now.
                        self.assertEqual(figures["*"], [1, 1, 4, 2, 12])
                    self.assertEqual(self.publish(server, "fast.a", 1)["fast.*"], [3, 4, 16, 8, 48])
                    self.check_sums(server)

    def check_sums(self, server):
        """The sums of the node have the counts of patterns that are gone."""
        node = server.stats()["node"]
        self.assertEqual((node["publications"]["accepted"], node["deliveries"]["sent"]), (7, 14))
        fast = node["patterns"]["fast.*"]
        self.assertEqual((fast["publications"]["accepted"], fast["published_bytes"]), (4, 16))
        self.assertEqual((fast["delivered"], fast["delivered_bytes"], fast["histories_evicted"]), (8, 48, 0))
        self.assertEqual(fast["dropped"], {"disconnect": 0, "oldest": 0, "conflated": 0, "memory": 0})
        shards = server.stats()["shards"]
        self.assertEqual(sum(shard["patterns"]["fast.*"]["delivered"] for shard in shards), 8)

    def test_evicted_histories_are_counted(self):
        keys = {"history_messages": 1000, "history_bytes": "8MiB"}
        for driver in DRIVERS:
            with self.subTest(driver), text_file(table("large.*", **keys)) as path:
                with Server("--config", path, "--shards=2", f"--driver={driver}", "--memory-budget=16MiB") as server:
                    before = counted(server)
                    self.assertEqual(before['echoring_histories_evicted_total{shard="0"}'], 0)

                    def evicted():
                        for number in range(20):
                            status, _, body = request(server.admin, "POST", f"/topics/large.{number}", b"x" * 60_000)
                            self.assertEqual(status, 200, body)
                        node = server.stats()["node"]
                        return node if node["histories_evicted"] else None

                    node = wait_until(evicted, "an evicted history")
                    self.assertEqual(node["patterns"]["large.*"]["histories_evicted"], node["histories_evicted"])
                    after = counted(server)
                    by_shard = [value for name, value in after.items() if name.startswith("echoring_histories_evicted_total{")]
                    self.assertEqual(sum(by_shard), after['echoring_pattern_histories_evicted_total{topics="large.*"}'])
                    self.assertEqual(sum(by_shard), node["histories_evicted"])


class Tcp(unittest.TestCase):
    """What the kernel says of connections."""

    def test_round_trips_and_retransmissions_are_reported(self):
        for driver in DRIVERS:
            with self.subTest(driver), Server("--shards=1", f"--driver={driver}") as server:
                with Raw(server).open("/echo") as peer:
                    for _ in range(5):
                        peer.send(frame(1, b"hello"))
                        self.assertEqual(peer.read_frame(), (0x81, b"hello"))
                    (listed,) = json.loads(server.get("/connections")[2])["connections"]
                    self.check(listed["tcp"])
                    # One that is ranked is described, too.
                    (ranked,) = json.loads(server.get("/connections?sort=queued")[2])["connections"]
                    self.check(ranked["tcp"])

                    def sampled():
                        name = "echoring_tcp_round_trip_seconds_count"
                        figures = counted(server)
                        return figures if figures[name] >= 2 else None

                    figures = wait_until(sampled, "two samples, a second apart")
                    node = server.stats()["node"]
                    self.assertGreaterEqual(node["tcp_round_trip"]["count"], figures["echoring_tcp_round_trip_seconds_count"])
                    self.assertGreater(figures["echoring_tcp_round_trip_seconds_sum"], 0)
                    sent = figures['echoring_tcp_sampled_segments_total{kind="sent"}']
                    self.assertGreaterEqual(sent, 2 * 6, "the handshake and five echoes, in each sample")
                    self.assertLess(figures['echoring_tcp_sampled_segments_total{kind="retransmitted"}'], sent)

    def check(self, tcp):
        self.assertGreater(tcp["round_trip_us"], 0)
        self.assertGreaterEqual(tcp["segments_sent"] - tcp["segments_retransmitted"], 6)

    def test_a_unix_socket_has_none(self):
        for driver in DRIVERS:
            with self.subTest(driver), contextlib.ExitStack() as stack:
                path = stack.enter_context(token_file("")) + ".sock"
                server = stack.enter_context(Server("--listen", f"unix:{path}", "--shards=1", f"--driver={driver}"))
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(path)
                head = "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                client.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
                self.assertIn(b" 101 ", client.recv(4096))
                (listed,) = json.loads(server.get("/connections")[2])["connections"]
                self.assertNotIn("tcp", listed)


class Trace:
    """`POST /trace`, whose lines are read as they come."""

    def __init__(self, server, token=None, **what):
        self.socket = socket.create_connection(server.admin, timeout=PATIENCE_S)
        body = json.dumps(what)
        fields = f"Authorization: Bearer {token}\r\n" if token else ""
        self.socket.sendall(f"POST /trace HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        self.reader = self.socket.makefile("rb")
        self.status = int(self.reader.readline().split()[1])
        self.fields = {}
        while line := self.reader.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.fields[name.lower()] = value
        self.events = self.read()

    def read(self):
        """Its lines, up to the end. Each is a chunk."""
        while size := int(self.reader.readline(), 16):
            yield json.loads(self.reader.read(size))
            assert self.reader.readline() == b"\r\n"

    def until(self, *names, **fields):
        """The lines up to the first event of one of these names with these fields."""
        seen = []
        for event in self.events:
            seen.append(event)
            if event["event"] in names and all(event.get(field) == value for field, value in fields.items()):
                return seen
        raise AssertionError(f"no {names} {fields} in {seen}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()


class Traces(unittest.TestCase):
    """Single clients and topics are followed."""

    def only_id(self, server):
        (connection,) = json.loads(server.get("/connections")[2])["connections"]
        return connection["id"]

    @contextlib.contextmanager
    def followed_session(self, driver, *tables, receive_bytes=None):
        """A server, a session, and the trace of its connection."""
        with text_file("".join(tables)) as path, contextlib.ExitStack() as stack:
            server = stack.enter_context(Server("--config", path, "--shards=1", f"--driver={driver}"))
            peer = stack.enter_context(RawClient(server, receive_bytes).open())
            own = self.only_id(server)
            trace = stack.enter_context(Trace(server, connection=own, seconds=60))
            self.assertEqual((trace.status, trace.fields["content-type"]), (200, "application/x-ndjson"))
            started, following = trace.until("following")
            self.assertEqual(started["follows"], {"connection": own, "seconds": 60})
            self.assertEqual((following["connection"], following["route"], following["identity"]), (own, "session", None))
            yield server, peer, trace

    def test_a_connection_is_followed(self):
        for driver in DRIVERS:
            with self.subTest(driver), self.followed_session(driver, table("closed", publish="operator")) as (server, peer, trace):
                self.assertEqual(peer.subscribe("a")["offset"], 0)
                trace.until("subscribed", topic="a", offset=0)
                self.assertEqual(request(server.admin, "POST", "/topics/a", b"12345")[0], 200)
                delivered = [event for event in trace.until("delivered") if event["event"] != "sent"][-1]
                self.assertEqual((delivered["topic"], delivered["from"], delivered["to"]), ("a", 1, 1))
                sent = trace.until("sent")[-1]
                # Perhaps with the answer to the subscription before it.
                self.assertIn(sent["messages"], (1, 2))
                self.assertGreater(sent["bytes"], 5)
                peer.ask(type="publish", id=2, topic="closed", data=1)
                self.assertEqual(trace.until("refused")[-1]["code"], "forbidden")
                peer.ask(type="publish", id=4, topic="c", data=1)
                trace.until("published", topic="c", offset=1)
                peer.ask(type="unsubscribe", topic="a")
                trace.until("unsubscribed", topic="a")
                peer.send(frame(8, (1000).to_bytes(2)))
                closed = [event for event in trace.until("ended") if event["event"] == "closed"]
                self.assertEqual([(event["code"], event["cause"]) for event in closed], [(1000, "peer")])

    def test_a_gap_is_told(self):
        for driver in DRIVERS:
            tables = table("gappy", slow="drop-oldest", lag_bytes="4KiB")
            with self.subTest(driver), self.followed_session(driver, tables, receive_bytes=4096) as (server, peer, trace):
                peer.subscribe("gappy")
                for _ in range(100):
                    self.assertEqual(request(server.admin, "POST", "/topics/gappy", b"x" * 10_000)[0], 200)
                trace.until("blocked")
                while (heard := peer.hear())["type"] != "gap":
                    pass
                gap = trace.until("gap")[-1]
                self.assertEqual((gap["topic"], gap["from"], gap["to"]), ("gappy", heard["from"], heard["to"]))
                self.assertEqual(gap["reason"], heard["reason"])

    def test_backpressure_and_pings_of_an_echo_are_told(self):
        for driver in DRIVERS:
            flags = ["--shards=1", f"--driver={driver}", "--ping-interval=1s", "--max-message=1MiB"]
            with self.subTest(driver), Server(*flags) as server, Raw(server).open("/echo") as peer:
                with Trace(server, connection=self.only_id(server)) as trace:
                    trace.until("following")
                    peer.send(frame(1, b"hello"))
                    events = trace.until("sent")
                    received = [event for event in events if event["event"] == "received"]
                    self.assertEqual([(event["messages"], event["bytes"]) for event in received], [(1, 11)])
                    self.assertEqual((events[-1]["messages"], events[-1]["bytes"]), (1, 7))
                    self.assertEqual(peer.read_frame(), (0x81, b"hello"))
                    trace.until("ping")
                    self.assertEqual(peer.read_frame()[0], 0x89)
                    peer.send(frame(10))
                    trace.until("pong")
                    peer.socket.settimeout(0.2)
                    with contextlib.suppress(TimeoutError):
                        for _ in range(64):
                            peer.send(frame(2, bytes(1_000_000)))
                    self.assertGreater(trace.until("blocked")[-1]["queued_bytes"], 0)

    def test_an_identity_is_followed_over_its_connections(self):
        for driver in DRIVERS:
            with self.subTest(driver), contextlib.ExitStack() as stack:
                tokens = stack.enter_context(text_file(TOKENS))
                server = stack.enter_context(Server("--auth-tokens", tokens, "--shards=2", f"--driver={driver}"))

                def client(subject):
                    return stack.enter_context(Authenticated(server, SECRETS[subject]).open("/broadcast/a"))

                client("alice")
                with Trace(server, identity="alice") as trace:
                    self.assertEqual(trace.until("following")[-1]["identity"], "alice")
                    client("bob")

                    def joined():
                        """A connection that was seen to open: the other shard may begin after the first one was there."""
                        peer, events = client("alice"), trace.until("opened", "following")
                        return (peer, events) if events[-1]["event"] == "opened" else None

                    second, events = wait_until(joined, "a connection that is opened")
                    self.assertEqual(events[-1]["identity"], "alice")
                    second.close()
                    closed = trace.until("closed")[-1]
                    self.assertEqual(closed["connection"], events[-1]["connection"])
                    self.assertNotIn("bob", json.dumps(events))

    def test_a_topic_is_followed(self):
        for driver in DRIVERS:
            with self.subTest(driver), Server("--shards=2", f"--driver={driver}") as server:
                with Trace(server, topic="a") as trace, Raw(server).open("/broadcast/a") as peer:
                    trace.until("subscribers", count=1)
                    accepted = []
                    # What comes before the owner's first look at the new topic is not told.
                    while len(accepted) < 2:
                        self.assertEqual(request(server.admin, "POST", "/topics/a", b"12345")[0], 200)
                        self.assertEqual(peer.read_frame()[1], b"12345")
                        seen = trace.until("fanned_out", sent=1, dropped=0)
                        accepted += [event for event in seen if event["event"] == "accepted"]
                    for event, next_one in zip(accepted, [*accepted[1:], None]):
                        self.assertEqual(event["bytes"], 5 * (event["to"] - event["from"] + 1))
                        if next_one:
                            self.assertEqual(next_one["from"], event["to"] + 1)
                    peer.close()
                    trace.until("subscribers", count=0)

    def test_traces_are_bounded_audited_and_end_with_their_client(self):
        for driver in DRIVERS:
            with self.subTest(driver), token_file("write-token-0123456789") as write, token_file("read-token-0123456789") as read:
                flags = ["--admin-token-file", write, "--admin-read-token-file", read, "--shards=2", f"--driver={driver}"]
                with Server(*flags) as server, contextlib.ExitStack() as stack:
                    asked = dict(token="write-token-0123456789", topic="a")
                    with Trace(server, topic="a") as trace:
                        self.assertEqual(trace.status, 401)
                    with Trace(server, token="read-token-0123456789", topic="a") as trace:
                        self.assertEqual(trace.status, 403)
                    with Trace(server, **{**asked, "seconds": 601}) as trace:
                        self.assertEqual(trace.status, 400)
                    with Trace(server, token=asked["token"], connection="0-1-1") as trace:
                        self.assertEqual(trace.status, 400)
                    with Trace(server, token=asked["token"], connection="9c") as trace:
                        self.assertEqual(trace.status, 404)
                    traces = [stack.enter_context(Trace(server, **asked)) for _ in range(4)]
                    self.assertEqual([trace.status for trace in traces], [200] * 4)
                    server.wait_for_log(r"a client or a topic is traced.*127\.0\.0\.1.*topic=\"?a.*seconds=60")
                    with Trace(server, **asked) as trace:
                        self.assertEqual((trace.status, trace.fields["retry-after"]), (429, "1"))
                    # The place of a client that is gone is free again.
                    traces[0].__exit__()

                    def taken():
                        with contextlib.ExitStack() as attempt:
                            trace = attempt.enter_context(Trace(server, **{**asked, "seconds": 1}))
                            return [event["event"] for event in trace.events] if trace.status == 200 else None

                    self.assertEqual(wait_until(taken, "a place"), ["started", "ended"])


class Authenticated(Raw):
    """A client with a token."""

    def __init__(self, server, secret):
        super().__init__(server)
        self.secret = secret

    def open(self, path="/echo"):
        fields = f"Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {self.secret}\r\n"
        self.send(f"GET {path} HTTP/1.1\r\n{fields}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
        status, *_ = self.read_head()
        assert status == 101, status
        return self


if __name__ == "__main__":
    unittest.main()
