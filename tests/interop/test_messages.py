"""Messages of back ends to connections and identities, and to several topics at once, over connections that they keep."""

import base64
import contextlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time
import unittest

import jwt
import trustme
from harness import PATIENCE_S, Raw, Server, frame, request, wait_until
from test_centrifugo_api import CLIENTS, SECRET, Subscriber
from test_event_streams import Stream
from test_tls import client as trusting
from test_tls import files
from websockets.sync.client import connect

V1 = ["echoring.v1.json"]
BATCH_MAX = 10_000
# The Content-Type and the body of a message of each kind.
JSON, TEXT, BINARY = ("application/json", b'{"a": 1}'), ("text/plain", "grün\nund".encode()), ("application/x-own", b"\0\xff")


def post(server, path, body, media="text/plain", **headers):
    """Status and JSON of the answer, or its lines."""
    headers = {"Content-Type": media} | {name.replace("_", "-"): value for name, value in headers.items()}
    status, received, body = request(server.admin, "POST", path, body, headers)
    if received.get_content_type() == "application/x-ndjson":
        return status, [json.loads(line) for line in body.splitlines()]
    return status, json.loads(body)


def lines_of(messages):
    return "".join(json.dumps(message) + "\n" for message in messages).encode()


def listed(server, query=""):
    status, _, body = server.get(f"/connections?limit=1000{query}")
    assert status == 200, body
    return json.loads(body)["connections"]


def token(user):
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600}, SECRET, "HS256")


class Started(unittest.TestCase):
    denied = False
    flags = ()

    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        secret = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "secret")
        with open(secret, "w") as file:
            file.write(SECRET)
        cls.auth = ("--auth-jwt-key", secret, "--auth-anonymous")
        cls.server = stack.enter_context(Server("--shards", "2", *cls.auth, *cls.flags, denied=cls.denied))

    def open(self, path, **options):
        """A connection, and its id."""
        known = {each["id"] for each in listed(self.server)}
        client = connect(self.server.url(path), compression=None, open_timeout=PATIENCE_S, **options)
        self.addCleanup(client.close)
        return client, self.new(known)

    def new(self, known):
        return wait_until(lambda: [each["id"] for each in listed(self.server) if each["id"] not in known], "it is listed")[0]

    def refused(self, answer, status, code):
        self.assertEqual((answer[0], answer[1]["error"]["code"]), (status, code), answer)


class ToConnections(Started):
    flags = ("--max-message", "16KiB", "--queue-bytes", "64KiB")

    def send(self, to, message):
        media, body = message
        self.assertEqual(post(self.server, f"/connections/{to}", body, media)[0], 200)

    def test_raw_connections_get_a_message_as_it_is(self):
        for path in ("/echo", "/broadcast/room", "/"):
            with self.subTest(path):
                client, name = self.open(path)
                for message, expected in ((JSON, '{"a": 1}'), (TEXT, "grün\nund"), (BINARY, b"\0\xff")):
                    self.send(name, message)
                    self.assertEqual(client.recv(PATIENCE_S), expected)

    def test_sessions_get_an_event_without_a_topic(self):
        client, name = self.open("/broadcast", subprotocols=V1)
        for message, expected in ((JSON, {"data": {"a": 1}}), (TEXT, {"text": "grün\nund"}), (BINARY, {"base64": "AP8="})):
            self.send(name, message)
            self.assertEqual(json.loads(client.recv(PATIENCE_S)), {"type": "direct", **expected})

    def test_sessions_of_centrifuge_get_an_asynchronous_message(self):
        known = {each["id"] for each in listed(self.server)}
        subscriber = Subscriber(self.server)
        self.addCleanup(subscriber.close)
        name = self.new(known)
        for message, expected in ((JSON, {"a": 1}), (TEXT, "grün\nund"), (BINARY, "AP8=")):
            self.send(name, message)
            self.assertEqual(json.loads(subscriber.take()), {"push": {"message": {"data": expected}}})
        # A session gets messages only after its connect command.
        silent, name = self.open(CLIENTS)
        answer = post(self.server, f"/connections/{name}", "too early")
        self.refused(answer, 429, "busy")
        silent.send('{"id":1,"connect":{}}')
        self.assertIn("connect", json.loads(silent.recv(PATIENCE_S)))
        self.send(name, TEXT)
        self.assertIn("message", json.loads(silent.recv(PATIENCE_S))["push"])

    def test_event_streams_get_an_event_that_moves_no_position(self):
        known = {each["id"] for each in listed(self.server)}
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)
        with Stream(connection, "/sse/quiet") as stream:
            name, position, _ = stream.next()
            self.assertEqual(name, "subscribed")
            identity = self.new(known)
            for message, expected in (
                (JSON, ("direct", '{"a": 1}')),
                (TEXT, ("direct", "grün\nund")),
                (BINARY, ("direct-bytes", "AP8=")),
            ):
                self.send(identity, message)
                name, last, data = stream.next()
                self.assertEqual((name, data), expected)
                # The reader keeps its last id.
                self.assertIn(last, (None, position))

    def test_who_was_there_is_gone_and_who_never_was_is_unknown(self):
        client, name = self.open("/echo")
        client.close()
        wait_until(lambda: name not in [each["id"] for each in listed(self.server)], "it is closed")
        for _ in range(2):
            self.refused(post(self.server, f"/connections/{name}", "a"), 410, "closed-connection")
            # Its place may have another connection meanwhile.
            self.open("/echo")
        number = int(name, 16)
        for unknown in (f"{number ^ 1:x}", f"{number ^ 1 << 64:x}", name[:-1], f"0{name}", name.upper() + "g", "0-0-1", "x"):
            self.refused(post(self.server, f"/connections/{unknown}", "a"), 404, "unknown-connection")

    def test_what_is_no_message_is_refused_and_what_is_too_long(self):
        client, name = self.open("/echo")
        path = f"/connections/{name}"
        self.refused(post(self.server, path, "{", "application/json"), 400, "bad-json")
        self.refused(post(self.server, path, b"\xff"), 400, "bad-field")
        self.refused(post(self.server, path, '{"text":"a"}', "application/x-ndjson"), 415, "unsupported-media-type")
        self.refused(post(self.server, path, "a", Content_Encoding="gzip"), 415, "unsupported-media-type")
        self.refused(post(self.server, path, "a" * (16 * 1024 + 1)), 413, "too-large")
        longest = "a" * (16 * 1024)
        self.send(name, ("text/plain", longest.encode()))
        self.assertEqual(client.recv(PATIENCE_S), longest)

    def test_a_client_that_does_not_read_is_sent_no_more_and_gets_all_that_was_queued(self):
        with socket.socket() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream.connect((self.server.host, self.server.port))
            client, name = self.open("/echo", sock=stream, max_queue=1)
            sent = 0
            while True:
                text = f"{sent} " + "x" * 8_000
                status, answer = post(self.server, f"/connections/{name}", text)
                if status != 200:
                    break
                sent += 1
                self.assertLess(sent, 10_000)
            self.refused((status, answer), 429, "busy")
            for number in range(sent):
                self.assertEqual(client.recv(PATIENCE_S).split()[0], str(number))
            self.send(name, TEXT)
            self.assertEqual(client.recv(PATIENCE_S), "grün\nund")

    def test_nothing_comes_between_the_fragments_of_an_echo(self):
        known = {each["id"] for each in listed(self.server)}
        with Raw(self.server).open("/echo") as raw:
            name = self.new(known)
            raw.send(bytes([frame(1, b"one")[0] & 0x7F]) + frame(1, b"one")[1:])
            self.assertEqual(raw.read_exactly(5), b"\x01\x03one")
            self.refused(post(self.server, f"/connections/{name}", "between"), 429, "busy")
            raw.send(frame(0, b"two"))
            self.assertEqual(raw.read_exactly(5), b"\x80\x03two")
            self.send(name, ("text/plain", b"behind"))
            self.assertEqual(raw.read_exactly(8), b"\x81\x06behind")

    def test_an_identity_has_all_its_connections_told(self):
        bearer = {"additional_headers": {"Authorization": f"Bearer {token('alice & bob/ä')}"}}
        path = "/identities/alice%20&%20bob%2F%C3%A4"
        self.refused(post(self.server, path, "a"), 404, "unknown-connection")
        clients = [self.open("/broadcast", subprotocols=V1, **bearer)[0] for _ in range(3)]
        clients += [self.open("/echo", **bearer)[0] for _ in range(2)]
        other, _ = self.open("/echo", additional_headers={"Authorization": f"Bearer {token('alice')}"})
        status, answer = post(self.server, path, "to all")
        self.assertEqual((status, answer["sent"], answer["busy"], answer["next"]), (200, 5, 0, None))
        for client in clients:
            self.assertIn(client.recv(PATIENCE_S), ('{"type":"direct","text":"to all"}', "to all"))
        self.assertEqual(post(self.server, "/identities/alice", "to one")[1]["sent"], 1)
        self.assertEqual(other.recv(PATIENCE_S), "to one")
        for wrong in ("/identities/", "/identities/a/b", "/identities/a?topic=b", f"/identities/{'a' * 256}"):
            self.assertEqual(post(self.server, wrong, "a")[0], 400, wrong)

    def test_all_that_match_are_told(self):
        members = [self.open("/broadcast/of-many")[0] for _ in range(3)]
        self.refused(post(self.server, "/connections", "a"), 400, "no-filter")
        self.assertEqual(post(self.server, "/connections?topic=of-many&limit=1", "a")[0], 400)
        answer = post(self.server, "/connections?topic=of-many", "a")
        self.assertEqual((answer[0], answer[1]["sent"]), (200, 3))
        self.assertEqual([member.recv(PATIENCE_S) for member in members], ["a"] * 3)


class ToConnectionsOnEpoll(ToConnections):
    denied = True


class OfAPredecessor(Started):
    def test_a_connection_that_stays_behind_is_reached_through_the_successor(self):
        with files() as folder:
            authority = trustme.CA()
            flags = ["--shards", "2", "--drain", "1h", *folder.certificate("own", authority.issue_cert("localhost"))]
            with Server(*flags) as first:
                stream = socket.create_connection((first.host, first.port), PATIENCE_S)
                options = {"ssl": trusting(authority), "open_timeout": PATIENCE_S, "compression": None}
                with connect("wss://localhost/echo", sock=stream, **options) as client:
                    listen, admin = f"{first.host}:{first.port}", f"127.0.0.1:{first.admin[1]}"
                    with Server(*flags, "--takeover", listen=listen, admin=admin) as second:
                        (one,) = listed(second)
                        self.assertEqual(one["process"], "predecessor")
                        for message, expected in ((TEXT, "grün\nund"), (BINARY, b"\0\xff")):
                            self.assertEqual(post(second, f"/connections/{one['id']}", message[1], message[0])[0], 200)
                            self.assertEqual(client.recv(PATIENCE_S), expected)
                        client.close()
                        gone = wait_until(
                            lambda: (answer := post(second, f"/connections/{one['id']}", "a"))[0] != 200 and answer,
                            "it is closed",
                        )
                        self.assertIn(gone[0], (404, 410))
                        self.assertEqual(first.wait(), 0)
                        self.refused(post(second, f"/connections/{one['id']}", "a"), 404, "unknown-connection")


class ToTopics(Started):
    def listen(self, topic):
        client = connect(self.server.url(f"/broadcast/{topic}"), compression=None, open_timeout=PATIENCE_S, max_queue=None)
        self.addCleanup(client.close)
        return client

    def heard(self, client, count):
        return [client.recv(PATIENCE_S) for _ in range(count)]

    def test_one_message_goes_to_several_topics(self):
        clients = [self.listen(topic) for topic in ("one", "two")]
        body = json.dumps({"topics": ["one", "two", "three"], "data": {"a": 1}})
        for offset in (1, 2):
            status, answer = post(self.server, "/broadcast", body, "application/json")
            self.assertEqual((status, answer["refused"]), (200, 0))
            self.assertEqual([(each["topic"], each["offset"]) for each in answer["results"]], [("one", offset), ("two", offset), ("three", offset)])
        for client in clients:
            self.assertEqual(self.heard(client, 2), ['{"a": 1}'] * 2)
        for message, expected in (({"text": "ä"}, "ä"), ({"base64": "AP8="}, b"\0\xff")):
            body = json.dumps({"topics": ["one"], **message})
            self.assertEqual(post(self.server, "/broadcast", body, "application/json")[0], 200)
            self.assertEqual(self.heard(clients[0], 1), [expected])

    def test_a_message_for_several_topics_is_published_once(self):
        body = json.dumps({"topics": ["once", "twice"], "text": "x"})
        answers = [post(self.server, "/broadcast", body, "application/json", Idempotency_Key="k") for _ in range(2)]
        self.assertEqual(answers[0], answers[1])
        both = json.dumps({"topics": ["once"], "text": "x", "idempotency_key": "own"})
        answer = post(self.server, "/broadcast", both, "application/json", Idempotency_Key="k")
        self.assertEqual((answer[0], answer[1]["error"]["field"]), (400, "idempotency_key"))

    def test_a_long_message_reaches_more_topics_than_wait_at_once(self):
        topics = [f"wide{number}" for number in range(300)]
        body = json.dumps({"topics": topics, "text": "x" * 60_000})
        status, answer = post(self.server, "/broadcast", body, "application/json")
        self.assertEqual((status, answer["refused"], len(answer["results"])), (200, 0, 300))

    def test_what_is_wrong_with_it_is_told(self):
        for body, media, status, code in [
            ('{"topics":[],"text":""}', "application/json", 400, "bad-field"),
            ('{"text":""}', "application/json", 400, "bad-field"),
            ('{"topics":["a"]}', "application/json", 400, "missing-field"),
            ("[]", "application/json", 400, "bad-json"),
            (json.dumps({"topics": ["a"] * 1_025, "text": ""}), "application/json", 413, "too-many-messages"),
            ("a", "text/plain", 415, "unsupported-media-type"),
        ]:
            self.refused(post(self.server, "/broadcast", body, media), status, code)
        self.assertEqual(post(self.server, "/broadcast?key=a", "{}", "application/json")[0], 400)
        status, lines = post(self.server, "/broadcast", "", "application/x-ndjson")
        self.assertEqual((status, lines[0]["error"]["code"]), (400, "bad-json"))

    def test_ten_thousand_messages_arrive_in_order_and_have_an_answer_each(self):
        topics = [f"large{number}" for number in range(3)]
        clients = [self.listen(topic) for topic in topics]
        heard = {}
        threads = [
            threading.Thread(target=lambda at=at: heard.update({at: self.heard(clients[at], len(range(at, BATCH_MAX, 3)))}))
            for at in range(3)
        ]
        for thread in threads:
            thread.start()
        messages = [{"topic": topics[number % 3], "text": str(number)} for number in range(BATCH_MAX)]
        status, answers = post(self.server, "/broadcast", lines_of(messages), "application/x-ndjson")
        self.assertEqual((status, len(answers)), (200, BATCH_MAX))
        for at, topic in enumerate(topics):
            own = answers[at::3]
            self.assertEqual({each["topic"] for each in own}, {topic})
            self.assertEqual([each["offset"] for each in own], list(range(1, len(own) + 1)))
        for thread in threads:
            thread.join()
        self.assertEqual(heard, {at: [str(number) for number in range(at, BATCH_MAX, 3)] for at in range(3)})
        messages.append({"topic": "large0", "text": "too much"})
        status, answers = post(self.server, "/broadcast", lines_of(messages), "application/x-ndjson")
        self.assertEqual((status, len(answers), answers[-1]["error"]["code"]), (200, BATCH_MAX + 1, "too-many-messages"))

    def test_each_line_is_judged_for_itself(self):
        messages = [{"topic": "lines", "text": "a"}, {"topic": "", "text": "b"}, {"topic": "lines", "base64": "*"}, {"topic": "lines", "data": None}]
        body = lines_of(messages[:2]) + b"\nnonsense\n" + lines_of(messages[2:])
        status, answers = post(self.server, "/broadcast", body, "application/x-ndjson")
        self.assertEqual(status, 200)
        self.assertEqual([each.get("offset") for each in answers], [1, None, None, None, 2])
        errors = [(each["error"]["code"], each["error"]["line"]) for each in answers if "error" in each]
        self.assertEqual(errors, [("bad-field", 2), ("bad-json", 4), ("bad-field", 5)])

    def test_a_batch_that_is_sent_again_is_published_once(self):
        body = lines_of({"topic": f"again{number % 2}", "text": str(number)} for number in range(600))
        answers = [post(self.server, "/broadcast", body, "application/x-ndjson", Idempotency_Key="batch") for _ in range(2)]
        self.assertEqual(answers[0], answers[1])
        self.assertEqual([each["offset"] for each in answers[0][1][-2:]], [300, 300])

    def test_a_batch_is_read_as_it_comes_and_ends_where_it_is_too_late(self):
        listening = self.listen("slow")
        line = lines_of([{"topic": "slow", "text": "x" * 990}])
        with socket.create_connection(self.server.admin, PATIENCE_S) as stream:
            head = "POST /broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            stream.sendall(head.encode())
            for _ in range(100):
                stream.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            # The first ones are published before the body ends.
            self.heard(listening, 50)
            response = http.client.HTTPResponse(stream)
            response.begin()
            answers = [json.loads(text) for text in response.read().splitlines()]
            self.assertEqual((response.status, response.headers["Connection"]), (200, "close"))
        self.assertEqual(answers[-1]["error"]["code"], "timeout")
        offsets = [each["offset"] for each in answers[:-1]]
        self.assertEqual(offsets, list(range(1, len(offsets) + 1)))
        published = json.loads(self.server.get("/topics/slow")[2])["position"]["offset"]
        self.assertEqual(published, len(offsets), "what has no answer was not published")

    def test_requests_behind_one_another_are_answered_in_order(self):
        count = 500
        with socket.create_connection(self.server.admin, PATIENCE_S) as stream:

            def send():
                for number in range(count):
                    body = f'{{"n":{number}}}'
                    head = f"POST /topics/piped HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    stream.sendall((head + body + "GET /log-level HTTP/1.1\r\nHost: localhost\r\n\r\n").encode())

            sending = threading.Thread(target=send)
            sending.start()
            answers = stream.makefile("rb")
            for number in range(count):
                for check in (lambda body: self.assertEqual(body["offset"], number + 1), lambda body: self.assertIn("level", body)):
                    self.assertIn(b" 200 ", answers.readline())
                    length = 0
                    while (line := answers.readline().lower()) != b"\r\n":
                        length = int(line.split()[1]) if line.startswith(b"content-length") else length
                    check(json.loads(answers.read(length)))
            sending.join()


class ToTopicsOnEpoll(ToTopics):
    denied = True
