"""Back ends over HTTP: the examples in Python, JavaScript and PHP, and back ends that fail in every way."""

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import hmac
import http.server
import importlib.util
import json
import os
import queue
import secrets
import shutil
import ssl
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import test_cluster
import trustme
from harness import PATIENCE_S, Program, Server, first_line, refusing_port, request, text_file, wait_until
from programs import NODE
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_to

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXAMPLES = os.path.join(ROOT, "examples", "backends")
KEY = secrets.token_bytes(32)
SECRET = "whsec_" + base64.b64encode(KEY).decode()
# Compression would only make the bytes of these tests hard to predict.
connect = functools.partial(connect_to, compression=None, open_timeout=PATIENCE_S)


def tables(url, path="/chat/{room}", **keys):
    """A configuration with one back end. The keys are TOML."""
    lines = [f"path = '{path}'", f"url = '{url}'", f"secret = '{SECRET}'", *(f"{key} = {value}" for key, value in keys.items())]
    return "admin = '127.0.0.1:0'\ndemo = 'off'\n[[backends]]\n" + "\n".join(lines) + "\n"


@contextlib.contextmanager
def serving(config, *flags, **options):
    with text_file(config) as file, Server("--config", file, "--shards", "2", *flags, **options) as server:
        server.config = file
        yield server


def events(server, event, result):
    """The count of events with a result in the metrics, of all back ends."""
    _, _, body = server.get("/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("echoring_backend_events_total{")]
    chosen = [line for line in lines if f'event="{event}"' in line and f'result="{result}"' in line]
    return sum(int(line.split()[-1]) for line in chosen)


def closed(client):
    """Code and reason of the Close frame that comes next."""
    try:
        message = client.recv(PATIENCE_S)
    except ConnectionClosed as error:
        return error.rcvd.code, error.rcvd.reason
    raise AssertionError(f"not closed, but sent {message!r}")


class Service:
    """A back end whose answers a test gives: a function of the event that returns status, JSON and header fields, or bytes to send instead.

    `None` ends the connection.
    """

    def __init__(self, answer=lambda event: (204, None), port=0, tls=None):
        self.answer, self.seen, self.ids, self.signatures = answer, queue.Queue(), [], []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                service.check(self.headers, body)
                event = json.loads(body)
                service.ids.append(self.headers["webhook-id"])
                service.signatures.append(self.headers["webhook-signature"].split(" "))
                service.seen.put(event)
                answer = service.answer(event)
                if answer is None or isinstance(answer, bytes):
                    self.wfile.write(answer or b"")
                    self.close_connection = True
                    return
                status, content, *fields = answer
                body = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                self.close_connection |= len(fields) > 0 and "connection" in fields[0]
                for name, value in {"content-type": "application/json", **(fields[0] if fields else {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                """Connections break in these tests; other errors are of interest."""
                if not isinstance(sys.exception(), OSError):
                    super().handle_error(request, address)

        self.server = Quiet(("127.0.0.1", port), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def check(headers, body):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert f"v1,{expected}" in headers["webhook-signature"].split(" "), dict(headers)
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60

    def event(self, kind=None):
        event = self.seen.get(timeout=PATIENCE_S)
        assert kind in (None, event["event"]), event
        return event

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def by_event(**answers):
    """Answers by the event; 204 to others. An answer may be a function of the event."""

    def answer(event):
        one = answers.get(event["event"], (204, None))
        return one(event) if callable(one) else one

    return answer


def echo(event):
    return 200, {"messages": [{key: event[key]} for key in ("text", "base64") if key in event]}


class Case(unittest.TestCase):
    denied = False

    def serve(self, config, *flags, **options):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(serving(config, *flags, denied=self.denied, **options))

    def service(self, answer=lambda event: (204, None), **options):
        service = Service(answer, **options)
        self.addCleanup(service.close)
        return service


class OnUring(Case):
    """What a back end is told and what it can do."""

    SECONDS = 12

    def test_events_name_the_connection_and_answers_are_carried_out(self):
        def connected(event):
            return 200, {"subscribe": ["room"], "messages": [{"text": "welcome"}, {"base64": "AP8="}]}

        def said(event):
            if event.get("text") == "bye":
                return 200, {"messages": [{"text": "last"}], "close": {"code": 4001, "reason": "was told to"}}
            return 200, {"publish": [{"topic": "room", **{key: event[key] for key in ("text", "base64") if key in event}}]}

        service = self.service(by_event(connect=connected, message=said))
        server = self.serve(tables(service.url), "--node", "edge 1")
        with connect(server.url("/chat/a%20b?x=1"), additional_headers={"X-Own": "1"}) as client:
            self.assertEqual([client.recv(PATIENCE_S), client.recv(PATIENCE_S)], ["welcome", b"\0\xff"])
            event = service.event("connect")
            self.assertEqual((event["path"], event["query"], event["identity"], event["rights"]), ("/chat/a%20b", "x=1", None, None))
            self.assertIn(["X-Own", "1"], event["headers"])
            host, port = client.socket.getsockname()
            self.assertEqual(event["address"], f"{host}:{port}")
            name, node = event["connection"], event["node"]
            self.assertEqual(node, "edge 1")
            # The id is that of the admin address.
            status, _, body = request(server.admin, "POST", f"/connections/{name}", b"pushed", {"Content-Type": "text/plain"})
            self.assertEqual(status, 200, body)
            self.assertEqual(client.recv(PATIENCE_S), "pushed")
            client.send("grün\n\x01\"")
            self.assertEqual(client.recv(PATIENCE_S), "grün\n\x01\"")
            client.send(b"\0\x01\xfe")
            self.assertEqual(client.recv(PATIENCE_S), b"\0\x01\xfe")
            client.send("bye")
            self.assertEqual(client.recv(PATIENCE_S), "last")
            self.assertEqual(closed(client), (4001, "was told to"))
        told = [service.event() for _ in range(4)]
        self.assertEqual([event["event"] for event in told], ["message"] * 3 + ["disconnect"])
        self.assertEqual({event["node"] for event in told}, {node})
        self.assertEqual([event.get("text", event.get("base64")) for event in told[:3]], ["grün\n\x01\"", "AAH+", "bye"])
        self.assertEqual((told[3]["code"], told[3]["connection"], told[3]["path"]), (4001, name, "/chat/a%20b"))
        self.assertEqual(len(set(service.ids)), 5, "each event has an id of its own")
        wait_until(lambda: events(server, "disconnect", "answered") == 1, "the end is counted")
        self.assertEqual((events(server, "connect", "answered"), events(server, "message", "answered")), (1, 3))

    def test_messages_of_a_connection_stay_in_order_and_before_its_end(self):
        service = self.service()
        server = self.serve(tables(service.url))
        clients = [connect(server.url(f"/chat/{number}")) for number in range(4)]
        for number in range(50):
            for client in clients:
                client.send(str(number))
        for client in clients:
            client.close(1000, "done")
        per_connection = {}
        for _ in range(4 * 52):
            event = service.event()
            per_connection.setdefault(event["connection"], []).append(event.get("text", event["event"]))
        self.assertEqual(len(per_connection), 4)
        for told in per_connection.values():
            self.assertEqual(told, ["connect", *map(str, range(50)), "disconnect"])

    def test_batches_have_what_came_while_a_request_was_under_way(self):
        begun, go_on = threading.Event(), threading.Event()

        def said(event):
            begun.set()
            assert go_on.wait(PATIENCE_S)
            return 200, {"messages": [{"text": str(len(event["messages"]))}]}

        service = self.service(by_event(message=said))
        server = self.serve(tables(service.url, batch=5, events="['message']", timeout="'60s'"))
        with connect(server.url("/chat/a")) as client:
            client.send("0")
            begun.wait(PATIENCE_S)
            for number in range(1, 8):
                client.send(str(number))
            # Behind the messages, so that they have arrived.
            client.ping().wait(PATIENCE_S)
            go_on.set()
            self.assertEqual([client.recv(PATIENCE_S) for _ in range(3)], ["1", "5", "2"])
        lists = [[message["text"] for message in service.event("message")["messages"]] for _ in range(3)]
        self.assertEqual(lists, [["0"], ["1", "2", "3", "4", "5"], ["6", "7"]])

    def test_a_refusal_of_a_connect_is_that_of_the_handshake(self):
        for status in (401, 403, 404, 429):
            service = self.service(by_event(connect=(status, {})))
            server = self.serve(tables(service.url))
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/chat/a"))
            self.assertEqual(raised.exception.response.status_code, status)
            self.assertEqual("WWW-Authenticate" in raised.exception.response.headers, status == 401)
            service.event("connect")
            self.assertEqual(events(server, "connect", "refused"), 1)
            # A connection that the back end has refused has no end.
            server.terminate()
            self.assertEqual(server.wait(), 0)
            self.assertTrue(service.seen.empty())

    def test_a_back_end_names_clients(self):
        service = self.service(by_event(connect=(200, {"identity": "bob"}), message=echo))
        server = self.serve(tables(service.url))
        with connect(server.url("/chat/a")) as client:
            client.send("hi")
            self.assertEqual(client.recv(PATIENCE_S), "hi")
            self.assertEqual([service.event()["identity"], service.event()["identity"]], [None, "bob"])
            headers = {"Content-Type": "text/plain"}
            status, _, body = request(server.admin, "POST", "/identities/bob", b"to bob", headers)
            self.assertEqual((status, json.loads(body)["sent"]), (200, 1))
            self.assertEqual(client.recv(PATIENCE_S), "to bob")

    def test_credentials_and_rights_are_told_and_keep_their_name(self):
        service = self.service(by_event(connect=lambda event: (200, {"identity": event["query"] or "alice"})))
        token = "a token of more than sixteen characters".replace(" ", "-")
        tokens = f"[[tokens]]\ntoken = '{token}'\nsubject = 'alice'\nsubscribe = ['a.*']\npublish = ['b']\n"
        with text_file(tokens) as file:
            server = self.serve(f"{tables(service.url)}[auth]\ntokens = '{file}'\n")
            headers = {"Authorization": f"Bearer {token}"}
            with connect(server.url("/chat/a"), additional_headers=headers):
                event = service.event("connect")
                self.assertEqual(event["identity"], "alice")
                self.assertEqual(event["rights"], {"subscribe": ["a.*"], "publish": ["b"], "presence": ["a.*"], "history": ["a.*"]})
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/chat/a?bob"), additional_headers=headers)
            self.assertEqual(raised.exception.response.status_code, 503)
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/chat/a"))
            self.assertEqual(raised.exception.response.status_code, 401)

    def test_only_the_events_of_the_table_are_sent(self):
        service = self.service()
        server = self.serve(tables(service.url, events="['connect']"))
        with connect(server.url("/chat/a")) as client:
            service.event("connect")
            client.send("nobody wants it")
            self.assertEqual(closed(client)[0], 1003)
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertTrue(service.seen.empty())

    def test_a_client_that_does_not_read_stops_its_own_messages_only(self):
        big = "x" * 200_000
        service = self.service(by_event(message=lambda event: (200, {"messages": [{"text": big}]})))
        server = self.serve(tables(service.url))
        with connect(server.url("/chat/a"), max_queue=1) as slow, connect(server.url("/chat/b")) as other:
            for number in range(200):
                slow.send(f"{number} " + "y" * 1_000)
            other.send("hi")
            self.assertEqual(other.recv(PATIENCE_S), big)
            waited = events(server, "message", "answered")
            self.assertLess(waited, 190, "the slow client's messages wait for it")
            for _ in range(200):
                self.assertEqual(slow.recv(PATIENCE_S), big)
        self.assertEqual(events(server, "message", "answered"), 201)

    def test_a_secret_changes_without_a_gap(self):
        service = self.service()
        with text_file(SECRET, "") as file:
            table = tables(service.url, events="['connect']").replace(f"secret = '{SECRET}'", f"secret_file = '{file}'")
            server = self.serve(table)
            for content, signatures in ((f"{SECRET}\n", 1), (f"{SECRET}\nthe next secret, in plain text\n", 2)):
                with open(file, "w") as secret:
                    secret.write(content)
                status, _, body = server.get("/reload", "POST")
                self.assertEqual((status, json.loads(body)["files"]), (200, [file]))
                with connect(server.url("/chat/a")):
                    service.event("connect")
                    self.assertEqual(len(service.signatures[-1]), signatures)

    def test_a_back_end_has_tls_that_is_verified(self):
        authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        service = self.service(tls=context)
        for trusted in (True, False):
            with text_file((authority if trusted else trustme.CA()).cert_pem.bytes().decode(), ".pem") as roots:
                with mock.patch.dict(os.environ, SSL_CERT_FILE=roots):
                    server = self.serve(tables(service.url, events="['connect']", retries=0))
                if trusted:
                    with connect(server.url("/chat/a")):
                        service.event("connect")
                else:
                    with self.assertRaises(InvalidStatus) as raised:
                        connect(server.url("/chat/a"))
                    self.assertEqual(raised.exception.response.status_code, 503)
                    server.wait_for_log(r"a back end did not answer an event.*UnknownIssuer")
                    self.assertTrue(service.seen.empty())

    def test_a_drain_tells_the_back_end_before_the_process_ends(self):
        service = self.service()
        server = self.serve(tables(service.url))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server.url("/chat/a"))) for _ in range(20)]
            for client in clients:
                threading.Thread(target=lambda client=client: closed(client), daemon=True).start()
            server.terminate()
            self.assertEqual(server.wait(), 0)
        told = [event["event"] for event in service.seen.queue]
        self.assertEqual((told.count("connect"), told.count("disconnect")), (20, 20))

    def test_a_takeover_without_the_back_end_closes_connections_and_their_clients_return(self):
        service = self.service(by_event(message=echo))
        # Otherwise connections are closed over a minute.
        old = self.serve(tables(service.url), "--drain", "1s")
        with connect(old.url("/chat/a")) as client:
            name = service.event("connect")["connection"]
            addresses = {"listen": f"{old.host}:{old.port}", "admin": f"127.0.0.1:{old.admin[1]}"}
            new = self.serve(tables(service.url, path="/talk/{room}"), "--takeover", **addresses)
            self.assertIn(closed(client)[0], (1001, 1012))
            self.assertEqual(service.event("disconnect")["connection"], name)
        self.assertEqual(old.wait(), 0)
        with connect(new.url("/talk/a")) as client:
            self.assertNotEqual(service.event("connect")["connection"], name)
            client.send("hi")
            self.assertEqual(client.recv(PATIENCE_S), "hi")

    def test_a_reload_changes_the_back_ends_of_new_connections(self):
        one, other = self.service(by_event(message=echo)), self.service(by_event(message=(200, {"messages": [{"text": "other"}]})))
        server = self.serve(tables(one.url))
        with connect(server.url("/chat/a")) as old:
            for config, works in ((tables(other.url), True), (tables(other.url, path="/elsewhere"), False)):
                with open(server.config, "w") as file:
                    file.write(config)
                status, _, body = server.get("/reload", "POST")
                self.assertEqual(status, 200, body)
                changed = [change["key"] for change in json.loads(body)["changed"]]
                self.assertIn("backends" if not works else 'backends."/chat/{room}".url', changed)
                old.send("still")
                self.assertEqual(old.recv(PATIENCE_S), "still", "an open connection keeps its back end")
                if works:
                    with connect(server.url("/chat/a")) as new:
                        new.send("hi")
                        self.assertEqual(new.recv(PATIENCE_S), "other")
                else:
                    with self.assertRaises(InvalidStatus) as raised:
                        connect(server.url("/chat/a"))
                    self.assertEqual(raised.exception.response.status_code, 404)


class OnEpoll(OnUring):
    denied = True


class Failing(Case):
    """Back ends that are slow, broken or away."""

    SECONDS = 12

    def fails(self, answer, **keys):
        """A client whose message has no usable answer: how it is closed."""
        service = self.service(by_event(message=answer))
        server = self.serve(tables(service.url, timeout="'300ms'", **keys))
        with connect(server.url("/chat/a")) as client:
            client.send("hi")
            how = closed(client)
        service.event("connect")
        service.event("message")
        # The end is sent, and the message is not sent again.
        service.event("disconnect")
        self.assertEqual(events(server, "message", "failed"), 1)
        return how, server

    def test_no_usable_answer_closes_the_connection_with_1014(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        for name, answer in {
            "500": (500, None),
            "a redirect": (302, None, {"location": "/other"}),
            "garbage": b"\x00\xff not HTTP at all\r\n\r\n",
            "not JSON": head + b"content-length: 5\r\n\r\nhello",
            "a list": (200, ["text"]),
            "unknown keys": (200, {"message": "hi"}),
            "another content type": (200, {"messages": []}, {"content-type": "text/html"}),
            "too large": (200, {"messages": [{"text": "x" * 300_000}]}),
            "without end": head + b"transfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 0x400 + b"\r\n",
            "closed in the middle": head + b"content-length: 100\r\n\r\n{\"messages\": [",
            "closed at once": None,
            "an endless head": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000,
            "a code that must not be sent": (200, {"close": {"code": 1005}}),
        }.items():
            with self.subTest(name):
                (code, reason), server = self.fails(answer)
                self.assertEqual((code, reason), (1014, "the back end does not answer"))
                server.wait_for_log(r"a back end did not answer an event.*message")

    def test_a_slow_answer_is_given_up(self):
        release = threading.Event()
        self.addCleanup(release.set)
        (code, _), _ = self.fails(lambda event: release.wait(PATIENCE_S) and (204, None))
        self.assertEqual(code, 1014)

    def test_a_table_that_passes_goes_on_without_the_message(self):
        service = self.service(by_event(connect=(500, None), message=lambda event: (500, None) if event["text"] == "1" else echo(event)))
        server = self.serve(tables(service.url, on_failure="'pass'", retries=0))
        with connect(server.url("/chat/a")) as client:
            for number in range(3):
                client.send(str(number))
            self.assertEqual([client.recv(PATIENCE_S), client.recv(PATIENCE_S)], ["0", "2"])
        self.assertEqual((events(server, "connect", "failed"), events(server, "message", "failed")), (1, 1))

    def test_a_connect_without_an_answer_is_refused(self):
        service = self.service(by_event(connect=(500, None)))
        server = self.serve(tables(service.url, retries=1))
        with self.assertRaises(InvalidStatus) as raised:
            connect(server.url("/chat/a"))
        response = raised.exception.response
        self.assertEqual((response.status_code, response.headers["Retry-After"]), (503, "2"))
        self.assertEqual([service.event()["event"] for _ in range(2)], ["connect", "connect"])
        self.assertEqual(service.ids[0], service.ids[1])

    def test_a_back_end_that_hangs_is_answered_for_before_the_handshake_ends(self):
        """Also where attempts take longer than the handshake may, and for connects that wait behind others."""
        release = threading.Event()
        self.addCleanup(release.set)
        service = self.service(by_event(connect=lambda event: release.wait(PATIENCE_S) and (204, None), message=echo))
        server = self.serve(tables(service.url, max_requests=1), "--handshake-timeout", "700ms")

        def refused(number):
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url(f"/chat/{number}"))
            response = raised.exception.response
            return response.status_code, response.headers["Retry-After"]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertEqual(list(pool.map(refused, range(4))), [(503, "2")] * 4)
        server.wait_for_log(r"a back end did not answer an event.*connect.*handshake")
        wait_until(lambda: events(server, "connect", "failed") == 4, "all connects have failed")

    def test_a_table_that_passes_lets_clients_in_while_the_back_end_hangs(self):
        release = threading.Event()
        self.addCleanup(release.set)
        service = self.service(by_event(connect=lambda event: release.wait(PATIENCE_S) and (403, None), message=echo))
        server = self.serve(tables(service.url, on_failure="'pass'"), "--handshake-timeout", "700ms")
        with connect(server.url("/chat/a")) as client:
            # The connect that hangs holds no message back.
            client.send("hi")
            self.assertEqual(client.recv(PATIENCE_S), "hi")
            self.assertEqual(events(server, "connect", "failed"), 1)
            release.set()
            client.send("still here")
            self.assertEqual(client.recv(PATIENCE_S), "still here")

    def test_the_back_end_says_when_to_try_again(self):
        answers = iter([(503, None, {"retry-after": "1"}), (429, None, {"retry-after": "0"})])
        service = self.service(by_event(message=lambda event: next(answers, None) or echo(event)))
        server = self.serve(tables(service.url, events="['message']"))
        with connect(server.url("/chat/a")) as client:
            started = time.monotonic()
            client.send("hi")
            self.assertEqual(client.recv(PATIENCE_S), "hi")
            self.assertGreater(time.monotonic() - started, 0.9)
        self.assertEqual(len(service.ids), 3)
        self.assertEqual(len(set(service.ids)), 1, "an event keeps its id")

    def test_a_back_end_that_restarts_loses_nothing(self):
        # A request on a kept connection that just ends may have been read: it would not be sent again.
        first = Service(by_event(message=lambda event: (*echo(event), {"connection": "close"})))
        port = first.server.server_port
        server = self.serve(tables(first.url, retries=16))
        with connect(server.url("/chat/a")) as client:
            client.send("before")
            self.assertEqual(client.recv(PATIENCE_S), "before")
            first.close()
            client.send("meanwhile")
            retries = lambda: server.get("/metrics")[2].decode().count('echoring_backend_retries_total{path="/chat/{room}"} 0')
            wait_until(lambda: not retries(), "it is tried again")
            service = self.service(by_event(message=echo), port=port)
            self.assertEqual(client.recv(PATIENCE_S), "meanwhile")
            client.send("after")
            self.assertEqual(client.recv(PATIENCE_S), "after")
        self.assertEqual([service.event("message")["text"] for _ in range(2)], ["meanwhile", "after"])

    def test_a_flood_is_held_back_and_costs_only_its_connection(self):
        release = threading.Event()
        self.addCleanup(release.set)

        def said(event):
            if event["path"] == "/chat/stuck":
                release.wait(PATIENCE_S)
            return echo(event)

        service = self.service(by_event(message=said))
        server = self.serve(tables(service.url, queue_bytes="'4MiB'", timeout="'60s'"))
        stuck = [connect(server.url("/chat/stuck")) for _ in range(2)]
        for client in stuck:
            def flood(client=client):
                with contextlib.suppress(ConnectionClosed, OSError):
                    for _ in range(4_000):
                        client.send("x" * 50_000)
            threading.Thread(target=flood, daemon=True).start()
        with connect(server.url("/chat/free")) as client:
            for number in range(20):
                client.send(str(number))
                self.assertEqual(client.recv(PATIENCE_S), str(number))
        _, _, body = server.get("/metrics")
        queued = [line for line in body.decode().splitlines() if line.startswith("echoring_backend_queued_bytes{")]
        self.assertLess(int(queued[0].split()[-1]), 4 << 20)
        for client in stuck:
            client.socket.close()

    def test_when_too_much_waits_connections_are_refused_and_closed(self):
        release = threading.Event()
        self.addCleanup(release.set)
        service = self.service(by_event(message=lambda event: release.wait(PATIENCE_S) and None))
        server = self.serve(tables(service.url, queue_bytes="'64KiB'", timeout="'60s'"))
        with connect(server.url("/chat/a")) as one, connect(server.url("/chat/a")) as other:
            one.send("x" * 30_000)
            service.event("connect"), service.event("connect"), service.event("message")
            other.send("x" * 30_000)
            self.assertEqual(closed(other), (1013, "too many messages wait for the back end"))
            self.assertEqual(events(server, "message", "rejected"), 1)
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/chat/a"), additional_headers={"X-Long": "y" * 4_000})
            self.assertEqual(raised.exception.response.status_code, 503)
            self.assertEqual(events(server, "connect", "rejected"), 1)

    def test_a_client_that_leaves_before_the_answer_has_an_end(self):
        release = threading.Event()
        service = self.service(by_event(connect=lambda event: release.wait(PATIENCE_S) and (204, None)))
        server = self.serve(tables(service.url, timeout="'60s'"))
        with contextlib.suppress(TimeoutError):
            thread = threading.Thread(target=lambda: self.assertRaises(Exception, connect_to, server.url("/chat/a"), open_timeout=0.2))
            thread.start()
            asked = service.event("connect")
            thread.join()
        release.set()
        ended = service.event("disconnect")
        self.assertEqual((ended["connection"], ended["code"]), (asked["connection"], 1006))


class Example(unittest.TestCase):
    """A program of `examples/backends`."""

    SECONDS = 15

    @contextlib.contextmanager
    def running(self, command, path, announces=True, secret=SECRET):
        """The server with the example behind it. The admin address is known to the example, so that it can send later."""
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(refusing_port())
            admin = stack.enter_context(refusing_port())
            variables = os.environ | {"WEBHOOK_SECRET": secret, "ECHORING_ADMIN": f"http://127.0.0.1:{admin}"}
            program = stack.enter_context(Program(*command(port), env=variables, stdout=subprocess.PIPE))
            if announces:
                self.assertEqual(first_line(program.process), f"listening {port}\n")
            else:
                program.stderr.wait_for("started")
            url = f"http://127.0.0.1:{port}/events"
            server = stack.enter_context(serving(tables(url, path=path), admin=f"127.0.0.1:{admin}"))
            server.backend = ("127.0.0.1", port)
            yield server

    def refuses_forgeries(self, server, key=KEY):
        """Requests without the signature, with that of other bytes, and with an old time."""
        body = b'{"event":"disconnect","connection":"1-2-3","identity":null,"path":"/rooms/a","code":1000,"reason":""}'

        def signed(at, signed_body=body):
            text = f"id.{at}.".encode() + signed_body
            signature = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
            # With another secret's signature before it.
            return {"webhook-id": "id", "webhook-timestamp": str(at), "webhook-signature": f"v1,AAAA v1,{signature}"}

        now = int(time.time())
        for headers, accepted in (
            (signed(now), True),
            ({}, False),
            (signed(now, b"{}"), False),
            (signed(now - 3_600), False),
            (signed(now + 3_600), False),
            (signed(now) | {"webhook-timestamp": "now"}, False),
            (signed(now) | {"webhook-id": "other"}, False),
        ):
            headers |= {"content-type": "application/json"}
            status, _, _ = request(server.backend, "POST", "/events", body, headers)
            self.assertEqual(status in (200, 204), accepted, (headers, status))
            self.assertTrue(accepted or status == 401, status)


class Examples(Example):
    @unittest.skipUnless(importlib.util.find_spec("flask"), "PyPI's Flask is not installed")
    def test_flask_has_chat_rooms(self):
        app = os.path.join(EXAMPLES, "flask", "app.py")
        with self.running(lambda port: [sys.executable, app, "--port", str(port)], "/rooms/{room}") as server:
            with connect(server.url("/rooms/lobby?name=alice")) as alice:
                read = lambda client: json.loads(client.recv(PATIENCE_S))
                self.assertEqual(read(alice)["welcome"], "alice")
                self.assertEqual(read(alice), {"joined": "alice"})
                with connect(server.url("/rooms/lobby?name=bob")) as bob:
                    self.assertEqual((read(alice), read(bob)["welcome"], read(bob)), ({"joined": "bob"}, "bob", {"joined": "bob"}))
                    bob.send("hi, \"all\"")
                    told = {"from": "bob", "text": "hi, \"all\""}
                    self.assertEqual((read(alice), read(bob)), (told, told))
                self.assertEqual(read(alice), {"left": "bob"})
                alice.send(b"binary")
                self.assertEqual(closed(alice)[0], 1003)
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/rooms/lobby?name=no%20name"))
            self.assertEqual(raised.exception.response.status_code, 403)
            self.refuses_forgeries(server)

    @unittest.skipUnless(importlib.util.find_spec("flask"), "PyPI's Flask is not installed")
    def test_flask_knows_the_clients_of_two_nodes(self):
        app = os.path.join(EXAMPLES, "flask", "app.py")
        read = lambda client: json.loads(client.recv(PATIENCE_S))
        with contextlib.ExitStack() as stack:
            nats = test_cluster.Nats()
            stack.callback(nats.close)
            port, admin = stack.enter_context(refusing_port()), stack.enter_context(refusing_port())
            variables = os.environ | {"WEBHOOK_SECRET": SECRET, "ECHORING_ADMIN": f"http://127.0.0.1:{admin}"}
            program = stack.enter_context(Program(sys.executable, app, "--port", str(port), env=variables, stdout=subprocess.PIPE))
            self.assertEqual(first_line(program.process), f"listening {port}\n")
            config = stack.enter_context(text_file(tables(f"http://127.0.0.1:{port}/events", path="/rooms/{room}")))
            addresses = {"a": {"admin": f"127.0.0.1:{admin}"}, "b": {}}
            start = lambda name: test_cluster.Node(nats, name, "--config", config, **addresses[name])
            nodes = [stack.enter_context(start(name)) for name in "ab"]
            for node, other in zip(nodes, "ba"):
                node.await_members(other)

            def joined(node, name):
                """A client of a node, which is subscribed: in a cluster that may take longer than to publish."""
                client = connect(node.url(f"/rooms/lobby?name={name}"))
                self.assertEqual(read(client)["welcome"], name)
                while True:
                    client.send("ready?")
                    with contextlib.suppress(TimeoutError):
                        while "from" not in (told := json.loads(client.recv(1))):
                            self.assertEqual(told, {"joined": name})
                        self.assertEqual(told, {"from": name, "text": "ready?"})
                        return client

            def hears(client, told):
                """Reads until this is told. Nobody else speaks meanwhile, but to ask whether it is ready."""
                while (other := read(client)) != told:
                    self.assertTrue(other.get("text") == "ready?" or other == {"joined": "bob"}, other)

            alice = stack.enter_context(joined(nodes[0], "alice"))
            with joined(nodes[1], "bob") as bob:
                for own, name in ((alice, "alice"), (bob, "bob")):
                    own.send("hi")
                    hears(alice, {"from": name, "text": "hi"})
                    hears(bob, {"from": name, "text": "hi"})
            hears(alice, {"left": "bob"})
            alice.send("still here")
            hears(alice, {"from": "alice", "text": "still here"})

    def test_node_counts_and_sends_later(self):
        program = os.path.join(EXAMPLES, "node", "server.mjs")
        with self.running(lambda port: [NODE, program, str(port)], "/count") as server:
            with connect(server.url("/count")) as client:
                for number, text in enumerate(["a", "ü", "later"], 1):
                    client.send(text)
                    self.assertEqual(client.recv(PATIENCE_S), f"{number}: {text}")
                self.assertEqual(client.recv(PATIENCE_S), "now")
                client.send(b"\0\xff")
                self.assertEqual(client.recv(PATIENCE_S), b"\0\xff")
                client.send("bye")
                self.assertEqual(closed(client), (1000, "after 5 messages"))
            self.refuses_forgeries(server)

    def test_a_wrong_secret_lets_nobody_in(self):
        program = os.path.join(EXAMPLES, "node", "server.mjs")
        wrong = "another secret of more than 24 bytes"
        with self.running(lambda port: [NODE, program, str(port)], "/count", secret=wrong) as server:
            with self.assertRaises(InvalidStatus) as raised:
                connect(server.url("/count"))
            self.assertEqual(raised.exception.response.status_code, 401)
            self.refuses_forgeries(server, wrong.encode())


class PhpExample(Example):
    RELEASE = True

    @unittest.skipUnless(shutil.which("php"), "php-cli is not installed")
    def test_php_names_clients(self):
        script = os.path.join(EXAMPLES, "php", "index.php")
        command = lambda port: ["php", "-S", f"127.0.0.1:{port}", script]
        with self.running(command, "/talk", announces=False) as server:
            with connect(server.url("/talk?name=alice")) as client:
                client.send("<b>&\"")
                self.assertEqual(client.recv(PATIENCE_S), "alice says: <b>&\"")
                status, _, body = request(server.admin, "POST", "/identities/alice", b"to alice", {"Content-Type": "text/plain"})
                self.assertEqual((status, json.loads(body)["sent"]), (200, 1))
                self.assertEqual(client.recv(PATIENCE_S), "to alice")
                client.send("bye")
                self.assertEqual(closed(client), (1000, "bye"))
            self.refuses_forgeries(server)
