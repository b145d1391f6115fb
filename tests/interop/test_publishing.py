"""The admin address: publishing to topics, listing topics, and access."""

import asyncio
import base64
import contextlib
import http.client
import json
import select
import socket
import subprocess
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import BINARY, PATIENCE_S, Server, request, text_file, token_file, wait_until
from websockets.asyncio.client import connect

TOKEN = "correct-horse-battery-staple"
MIB = 1 << 20
# In which a body must have come.
BODY_TIMEOUT_S = 5


def ask(server, method, path, body=None, **headers):
    """Sends a request to the admin address. Returns status, header fields and JSON, or bytes."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    status, received, body = request(server.admin, method, path, body, fields)
    if body and received.get_content_type() == "application/json":
        body = json.loads(body)
    return status, received, body


def post(server, topic, body, media="text/plain", **headers):
    return ask(server, "POST", f"/topics/{topic}", body, Content_Type=media, **headers)


def batch(server, topic, lines, **headers):
    body = "".join(json.dumps(line) + "\n" for line in lines)
    return post(server, topic, body, "application/x-ndjson", **headers)


class Publishing(unittest.TestCase):
    denied, shards = False, 1

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--shards", str(cls.shards), denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def offset(self, topic):
        status, _, body = ask(self.server, "GET", f"/topics/{topic}")
        return body["position"]["offset"] if status == 200 else 0

    def refused(self, answer, status):
        """The error of a refusal."""
        self.assertEqual(answer[0], status, answer[2])
        return answer[2]["error"]

    def test_a_message_of_each_kind_reaches_subscribers_and_is_answered_by_its_position(self):
        async def go():
            async with connect(self.server.url("/broadcast/kinds%2Fall"), compression=None) as subscriber:
                positions = []
                for media, sent, received in [
                    ("application/json", b' {"a": [1, "\xc3\xa4"]}\r\n', '{"a": [1, "ä"]}'),
                    ("text/plain; charset=utf-8", "grün".encode(), "grün"),
                    ("application/octet-stream", b"\x00\xff", b"\x00\xff"),
                    ("text/plain", b"", ""),
                ]:
                    answer = await asyncio.to_thread(post, self.server, "kinds%2Fall", sent, media)
                    self.assertEqual(answer[0], 200, answer)
                    self.assertEqual(answer[2]["topic"], "kinds/all")
                    positions.append((answer[2]["epoch"], answer[2]["offset"]))
                    self.assertEqual(await asyncio.wait_for(subscriber.recv(), PATIENCE_S), received)
                epoch, first = positions[0]
                self.assertEqual(positions, [(epoch, first + i) for i in range(4)])
                int(epoch, 16)

        asyncio.run(go())

    def test_a_batch_arrives_in_order_and_is_answered_line_by_line(self):
        async def go():
            async with connect(self.server.url("/broadcast/batch"), compression=None) as subscriber:
                lines = [{"data": {"n": 1}}, {"text": "two"}, {"base64": base64.b64encode(b"\x03").decode()}]
                lines += [{"data": n} for n in range(500)]
                status, _, body = await asyncio.to_thread(batch, self.server, "batch", lines)
                self.assertEqual((status, body["topic"], body["refused"]), (200, "batch", 0))
                first = body["results"][0]["offset"]
                self.assertEqual([r["offset"] for r in body["results"]], list(range(first, first + 503)))
                self.assertEqual(len({r["epoch"] for r in body["results"]}), 1)
                expected = ['{"n": 1}', "two", b"\x03", *(str(n) for n in range(500))]
                got = [await asyncio.wait_for(subscriber.recv(), PATIENCE_S) for _ in expected]
                self.assertEqual(got, expected)

        asyncio.run(go())

    def test_a_batch_longer_than_a_subscriber_may_lag_does_not_make_it_lag(self):
        async def go():
            async with connect(self.server.url("/broadcast/bulk"), compression=None) as subscriber:
                texts = [str(n) * 60_000 for n in range(6)]
                answer = await asyncio.to_thread(batch, self.server, "bulk", [{"text": text} for text in texts])
                self.assertEqual((answer[0], answer[2]["refused"]), (200, 0))
                for text in texts:
                    self.assertEqual(await asyncio.wait_for(subscriber.recv(), PATIENCE_S), text)

        asyncio.run(go())

    def test_a_batch_with_a_wrong_line_publishes_nothing_and_names_it(self):
        batch(self.server, "half", [{"text": "before"}])
        body = '{"text":"a"}\n{"text":"b","key":""}\n'
        error = self.refused(post(self.server, "half", body, "application/x-ndjson"), 400)
        self.assertEqual((error["code"], error["field"], error["line"]), ("bad-field", "key", 2))
        error = self.refused(post(self.server, "half", "{}\n", "application/x-ndjson"), 400)
        self.assertEqual((error["code"], error["line"]), ("missing-field", 1))
        self.assertEqual(self.offset("half"), 1)

    def test_what_is_not_what_it_says_is_400_and_names_the_field(self):
        for body, media, code in [
            ("{", "application/json", "bad-json"),
            ("{} {}", "application/json", "bad-json"),
            ("", "application/json", "bad-json"),
            (b"\xff", "text/plain", "bad-field"),
            ("", "application/x-ndjson", "bad-json"),
        ]:
            self.assertEqual(self.refused(post(self.server, "wrong", body, media), 400)["code"], code)
        for path, field in [
            ("a/b", "topic"),
            ("", "topic"),
            ("%ff", "topic"),
            ("t" * 256, "topic"),
            ("%00", "topic"),
            ("wrong%0A", "topic"),
            ("wrong%7F", "topic"),
            ("wrong%C2%85", "topic"),
            ("wrong?key=", "key"),
            ("wrong?key=" + "k" * 256, "key"),
            ("wrong?kee=a", "query"),
        ]:
            self.assertEqual(self.refused(post(self.server, path, "a"), 400)["field"], field, path)
        error = self.refused(post(self.server, "wrong?key=a", '{"text":""}', "application/x-ndjson"), 400)
        self.assertEqual(error["field"], "key")
        for media in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            error = self.refused(post(self.server, "wrong", "a=b", media), 415)
            self.assertIn("application/json", error["message"])
        self.assertEqual(ask(self.server, "GET", "/topics/wrong")[0], 404, "nothing came of it")

    def test_json_is_as_deep_as_readers_of_json_take_it_and_no_deeper(self):
        for depth, status in ((128, 200), (129, 400), (30_000, 400)):
            value = "[" * depth + "]" * depth
            for body, media in ((value, "application/json"), (f'{{"data":{value}}}', "application/x-ndjson")):
                answer = post(self.server, "deep", body, media)
                if status == 200:
                    self.assertEqual(answer[0], 200, answer)
                else:
                    self.assertEqual(self.refused(answer, 400)["field"], "data", depth)
        self.assertEqual(self.offset("deep"), 2)

    def test_a_request_of_http_1_1_without_one_host_is_400(self):
        for request, status in [
            ("GET /stats HTTP/1.1\r\n\r\n", 400),
            ("GET /stats HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            ("POST /topics/hostless HTTP/1.1\r\nContent-Length: 1\r\n\r\na", 400),
            ("GET /stats HTTP/1.0\r\n\r\n", 200),
        ]:
            with socket.create_connection(self.server.admin, timeout=PATIENCE_S) as peer:
                peer.sendall(request.encode())
                self.assertEqual(self.answer(peer)[0], status, request)
        self.assertEqual(ask(self.server, "GET", "/topics/hostless")[0], 404)

    def test_a_request_that_is_sent_again_publishes_once(self):
        once = {"Idempotency-Key": "5f0c"}
        first = post(self.server, "again", "a", "text/plain", **once)
        self.assertEqual((first[0], first[2]["offset"]), (200, 1))
        for key in ("5f0c", '"5f0c"'):
            again = post(self.server, "again", "a", "text/plain", **{"Idempotency-Key": key})
            self.assertEqual((again[0], again[2]), (200, first[2]))
        error = self.refused(post(self.server, "again", "b", "text/plain", **once), 422)
        self.assertEqual(error["code"], "idempotency-key-reused")
        self.assertEqual(post(self.server, "again", "b", "text/plain")[2]["offset"], 2)
        error = self.refused(post(self.server, "again", "a", "text/plain", **{"Idempotency-Key": ""}), 400)
        self.assertEqual(error["field"], "Idempotency-Key")
        lines = '{"text":"c"}\n{"text":"d"}\n'
        media = "application/x-ndjson"
        results = post(self.server, "again", lines, media, **once)[2]["results"]
        self.assertEqual([result["offset"] for result in results], [3, 4])
        # More messages of the same batch; accepted messages keep their positions.
        results = post(self.server, "again", lines + '{"text":"e"}', media, **once)[2]["results"]
        self.assertEqual([result["offset"] for result in results], [3, 4, 5])
        own = '{"text":"f","idempotency_key":"mine"}\n{"text":"f","idempotency_key":"mine"}'
        results = post(self.server, "again", own, media)[2]["results"]
        self.assertEqual([result["offset"] for result in results], [6, 6])
        self.assertEqual(self.offset("again"), 6)

    def test_what_is_too_long_is_413(self):
        most = 64 * 1024
        self.assertEqual(post(self.server, "long", b"x" * most)[0], 200)
        self.assertEqual(self.refused(post(self.server, "long", b"x" * (most + 1)), 413)["code"], "too-large")
        # In a batch it applies to its line only.
        lines = [{"text": "a"}, {"text": "x" * (most + 1)}, {"text": "b"}]
        status, _, body = batch(self.server, "long", lines)
        self.assertEqual((status, body["refused"]), (200, 1))
        self.assertEqual(body["results"][1]["error"]["code"], "too-large")
        self.assertEqual([body["results"][at]["offset"] for at in (0, 2)], [2, 3])
        status, _, body = batch(self.server, "long", lines[1:2])
        self.assertEqual((status, body["error"]["code"], body["refused"]), (413, "too-large", 1))
        self.refused(post(self.server, "long", b"\n" * (MIB + 1), "application/x-ndjson"), 413)
        error = self.refused(batch(self.server, "long", [{"text": ""}] * 1025), 413)
        self.assertEqual(error["code"], "too-many-messages")
        self.assertEqual(self.offset("long"), 3)

    def test_methods_that_make_no_sense_are_405(self):
        for method, path, allowed in [
            ("PUT", "/topics/a", "GET, HEAD, POST"),
            ("POST", "/topics", "GET, HEAD"),
            ("POST", "/stats", "GET, HEAD"),
            ("OPTIONS", "/topics/a", "GET, HEAD, POST"),
        ]:
            status, headers, _ = ask(self.server, method, path)
            self.assertEqual((status, headers["Allow"]), (405, allowed))
        self.assertEqual(ask(self.server, "POST", "/nowhere", "a")[0], 404)
        self.assertEqual(ask(self.server, "GET", "/topics/a", "a body")[0], 413)

    def test_topics_are_listed_with_what_is_known_of_them(self):
        for name, count in (("list.b", 2), ("list.a", 1), ("list.c", 3)):
            batch(self.server, name, [{"text": "abc"}] * count)
        status, _, body = ask(self.server, "GET", "/topics?prefix=list.&limit=2")
        self.assertEqual((status, body["schema"], body["silent_shards"]), (200, "echoring.topics/1", 0))
        self.assertEqual((body["count"], body["truncated"]), (3, True))
        self.assertEqual([topic["topic"] for topic in body["topics"]], ["list.a", "list.b"])
        _, _, body = ask(self.server, "GET", "/topics?prefix=list.c")
        (topic,) = body["topics"]
        self.assertEqual((topic["position"]["offset"], topic["payload_bytes"]), (3, 9))
        self.assertEqual(topic["publications"], {"published": 3, "accepted": 3, "refused": 0})
        self.assertEqual(topic["subscribers"], 0)
        status, _, one = ask(self.server, "GET", "/topics/list.c")
        self.assertEqual((status, one["schema"], one["position"]), (200, "echoring.topic/1", topic["position"]))
        self.assertEqual([shard["shard"] for shard in one["shards"] if shard["home"]], [self.home(one)])
        status, headers, body = ask(self.server, "HEAD", "/topics/list.c")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        error = self.refused(ask(self.server, "GET", "/topics/nobody-knows"), 404)
        self.assertEqual(error["code"], "unknown-topic")
        for query, field in (("limit=0", "limit"), ("limit=10001", "limit"), ("name=a", "query")):
            self.assertEqual(self.refused(ask(self.server, "GET", f"/topics?{query}"), 400)["field"], field)

    def home(self, one):
        (home,) = [shard["shard"] for shard in one["shards"] if shard["home"]]
        return home

    def test_stats_have_the_sums_and_they_add_up(self):
        batch(self.server, "sums", [{"text": "a"}] * 5)
        stats = self.server.stats()
        for part in (stats["node"], *stats["shards"]):
            published = part["publications"]
            self.assertEqual(published["published"], published["accepted"] + published["refused"])
            offered = part["deliveries"]
            self.assertEqual(offered["offered"], offered["sent"] + offered["queued"] + sum(offered["dropped"].values()))
        for shards, node in [
            ([shard[group][field] for shard in stats["shards"]], stats["node"][group][field])
            for group in ("publications", "deliveries", "passed")
            for field in stats["node"][group]
            if field != "dropped"
        ]:
            self.assertEqual(sum(shards), node)

    def send_body(self, stack, topic, length, body):
        """Opens a connection that publishes a batch, and sends these first bytes of it."""
        peer = stack.enter_context(socket.create_connection(self.server.admin, timeout=PATIENCE_S))
        head = f"POST /topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        peer.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
        return peer

    def answer(self, peer):
        with contextlib.closing(http.client.HTTPResponse(peer)) as response:
            response.begin()
            return response.status, response.headers, response.read()

    def test_bodies_are_held_up_to_a_bound_and_what_comes_on_top_is_429(self):
        body = b'{"text":"held"}'.ljust(MIB, b"\n")
        with contextlib.ExitStack() as stack:
            # All requests together may hold 8 MiB.
            began = time.monotonic()
            peers = [self.send_body(stack, "held", MIB, body[:-1]) for _ in range(9)]
            refused, _, _ = select.select(peers, [], [], PATIENCE_S)
            self.assertGreater(len(refused), 0)
            for peer in refused:
                status, headers, text = self.answer(peer)
                self.assertEqual((status, headers["Retry-After"], json.loads(text)["error"]["code"]), (429, "1", "busy"))
            self.assertEqual(ask(self.server, "GET", "/healthz")[0], 200)
            statuses = []
            for peer in set(peers).difference(refused):
                # A refused connection may be reset because it still sends.
                with contextlib.suppress(ConnectionError):
                    peer.sendall(body[-1:])
                    statuses.append(self.answer(peer)[0])
            is_late = time.monotonic() - began > BODY_TIMEOUT_S
        # Only on a machine that was busy for so long may a last byte have come too late.
        self.assertLessEqual(set(statuses), {200, 429} | ({408} if is_late else set()))
        self.assertGreater(statuses.count(200), 0)
        self.assertEqual(self.offset("held"), statuses.count(200))
        self.assertEqual(post(self.server, "held", b"there is room again")[0], 200)

    def test_a_body_that_does_not_come_is_not_waited_for_long(self):
        with contextlib.ExitStack() as stack:
            peer = self.send_body(stack, "late", 100, b'{"text":')
            self.assertEqual(self.answer(peer)[0], 408)
        self.assertEqual(self.offset("late"), 0)

    def test_what_was_answered_is_what_was_published_however_many_publish_at_once(self):
        positions, lock = [], threading.Lock()

        def publish(number):
            for _ in range(10):
                status, headers, body = batch(self.server, "many", [{"data": number}] * 200)
                if status == 429:
                    self.assertIn("Retry-After", headers)
                offsets = [r["offset"] for r in body.get("results", []) if "offset" in r]
                self.assertEqual(offsets, sorted(set(offsets)))
                with lock:
                    positions.extend(offsets)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
            self.assertFalse(thread.is_alive())
        self.assertGreater(len(positions), 0)
        self.assertEqual(sorted(positions), list(range(1, len(positions) + 1)))
        self.assertEqual(self.offset("many"), len(positions))

    def test_pages_in_browsers_and_names_that_lead_here_are_refused(self):
        for method, path in (("POST", "/topics/a"), ("GET", "/stats"), ("GET", "/topics")):
            for fields in ({"Origin": "http://localhost:9001"}, {"Origin": "null"}, {"Host": "evil.example"}):
                self.assertEqual(self.refused(ask(self.server, method, path, **fields), 403)["code"], "forbidden")
        self.assertEqual(ask(self.server, "GET", "/healthz", Host="node.example")[0], 200)
        self.assertEqual(ask(self.server, "GET", "/stats", Host="localhost")[0], 200)


class PublishingOverTwoShardsWithoutIoUring(Publishing):
    denied, shards = True, 2


CONFLATING = """
[[topics]]
pattern = "latest.*"
slow = "conflate"
"""


class Refusals(unittest.TestCase):
    """What a topic cannot take, and what there is no memory for."""

    def serve(self, *flags):
        file = self.enterContext(text_file(CONFLATING))
        return self.enterContext(Server("--shards", "1", "--config", file, *flags))

    def codes(self, body):
        """The code of each line of a batch; `None` for one that was accepted."""
        return [result.get("error", {}).get("code") for result in body["results"]]

    def test_a_conflating_topic_takes_keys_and_no_more_than_4096(self):
        server = self.serve()
        status, headers, body = post(server, "latest.a", "without")
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]), (400, "no-key", None))
        status, _, body = batch(server, "latest.a", [{"text": "without"}] * 2)
        self.assertEqual((status, body["refused"], body["error"]["code"]), (400, 2, "no-key"))
        self.assertEqual(self.codes(body), ["no-key"] * 2)
        for first in range(0, 4096, 1024):
            lines = [{"text": "x", "key": f"{number}"} for number in range(first, first + 1024)]
            status, _, body = batch(server, "latest.a", lines)
            self.assertEqual((status, body["refused"]), (200, 0))
        answers = []

        def is_refused_for_good():
            answers.append(post(server, "latest.a?key=further", "x"))
            return answers[-1][0] != 429

        # A busy machine may have kept the shard from a tick for a while.
        wait_until(is_refused_for_good, "the shard is not busy")
        status, headers, body = answers[-1]
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]), (400, "too-many-keys", None))
        # A refusal for good concerns its line only.
        lines = [{"text": "x", "key": "further"}, {"text": "y", "key": "0"}]
        status, _, body = batch(server, "latest.a", lines)
        self.assertEqual((status, self.codes(body)), (200, ["too-many-keys", None]))

    def test_behind_a_message_that_there_is_no_memory_for_a_batch_is_refused(self):
        server = self.serve("--memory-budget", "16MiB")
        # The latest message of a key is kept.
        large, codes, batches = "x" * 60_000, [], 0
        while codes.count(None) == len(codes):
            lines = [{"text": large, "key": f"{batches}-{number}"} for number in range(16)]
            # It would find room, but not its place in the order.
            status, headers, body = batch(server, "latest.a", [*lines, {"text": "small", "key": "small"}])
            codes = self.codes(body)
            batches += 1
            self.assertLess(batches, 40, "messages of all keys together are within the budget")
        accepted = codes.count(None)
        self.assertEqual(codes, [None] * accepted + ["out-of-memory"] * (17 - accepted))
        self.assertEqual((status, headers["Retry-After"]), (200 if accepted else 503, "1"))
        self.assertEqual(body["refused"], 17 - accepted)
        status, headers, body = post(server, "latest.a?key=further", large)
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]), (503, "out-of-memory", "1"))
        status, headers, body = batch(server, "latest.a", [{"text": large, "key": "further"}, {"text": "s", "key": "small"}])
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]), (503, "out-of-memory", "1"))
        self.assertEqual(self.codes(body), ["out-of-memory"] * 2)


class Access(unittest.TestCase):
    def test_with_a_token_nothing_is_told_or_done_without_it(self):
        with token_file(TOKEN + "\n") as file, Server("--admin-token-file", file, admin="0.0.0.0:0") as server:
            attempts = []
            for method, path in [
                ("GET", "/stats"),
                ("GET", "/topics"),
                ("GET", "/topics/a"),
                ("POST", "/topics/a"),
                ("PUT", "/topics/a"),
                ("GET", "/nowhere"),
                ("POST", "/healthz"),
                ("OPTIONS", "*"),
            ]:
                for fields in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}x"}, {"Authorization": TOKEN}):
                    attempts.append((method, path, fields))

            def answer(attempt):
                method, path, fields = attempt
                status, headers, body = ask(server, method, path, **fields)
                headers = {name: value for name, value in headers.items() if name.lower() != "date"}
                return status, body, tuple(sorted(headers.items()))

            # Each is answered later than the one before, so they are made at the same time.
            with ThreadPoolExecutor(len(attempts)) as threads:
                ((status, body, headers),) = set(threads.map(answer, attempts))
            self.assertEqual((status, body), (401, b""))
            self.assertEqual({name.lower(): value for name, value in headers}["www-authenticate"], "Bearer")
            self.assertEqual(ask(server, "GET", "/healthz")[0], 200)
            right = {"Authorization": f"Bearer {TOKEN}"}
            self.assertEqual(ask(server, "GET", "/stats", **right)[0], 200)
            self.assertEqual(post(server, "a", "a", **right)[2]["offset"], 1)
            self.assertEqual(ask(server, "GET", "/topics/a", **right)[2]["position"]["offset"], 1)
            self.assertEqual(ask(server, "GET", "/nowhere", **right)[0], 404)
            self.assertFalse(any(TOKEN in line for line in server.log), server.log)
            self.assertFalse(any("WARN" in line and "without authentication" in line for line in server.log), server.log)

    def test_without_a_token_a_reachable_address_publishes_for_nobody(self):
        with Server(admin="0.0.0.0:0") as server:
            status, _, body = post(server, "a", "a")
            self.assertEqual((status, body["error"]["code"]), (403, "forbidden"))
            self.assertIn("require a token", body["error"]["message"])
            self.assertEqual(ask(server, "GET", "/topics")[2]["count"], 0)

    def test_a_token_that_others_can_read_is_warned_about(self):
        with token_file(TOKEN + "\n", mode=0o644) as file, Server("--admin-token-file", file) as server:
            self.assertTrue(any("WARN" in line and file in line for line in server.log), server.log)

    def test_a_file_without_a_token_keeps_the_server_from_starting(self):
        for text in ("", "too short\n", f"{TOKEN}\n{TOKEN}\n"):
            with token_file(text) as file:
                command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
                done = subprocess.run(
                    [*command, "--admin-token-file", file], capture_output=True, text=True, timeout=PATIENCE_S
                )
                self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
                self.assertIn(file, done.stderr)
