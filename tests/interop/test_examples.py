"""The compiled examples, with foreign clients and servers.

`tests/sockets/examples` tests behaviour that no client can see: tasks, channels, deadlines.
"""

import asyncio
import base64
import contextlib
import glob
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BINARY, PATIENCE_S, Log, Program, Server, deny_io_uring, request, wait_until
from test_browser import OPEN, InFrontOfAPage
# A client with threads holds a lock while it sends, so it could not receive meanwhile.
from websockets.asyncio.client import connect as connect_both_ways
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.sync.client import connect
from websockets.sync.server import serve
from websockets.uri import parse_uri

EXAMPLES = os.path.join(os.path.dirname(BINARY), "examples")
FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "examples")
MIB = 1 << 20

# Programs that a reader takes as a beginning. Each file stays shorter than this.
SHORT = (
    "rooms.rs",
    "market_data.rs",
    "subscriber.rs",
    "cursors/main.rs",
    "cursors/page.html",
    "upload.rs",
    "reverse_proxy.rs",
    "rewriting_proxy.rs",
    "load_test.rs",
)
LINES_MAX = 119

# Every server, and the path of its WebSockets.
SERVERS = {
    "adopt_axum": "/ws",
    "cors": "/any",
    "echo": "/wshandler",
    "heartbeat": "/ws",
    "hello": "/ws",
    "hyper_service": "/ws",
    "http_and_ws": "/ws",
    "minimal_echo": "/echo",
    "pong_axum": "/ws",
    "push": "/wshandler",
    "streaming_echo": "/wshandler",
    "wrapped_connection": "/ws",
}
# The arguments of every client, up to the URL.
CLIENTS = {"client": [], "ping_client": [], "heartbeat": ["tick"]}


class Example(Program):
    """Runs an example for the duration of the block."""

    def __init__(self, name, *arguments, denied=False):
        program, before = os.path.join(EXAMPLES, name), deny_io_uring if denied else None
        super().__init__(program, *arguments, stdout=subprocess.PIPE, preexec_fn=before)
        self.stdout = Log(self.process.stdout)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_bytes_max(self):
        """The peak of its resident memory."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024

    def stop(self, signal_number=signal.SIGINT):
        self.process.send_signal(signal_number)
        return self.wait()

    def wait(self):
        code = super().wait()
        self.stdout.join()
        return code


class Listening(Example):
    """Runs an example that is a server, on a port that the kernel chooses."""

    def __init__(self, name, *arguments, denied=False, host="127.0.0.1"):
        mode = ["serve"] if name in ("heartbeat", "upload") else []
        addresses = [f"{host}:0"] * (2 if name == "cors" else 1)
        super().__init__(name, *mode, *addresses, *arguments, denied=denied)
        self.path = SERVERS.get(name, "")
        try:
            match = self.stdout.wait_for(r"127\.0\.0\.1:(\d+)")
        except BaseException:
            self.__exit__()
            raise
        self.first_line = match.string
        self.port = int(match[1])

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def connect(self, path=None, **settings):
        return connect(f"ws://{self.address}{self.path if path is None else path}", **settings)

    def get(self, path):
        status, _, body = request(("127.0.0.1", self.port), "GET", path)
        return status, body.decode()


@contextlib.contextmanager
def server(handle, **settings):
    """Runs a server of `websockets`. Yields its URL."""
    with serve(handle, "127.0.0.1", 0, **settings) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{serving.socket.getsockname()[1]}/ws"
        finally:
            serving.shutdown()
            thread.join()


class Peer:
    """The protocol of `websockets` on a socket, frame by frame. It answers a ping only on request."""

    def __init__(self, stream, protocol):
        self.socket, self.protocol = stream, protocol
        self.socket.settimeout(PATIENCE_S)
        self.waiting = []

    @classmethod
    def accept(cls, listener):
        peer = cls(listener.accept()[0], ServerProtocol())
        request = peer.next()
        peer.protocol.send_response(peer.protocol.accept(request))
        peer.flush()
        return peer

    @classmethod
    def dial(cls, port, path):
        uri = parse_uri(f"ws://127.0.0.1:{port}{path}")
        peer = cls(socket.create_connection(("127.0.0.1", port)), ClientProtocol(uri))
        peer.protocol.send_request(peer.protocol.connect())
        peer.flush()
        peer.next()
        assert peer.protocol.state is State.OPEN, peer.protocol.handshake_exc
        return peer

    def next(self):
        """The next request, response or frame."""
        while not self.waiting:
            data = self.socket.recv(65536)
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            self.waiting += self.protocol.events_received()
            if not data and not self.waiting:
                raise EOFError
        return self.waiting.pop(0)

    def flush(self):
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@contextlib.contextmanager
def listening():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener, f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"


def closed(ws):
    """Waits for the close code of the other end. A message before it is an error."""
    try:
        message = ws.recv(PATIENCE_S)
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else 1006
    raise AssertionError(f"no close but {message!r}")


class Everywhere(unittest.TestCase):
    """Tests of all examples."""

    def test_a_signal_is_a_good_end_for_every_server(self):
        for name in [*SERVERS, "reverse_proxy", "rewriting_proxy", "upload"]:
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(name=name, signal=number), Listening(name) as example:
                    # A busy example ends too.
                    with example.connect() if name in SERVERS else contextlib.nullcontext():
                        self.assertEqual(example.stop(number), 0, example.stderr.lines)

    def test_localhost_is_ipv4_and_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            self.skipTest(f"no IPv6 on this host: {error}")
        for name in SERVERS:
            with self.subTest(name=name), Listening(name, host="localhost") as example:
                for host in ("127.0.0.1", "[::1]"):
                    with connect(f"ws://{host}:{example.port}{example.path}"):
                        pass

    def test_a_signal_is_a_good_end_for_every_client(self):
        connected = threading.Semaphore(0)

        def handle(ws):
            connected.release()
            with contextlib.suppress(ConnectionClosed):
                ws.recv()
                ws.recv()

        with server(handle) as url:
            for name, mode in CLIENTS.items():
                for number in (signal.SIGINT, signal.SIGTERM):
                    with self.subTest(name=name, signal=number), Example(name, *mode, url) as example:
                        self.assertTrue(connected.acquire(timeout=PATIENCE_S))
                        self.assertEqual(example.stop(number), 0, example.stderr.lines)

    def test_help_tells_the_defaults_and_what_is_no_argument_is_refused(self):
        defaults = {
            "adopt_axum": "localhost:3000",
            "client": "ws://localhost:8080/ws",
            "cors": "localhost:7979",
            "echo": "localhost:8002",
            "hello": ":8181",
            "hyper_service": "localhost:3000",
            "http_and_ws": "localhost:7777",
            "login": "localhost:8383",
            "minimal_echo": ":5000",
            "ping_client": "ws://localhost:8080/ws",
            "pong_axum": "localhost:8080",
            "push": "localhost:8002",
            "reverse_proxy": "127.0.0.1:8082",
            "rewriting_proxy": "localhost:8083",
            "streaming_echo": "localhost:8002",
            "upload": "localhost:8003",
            "wrapped_connection": "localhost:7777",
        }
        for name, default in defaults.items():
            with self.subTest(name=name):
                with Example(name, "--help") as example:
                    self.assertEqual(example.wait(), 0)
                    self.assertIn(f" {default} ", "".join(example.stdout.lines))
                with Example(name, "--no-such-flag") as example:
                    self.assertEqual(example.wait(), 2)
        for mode, default in (("probe", "ws://localhost:8080/ws"), ("tick", "30"), ("serve", "localhost:8080")):
            with self.subTest(name="heartbeat", mode=mode), Example("heartbeat", mode, "--help") as example:
                self.assertEqual(example.wait(), 0)
                self.assertIn(f"[default: {default}]", "".join(example.stdout.lines))

    def test_the_page_of_examples_lists_all_programs(self):
        with open(os.path.join(os.path.dirname(FOLDER), "docs", "guide", "examples.md"), encoding="utf-8") as page:
            listed = set(re.findall(r"^\| `(\w+)", page.read(), re.MULTILINE))
        programs = glob.glob(os.path.join(FOLDER, "*.rs")) + glob.glob(os.path.join(FOLDER, "*", "main.rs"))
        names = {os.path.relpath(path, FOLDER).removesuffix("/main.rs").removesuffix(".rs") for path in programs}
        self.assertLessEqual(names, listed)

    def test_short_programs_stay_short(self):
        for name in SHORT:
            with self.subTest(name=name), open(os.path.join(FOLDER, name), encoding="utf-8") as file:
                self.assertLessEqual(len(file.readlines()), LINES_MAX)

    def test_other_paths_are_not_found(self):
        for name in SERVERS:
            with self.subTest(name=name), Listening(name) as example:
                with self.assertRaises(InvalidStatus) as refused:
                    example.connect("/elsewhere")
                self.assertEqual(refused.exception.response.status_code, 404)

    def test_an_address_in_use_is_an_error_that_says_so(self):
        with Listening("echo") as one, Example("echo", one.address) as other:
            self.assertEqual(other.wait(), 1)
            self.assertIn("in use", "".join(other.stderr.lines))


class Subscriber(unittest.TestCase):
    """It outlives its server, prints each message once, and says what it missed."""

    FLAGS = ("--drain", "1s")

    def publish(self, server, text):
        self.assertIn("result", server.call("publish", channel="news", data=text))

    def printed(self, subscriber):
        """The next line of its output."""
        return subscriber.stdout.wait_for("").string.rstrip("\n")

    def test_a_takeover_is_not_noticed_and_a_restart_is_told(self):
        with Server(*self.FLAGS) as first, Example("subscriber", first.url("/broadcast"), "news", "30") as subscriber:
            subscriber.stderr.wait_for("^subscribed$")
            self.publish(first, "before")
            admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
            with Server(*self.FLAGS, "--takeover", admin=admin, listen=listen) as successor:
                self.publish(successor, "meanwhile")
                self.publish(successor, "after")
                for text in ("before", "meanwhile", "after"):
                    self.assertEqual(self.printed(subscriber), f'"{text}"')
                self.assertEqual(first.wait(), 0)
                successor.process.kill()
                successor.wait()
            with Server(*self.FLAGS, listen=listen) as third:
                told = "missed an unknown number of messages: the topic has restarted"
                self.assertEqual(self.printed(subscriber), told)
                self.publish(third, "again")
                self.assertEqual(self.printed(subscriber), '"again"')

    def test_it_gives_up_in_time_and_at_once_if_it_is_refused(self):
        with Server() as server:
            with Example("subscriber", server.url("/nowhere")) as subscriber:
                self.assertEqual(subscriber.wait(), 1)
                self.assertIn("the server answered 404 Not Found", "".join(subscriber.stderr.lines))
            nowhere = server.url("/broadcast")
        with Example("subscriber", nowhere, "news", "1") as subscriber:
            self.assertEqual(subscriber.wait(), 1)
            self.assertIn("gave up at the time limit", "".join(subscriber.stderr.lines))


class Login(unittest.TestCase):
    """Who logs in gets a cookie, and with it into the lobby."""

    def log_in(self, example, pair):
        """Status, body and cookie of the answer to these credentials."""
        headers = {} if pair is None else {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        status, received, body = request(("127.0.0.1", example.port), "GET", "/login", headers=headers)
        return status, body.decode(), received["Set-Cookie"]

    def test_the_lobby_is_for_those_who_logged_in(self):
        with Listening("login", "bob:p:w") as example:
            self.assertEqual(example.get("/")[0], 200)
            for cookies in ({}, {"Cookie": "session=guessed"}):
                with self.assertRaises(InvalidStatus) as refused:
                    example.connect("/ws", additional_headers=cookies)
                self.assertEqual(refused.exception.response.status_code, 401)
            for pair, status in ((None, 400), ("bob", 403), ("bob:", 403), ("ann:p:w", 403), ("bob:p:w ", 403)):
                with self.subTest(pair=pair):
                    self.assertEqual(self.log_in(example, pair)[0::2], (status, None))
            self.assertEqual(self.log_in(example, None)[1], "header field authorization: missing\n")
            status, _, cookie = self.log_in(example, "bob:p:w")
            self.assertEqual(status, 200)
            session, *attributes = cookie.split("; ")
            self.assertIn("HttpOnly", attributes)
            self.assertIn("SameSite=Strict", attributes)
            self.assertNotEqual(self.log_in(example, "bob:p:w")[2].split("; ")[0], session)
            with example.connect("/ws", additional_headers={"Cookie": f"theme=dark; {session}"}) as ws:
                self.assertEqual(ws.recv(PATIENCE_S), "bob is here")
                ws.send("Grüße")
                self.assertEqual(ws.recv(PATIENCE_S), "bob: Grüße")
                # A page of another site has the cookie in old browsers, and another origin.
                with self.assertRaises(InvalidStatus) as refused:
                    origin = {"Cookie": session, "Origin": "https://elsewhere.example"}
                    example.connect("/ws", additional_headers=origin)
                self.assertEqual(refused.exception.response.status_code, 403)
                example.process.send_signal(signal.SIGTERM)
                self.assertEqual(ws.recv(PATIENCE_S), "the server restarts: come back in a moment")
                self.assertEqual(closed(ws), 1001)
            self.assertEqual(example.wait(), 0)


class Servers(unittest.TestCase):
    def test_hello(self):
        with Listening("hello") as example, example.connect() as ws:
            self.assertEqual(ws.recv(PATIENCE_S), "Hello, World!")
            self.assertEqual(closed(ws), 1000)

    def test_echo(self):
        with Listening("echo") as example, example.connect() as ws:
            self.assertEqual(example.first_line, f"Starting websocket server at 127.0.0.1:{example.port}\n")
            for message in ("Grüße", b"\x00\xff", ""):
                ws.send(message)
                self.assertEqual(ws.recv(PATIENCE_S), message)
            ws.close()
            self.assertEqual(example.stop(), 0)
            printed = ["receive msg: Grüße\n", "receive msg: \x00\ufffd\n", "receive msg: \n"]
            self.assertEqual(example.stdout.lines[1:], printed)

    def test_connections_of_echo_leave_no_descriptor(self):
        with Listening("echo") as example:
            with example.connect() as ws:
                descriptors = example.descriptors()
            for n in range(500):
                with example.connect() as ws:
                    ws.send("hello")
                    self.assertEqual(ws.recv(PATIENCE_S), "hello")
                    if n % 3 == 0:
                        # Disconnected without a Close frame.
                        ws.socket.shutdown(socket.SHUT_RDWR)
            with example.connect() as ws:
                wait_until(lambda: example.descriptors() <= descriptors, lambda: f"{descriptors}: {example.descriptors()}")
                self.assertTrue(ws.ping().wait(PATIENCE_S))
                self.assertEqual(example.descriptors(), descriptors)

    def test_http_and_ws(self):
        with Listening("http_and_ws") as example:
            self.assertEqual(example.get("/ws"), (200, "hello"))
            self.assertEqual(example.get("/")[0], 404)
            with example.connect() as ws:
                for message, echo in (("text", "text"), ("Grüße".encode(), "Grüße"), (b"", "")):
                    ws.send(message)
                    self.assertEqual(ws.recv(PATIENCE_S), echo)
                ws.send(b"\xff\xfe")
                self.assertEqual(closed(ws), 1003)

    def test_minimal_echo(self):
        for denied in (False, True):
            with self.subTest(denied=denied), Listening("minimal_echo", denied=denied) as example:
                # The server's tests check whether this machine allows io_uring.
                self.assertRegex(example.first_line, "epoll" if denied else "io_uring|epoll")
                with example.connect() as ws, example.connect() as other:
                    ws.send("hello")
                    other.send("x" * 60_000)
                    self.assertEqual(ws.recv(PATIENCE_S), "hello")
                    self.assertEqual(other.recv(PATIENCE_S), "x" * 60_000)
                    ws.send(b"\xff")
                    self.assertEqual(closed(ws), 1003)

    def test_push(self):
        # From before the first heart beat, which may be read late.
        begun = time.monotonic()
        with Listening("push") as example, example.connect() as ws:
            self.assertRegex(example.first_line, "^Starting websocket server at ")
            self.assertEqual(ws.recv(PATIENCE_S), "heart beat")
            for message in ("hello", b"\x01\x02"):
                ws.send(message)
                self.assertEqual(ws.recv(PATIENCE_S), message)
            self.assertEqual(ws.recv(PATIENCE_S), "heart beat")
            self.assertGreater(time.monotonic() - begun, 3)

    def test_wrapped_connection(self):
        begun = time.monotonic()
        with Listening("wrapped_connection") as example, example.connect() as ws:
            self.assertEqual(ws.recv(PATIENCE_S), "heartbeat")
            ws.send("hello")
            self.assertEqual(ws.recv(PATIENCE_S), "hello")
            self.assertEqual(ws.recv(PATIENCE_S), "heartbeat")
            self.assertGreater(time.monotonic() - begun, 1)

    def test_wrapped_connection_loses_nothing_when_its_channels_are_full(self):
        messages = [f"{n} " + "x" * 4_000 for n in range(6_000)]

        async def flood(url):
            async with connect_both_ways(url) as ws:

                async def send():
                    for message in messages:
                        await ws.send(message)

                sending = asyncio.create_task(send())
                echoed = []
                while len(echoed) < len(messages):
                    message = await ws.recv()
                    if message != "heartbeat":
                        echoed.append(message)
                await sending
                return echoed

        with Listening("wrapped_connection") as example:
            flooding = asyncio.wait_for(flood(f"ws://{example.address}/ws"), PATIENCE_S)
            self.assertEqual(asyncio.run(flooding), messages)

    def test_streaming_echo_holds_no_message(self):
        piece, pieces = b"x" * MIB, 64

        async def stream(url):
            async with connect_both_ways(url, max_size=None) as ws:
                sending = asyncio.create_task(ws.send([piece] * pieces))
                received = fragments = 0
                async for part in ws.recv_streaming():
                    received += len(part)
                    fragments += 1
                await sending
                return received, fragments

        with Listening("streaming_echo") as example:
            with example.connect() as ws:
                for message in ("Grüße", b"\xff", "", b""):
                    ws.send(message)
                    self.assertEqual(ws.recv(PATIENCE_S), message)
            before = example.memory_bytes_max()
            streaming = asyncio.wait_for(stream(f"ws://{example.address}/wshandler"), PATIENCE_S)
            received, fragments = asyncio.run(streaming)
            self.assertEqual(received, pieces * MIB)
            # Some clients take 4,096 of a message.
            self.assertLess(fragments, 1_200)
            self.assertLess(example.memory_bytes_max() - before, 8 * MIB)

    def test_reverse_proxy(self):
        with Listening("echo") as echo, Listening("reverse_proxy", echo.address) as proxy:
            with proxy.connect("/wshandler") as ws:
                for message in ("hello", b"\xff" * 60_000):
                    ws.send(message)
                    self.assertEqual(ws.recv(PATIENCE_S), message)
                ws.close(4321, "through")
                self.assertEqual(ws.close_code, 4321)
            # Plain HTTP passes too, with the answer of the server behind the proxy.
            self.assertEqual(proxy.get("/elsewhere")[0], 404)
            with self.assertRaises(InvalidStatus) as refused:
                proxy.connect("/elsewhere")
            self.assertEqual(refused.exception.response.status_code, 404)
            self.assertEqual(echo.stop(), 0)
            self.assertEqual(proxy.get("/wshandler")[0], 502)

    def test_reverse_proxy_passes_bodies_and_tells_whose_they_are(self):
        with Listening("http_and_ws") as behind, Listening("reverse_proxy", behind.address) as proxy:
            self.assertEqual(proxy.get("/ws"), (200, "hello"))
        with listening() as (listener, url), Listening("reverse_proxy", url.split("/")[2]) as proxy:
            request = b"POST /it HTTP/1.1\r\nHost: there\r\nContent-Length: 4\r\nKeep-Alive: 5\r\n\r\nbody"
            with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as client:
                client.sendall(request)
                stream, _ = listener.accept()
                with stream, stream.makefile("rb") as lines:
                    head = [line.strip().lower() for line in iter(lines.readline, b"\r\n")]
                    self.assertEqual(lines.read(4), b"body")
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    self.assertIn(b"x-forwarded-for: 127.0.0.1", head)
                    self.assertIn(b"host: there", head)
                    self.assertNotIn(b"keep-alive: 5", head)
                with client.makefile("rb") as lines:
                    self.assertEqual(lines.readline(), b"HTTP/1.1 200 OK\r\n")

    def test_rewriting_proxy(self):
        asked = []

        def handle(ws):
            asked.append(ws.request)
            with contextlib.suppress(ConnectionClosed):
                for message in ws:
                    ws.send(message)

        def set_cookie(ws, request, response):
            response.headers["Set-Cookie"] = "id=8"

        with server(handle, subprotocols=["v2", "v1"], process_response=set_cookie) as url:
            base = url.removesuffix("/ws")
            with Listening("rewriting_proxy", base, "secret", "[removed]") as proxy:
                # A field that `Connection` lists is for the proxy alone.
                fields = {"Cookie": "id=7", "X-Own": "1", "X-Forwarded-For": "192.0.2.1"}
                fields |= {"Connection": "X-Hop", "X-Hop": "2"}
                settings = {"subprotocols": ["v1"], "origin": "https://app.example", "additional_headers": fields}
                with proxy.connect("/it?x=1", **settings) as ws:
                    self.assertEqual(ws.subprotocol, "v1")
                    self.assertEqual(ws.response.headers["Set-Cookie"], "id=8")
                    for sent, received in (
                        ("a secret, and a secret", "a [removed], and a [removed]"),
                        ("Grüße", "Grüße"),
                        (b"secret \xff", b"secret \xff"),
                        ("x" * 60_000, "x" * 60_000),
                    ):
                        ws.send(sent)
                        self.assertEqual(ws.recv(PATIENCE_S), received)
                    ws.close(4321, "through")
                    self.assertEqual(ws.close_code, 4321)
                fields = asked[0].headers
                self.assertEqual(asked[0].path, "/it?x=1")
                self.assertEqual((fields["Cookie"], fields["Origin"]), ("id=7", "https://app.example"))
                self.assertEqual(fields["Host"], proxy.address)
                self.assertEqual(fields.get_all("X-Forwarded-For"), ["127.0.0.1"])
                self.assertEqual(fields.get_all("Connection"), ["Upgrade"])
                self.assertEqual(fields["X-Own"], "1")
                self.assertNotIn("X-Hop", fields)

    def test_rewriting_proxy_passes_the_end_of_either_side_on(self):
        def handle(ws):
            with contextlib.suppress(ConnectionClosed):
                match ws.recv():
                    case "close":
                        ws.close(4002, "enough")
                    case "lose":
                        ws.socket.shutdown(socket.SHUT_RDWR)

        with server(handle) as url:
            with Listening("rewriting_proxy", url.removesuffix("/ws")) as proxy:
                for sent, code, reason in (("close", 4002, "enough"), ("lose", 1014, "the server is lost")):
                    with proxy.connect("/") as ws:
                        ws.send(sent)
                        self.assertEqual(closed(ws), code)
                        self.assertEqual(ws.close_reason, reason)
                with socket.create_connection(("127.0.0.1", proxy.port)) as plain, plain.makefile("rb") as lines:
                    plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    self.assertTrue(lines.readline().startswith(b"HTTP/1.1 426 "))

    def test_rewriting_proxy_passes_refusals_on(self):
        with server(lambda ws: None, process_request=lambda ws, _: ws.respond(403, "not you\n")) as url:
            with Listening("rewriting_proxy", url.removesuffix("/ws")) as proxy:
                with self.assertRaises(InvalidStatus) as refused:
                    proxy.connect("/")
                self.assertEqual(refused.exception.response.status_code, 403)
                self.assertEqual(refused.exception.response.body, b"not you\n")
        with listening() as (_, url):
            pass
        with Listening("rewriting_proxy", url.removesuffix("/ws")) as proxy:
            with self.assertRaises(InvalidStatus) as refused:
                proxy.connect("/")
            self.assertEqual(refused.exception.response.status_code, 502)

    def test_upload_stores_files_that_are_longer_than_its_memory(self):
        piece, pieces = os.urandom(MIB), 64
        with tempfile.TemporaryDirectory() as folder, Listening("upload", folder) as example:
            url = f"ws://{example.address}/uploads/film.mp4"
            before = example.memory_bytes_max()
            with connect(url, max_size=None) as ws:
                ws.send([piece] * pieces)
                digest = hashlib.sha256(piece * pieces).hexdigest()
                self.assertEqual(ws.recv(PATIENCE_S), f"{pieces * MIB} bytes, sha256 {digest}")
                self.assertEqual(closed(ws), 1000)
            self.assertLess(example.memory_bytes_max() - before, 8 * MIB)
            self.assertEqual(os.listdir(folder), ["film.mp4"])

    def test_upload_sends_what_it_receives(self):
        with tempfile.TemporaryDirectory() as folder, Listening("upload", folder) as example:
            sent = os.path.join(folder, ".sent")
            with open(sent, "wb") as file:
                file.write(os.urandom(3 * MIB + 7))
            with Example("upload", f"ws://{example.address}/uploads/copy-1.bin", sent) as client:
                self.assertEqual(client.wait(), 0, client.stderr.lines)
                self.assertRegex(client.stdout.lines[0], rf"^{3 * MIB + 7} bytes, sha256 [0-9a-f]{{64}}\n$")
            with open(sent, "rb") as one, open(os.path.join(folder, "copy-1.bin"), "rb") as other:
                self.assertEqual(one.read(), other.read())

    def test_upload_keeps_nothing_of_what_breaks_off_and_no_strange_names(self):
        with tempfile.TemporaryDirectory() as folder, Listening("upload", folder) as example:
            with Peer.dial(example.port, "/uploads/half.bin") as peer:
                peer.protocol.send_binary(b"x" * 100_000, fin=False)
                peer.flush()
            example.stderr.wait_for("127.0.0.1")
            self.assertEqual(os.listdir(folder), [])
            for name in ("", ".profile", "a/b", "..%2Fb", "a b", "x" * 101):
                with self.assertRaises(InvalidStatus, msg=name) as refused:
                    example.connect(f"/uploads/{name.replace(' ', '%20')}")
                self.assertEqual(refused.exception.response.status_code, 404)

    def test_pong_axum(self):
        with Listening("pong_axum") as example, example.connect() as ws:
            for message, answer in (("hello", "pong"), (b"ping", b"pong")):
                ws.send(message)
                self.assertEqual(ws.recv(PATIENCE_S), answer)
            ws.close()
            self.assertEqual(example.get("/ws")[0], 426)
            self.assertEqual(example.stop(), 0)
            self.assertEqual(example.stdout.lines[1:], ["Text hello\n", "Binary ping\n"])

    def test_hyper_service(self):
        with Listening("hyper_service") as example:
            for path, name in (("/ws?name=ada", "ada"), ("/ws", "you")):
                with example.connect(path) as ws:
                    self.assertEqual(ws.recv(PATIENCE_S), f"hello, {name}")
                    for message in ("hello", b"\xff"):
                        ws.send(message)
                        self.assertEqual(ws.recv(PATIENCE_S), message)
            self.assertEqual(example.get("/"), (200, "hello\n"))
            self.assertEqual(example.get("/other"), (404, "no such path\n"))
            self.assertEqual(example.get("/ws")[0], 426)
            self.assertEqual(example.stop(), 0)

    def test_adopt_axum(self):
        with Listening("adopt_axum") as example:
            with example.connect(subprotocols=["other", "echo"]) as ws:
                self.assertEqual(ws.subprotocol, "echo")
                self.assertEqual(example.get("/messages"), (200, "0\n"))
                for message in ("hello", b"\xff"):
                    ws.send(message)
                    self.assertEqual(ws.recv(PATIENCE_S), message)
                self.assertEqual(example.get("/messages"), (200, "2\n"))
                self.assertEqual(example.get("/ws")[0], 426)
                example.process.send_signal(signal.SIGTERM)
                self.assertEqual(closed(ws), 1001)
                self.assertEqual(example.wait(), 0)


class Clients(unittest.TestCase):
    def test_client(self):
        received = []

        def handle(ws):
            received.append(ws.recv(PATIENCE_S))
            ws.send("one")
            ws.send("zwei, größer")
            ws.close(1011, "no more")

        with server(handle) as url, Example("client", url) as example:
            self.assertEqual(example.wait(), 1)
            self.assertEqual(received, ["Hello Server"])
            self.assertEqual(example.stdout.lines, ["one\n", "zwei, größer\n"])
            self.assertRegex("".join(example.stderr.lines), r"^Read error: .*1011.*\n$")

    def test_client_that_finds_no_server(self):
        with listening() as (_, url):
            pass
        with Example("client", url) as example:
            self.assertEqual(example.wait(), 1)
            self.assertRegex("".join(example.stderr.lines), "^Dial Error: .*refused")

        with server(lambda ws: None, process_request=lambda ws, _: ws.respond(403, "not you\n")) as url:
            with Example("client", url) as example:
                self.assertEqual(example.wait(), 1)
                self.assertRegex("".join(example.stderr.lines), "^Dial Error: .*403.*not you")

    def test_ping_client(self):
        received = []

        def handle(ws):
            for _ in range(2):
                received.append((ws.recv(PATIENCE_S), time.monotonic()))
                ws.send("pong")

        # From before the first ping, which may be read late.
        begun = time.monotonic()
        with server(handle) as url, Example("ping_client", url) as example:
            for _ in range(2):
                example.stdout.wait_for("^client receive message: pong\n$")
            self.assertEqual([message for message, _ in received], [b"ping", b"ping"])
            self.assertTrue(2 < received[1][1] - begun < PATIENCE_S, received)

    def test_ping_client_and_client_of_pong_axum(self):
        with Listening("pong_axum") as pong:
            url = f"ws://{pong.address}/ws"
            with Example("ping_client", url) as example:
                example.stdout.wait_for("^client receive message: pong\n$")
                self.assertEqual(example.stop(), 0)
            with Example("client", url) as example:
                example.stdout.wait_for("^pong\n$")
                self.assertEqual(example.stop(), 0)
            self.assertEqual(pong.stop(), 0)
            self.assertEqual(pong.stdout.lines[1:], ["Binary ping\n", "Text Hello Server\n"])


class Heartbeat(unittest.TestCase):
    def test_a_server_that_answers_is_alive(self):
        def handle(ws):
            with contextlib.suppress(ConnectionClosed):
                ws.recv()

        with server(handle) as url, Example("heartbeat", "probe", url) as example:
            self.assertEqual(example.wait(), 0)
            self.assertEqual(example.stdout.lines, ["Server is alive\n"])

    def test_a_server_that_is_silent_for_five_seconds_is_dead(self):
        begun = time.monotonic()
        with listening() as (listener, url), Example("heartbeat", "probe", url) as example:
            with Peer.accept(listener) as peer:
                self.assertIs(peer.next().opcode, Opcode.PING)
                example.stdout.wait_for("^Server is dead: timeout\n$")
                self.assertTrue(5 < time.monotonic() - begun < PATIENCE_S)
                self.assertEqual(example.wait(), 1)

    def test_so_is_one_that_does_not_even_open_the_connection(self):
        with listening() as (_, url), Example("heartbeat", "probe", url, "--timeout", "0.2") as example:
            self.assertEqual(example.wait(), 1)
            self.assertEqual(example.stdout.lines, ["Server is dead: timeout\n"])

    def test_the_ticker_pings_and_answers_pings(self):
        def check(peer, example):
            for _ in range(3):
                frame = peer.next()
                self.assertEqual((frame.opcode, bytes(frame.data)), (Opcode.PING, b"beat"))
            # The first one comes after a whole interval, too.
            self.assertGreater(time.monotonic() - begun, 0.3)
            # The pongs that the protocol has queued for the three pings.
            peer.flush()
            example.stdout.wait_for("^pong: beat\n$")
            peer.protocol.send_ping(b"the same data")
            peer.flush()
            while (frame := peer.next()).opcode is not Opcode.PONG:
                pass
            self.assertEqual(bytes(frame.data), b"the same data")
            example.stdout.wait_for("^ping: the same data\n$")

        begun = time.monotonic()
        with self.subTest("client"), listening() as (listener, url):
            with Example("heartbeat", "tick", url, "--every", "0.1") as example, Peer.accept(listener) as peer:
                check(peer, example)
        begun = time.monotonic()
        with self.subTest("server"), Listening("heartbeat", "--every", "0.1") as example:
            with Peer.dial(example.port, "/ws") as peer:
                check(peer, example)


class Browsers(InFrontOfAPage):
    def test_a_page_of_a_foreign_origin_may_connect_to_every_server(self):
        self.browser.open(f"{self.origin}/")
        for name, path in SERVERS.items():
            with self.subTest(name=name), Listening(name) as example:
                self.assertEqual(self.browser.run(OPEN, f"ws://{example.address}{path}"), "open")
        with Listening("echo") as echo, Listening("reverse_proxy", echo.address) as proxy:
            url = f"ws://{proxy.address}/wshandler"
            self.assertEqual(self.browser.run(OPEN, url), "open")
            self.browser.run("socket.send('from a page')")
            self.assertEqual(self.browser.run("return await next()"), "from a page")

    def test_cors(self):
        with Listening("cors") as example:
            own = f"http://{example.address}"
            other = "http://" + example.stdout.wait_for(r"127\.0\.0\.1:\d+")[0]
            nothing = 'closed 1006 ""'
            told = {
                own: ["welcome to /same-host", "welcome to /listed", "welcome to /any", nothing, "welcome to /pages"],
                other: [nothing, "welcome to /listed", "welcome to /any", nothing, "welcome to /pages"],
            }
            last = "[...document.querySelectorAll('td:last-child')].map((cell) => cell.textContent)"
            for origin, cells in told.items():
                self.browser.open(f"{origin}/")
                self.assertEqual(self.browser.text("#origin"), origin)
                self.browser.until(f"{last}.every((text) => text)")
                self.assertEqual(self.browser.run(f"return {last}"), cells)
            example.stdout.wait_for(rf"^/same-host: 403 .*\(origin {other}\)\n$")
            # Programs send no Origin, or any.
            for path in ("/same-host", "/listed", "/any", "/programs"):
                self.assertEqual(self.status(example, path), 101, path)
            self.assertEqual(self.status(example, "/pages"), 403)
            self.assertEqual(self.status(example, "/programs", origin=other), 403)
            self.assertEqual(self.status(example, "/listed", origin=other), 101)
            self.assertEqual(self.status(example, "/listed", origin="https://elsewhere.example"), 403)

    def status(self, example, path, origin=None):
        try:
            with example.connect(path, origin=origin):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    def test_the_page_of_cursors(self):
        with Example("cursors", "127.0.0.1:0") as example:
            port = int(example.stdout.wait_for(r"127\.0\.0\.1:(\d+)")[1])
            self.browser.open(f"http://127.0.0.1:{port}/")
            self.browser.until("document.querySelector('#status').textContent === '0 other people are here'")
            with connect(f"ws://127.0.0.1:{port}/cursors") as ws:
                self.browser.until("document.querySelector('#status').textContent === '1 other person is here'")
                self.browser.hover("body", 0.25, 0.5)
                page = json.loads(ws.recv(PATIENCE_S))["moved"]
                self.assertAlmostEqual(page["at"]["x"], 0.25, delta=0.01)
                self.assertAlmostEqual(page["at"]["y"], 0.5, delta=0.01)
                ws.send(json.dumps({"x": 0.75, "y": 0.5}))
                self.browser.until("document.querySelector('.cursor')")
                shown = self.browser.run(
                    "const { left, top } = document.querySelector('.cursor').style; return [left, top]"
                )
                self.assertEqual(shown, ["75%", "50%"])
                # One who comes later learns where the page's cursor is.
                with connect(f"ws://127.0.0.1:{port}/cursors") as late:
                    moved = json.loads(late.recv(PATIENCE_S))["moved"]
                    self.assertEqual(moved["id"], page["id"])
            self.browser.until("document.querySelector('.cursor') === null")
            self.browser.until("document.querySelector('#status').textContent === '0 other people are here'")
            with connect(f"ws://127.0.0.1:{port}/cursors") as ws:
                ws.send(json.dumps({"x": 2, "y": 0}))
                while (message := self.received(ws)) is not None:
                    self.assertNotIn('"x":2', message)
                self.assertEqual(ws.close_code, 1008)

    def received(self, ws):
        """The next message; `None` after the last one."""
        try:
            return ws.recv(PATIENCE_S)
        except ConnectionClosed:
            return None
    def test_the_page_of_login(self):
        with Listening("login") as example:
            self.browser.open(f"http://{example.address}/")
            for secret, told in (("wrong", "wrong name or password"), ("sesame", "ann is here")):
                self.browser.run("document.querySelectorAll('#login input').forEach((input) => { input.value = ''; })")
                self.browser.type("#login [name=user]", "ann")
                self.browser.type("#login [name=secret]", secret)
                self.browser.click("#login button")
                self.browser.until(f"document.querySelector('#log').textContent.includes('{told}')")
            self.browser.type("#say [name=text]", "Grüße <b>")
            self.browser.click("#say button")
            self.browser.until("document.querySelector('#log li:last-child').textContent === 'ann: Grüße <b>'")
            example.process.send_signal(signal.SIGTERM)
            self.browser.until("document.querySelector('#log li:last-child').textContent.startsWith('closed 1001')")
            self.assertEqual(example.wait(), 0)

    def test_the_page_of_adopt_axum(self):
        with Listening("adopt_axum") as example:
            self.browser.open(f"http://{example.address}/")
            self.browser.until("document.querySelector('#log li')")
            self.assertEqual(self.browser.text("#log li"), "open, subprotocol echo")
            self.browser.type("#message", "Grüße <b>")
            self.browser.click("button")
            self.browser.until("document.querySelectorAll('#log li').length === 2")
            self.assertEqual(self.browser.text("#log li:last-child"), "Grüße <b>")
            example.process.send_signal(signal.SIGTERM)
            self.browser.until("document.querySelectorAll('#log li').length === 3")
            self.assertEqual(self.browser.text("#log li:last-child"), "closed 1001 the server stops")
            self.assertEqual(example.wait(), 0)


if __name__ == "__main__":
    unittest.main()
