"""`echoring proxy` with Python's websockets, plain HTTP, and misbehaving peers."""

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import queue
import re
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from harness import BINARY, DRAIN_S_MAX, PATIENCE_S, Raw, Server, deny_io_uring, frame, noise, refusing_port, request


class Proxy(Server):
    """Runs `echoring proxy` on a free port, with the interface of the harness's server."""

    def __init__(self, *upstreams, flags=(), log="info", **options):
        words = [word for upstream in upstreams for word in ("--upstream", upstream)]
        match = self._start("proxy", "--listen", "127.0.0.1:0", "--log", log, "--shards", "1", *words, *flags, **options)
        assert match[4] == "1", self.listening
        self.host, self.port, self.driver, self.pid = match[1], int(match[2]), match[3], int(match[5])

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s*(\d+) kB", status.read())[1]) * 1024

    def request(self, method, path, body=None, headers=None):
        return request((self.host, self.port), method, path, body, headers)


class Backend:
    """An echo server of Python's websockets on a thread. Records how each connection ended."""

    def __init__(self, handler=None, **options):
        self.requests = queue.Queue()
        self.closes = queue.Queue()
        self.handler = handler or self.echo
        options.setdefault("max_size", None)
        self.server = serve(self.handle, "127.0.0.1", 0, **options)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.port = self.server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"

    def handle(self, connection):
        self.requests.put(connection.request)
        try:
            self.handler(connection)
        except ConnectionClosed:
            pass
        connection.close()
        self.closes.put((connection.close_code, connection.close_reason))

    @staticmethod
    def echo(connection):
        for message in connection:
            connection.send(message)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(PATIENCE_S)


class Listener:
    """A TCP listener whose connections the test answers itself."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE_S)
        self.url = "ws://127.0.0.1:%d" % self.socket.getsockname()[1]

    def accept(self):
        """Accepts a connection that sends bytes. Health checks connect too, and send none."""
        while True:
            stream, _ = self.socket.accept()
            stream.settimeout(PATIENCE_S)
            if stream.recv(1, socket.MSG_PEEK):
                return stream
            stream.close()

    def accept_websocket(self):
        stream = self.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(4096)
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)[1]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        import base64

        accept = base64.b64encode(digest).decode()
        stream.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        return stream

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def read_record(file):
    with open(file) as lines:
        head, *records = map(json.loads, lines)
    return head, records


class ProxiedWebSockets(unittest.TestCase):
    denied = False

    def proxy(self, *upstreams, **options):
        proxy = Proxy(*upstreams, denied=self.denied, **options)
        self.addCleanup(proxy.__exit__)
        self.assertEqual(proxy.driver, "epoll")
        return proxy

    def backend(self, *arguments, **options):
        backend = Backend(*arguments, **options)
        self.addCleanup(backend.__exit__)
        return backend

    def listener(self):
        listener = Listener()
        self.addCleanup(listener.__exit__)
        return listener

    def test_the_listening_line_has_the_facts_of_the_proxy(self):
        proxy = self.proxy(self.backend().url)
        facts = f"ws://127.0.0.1:{proxy.port} driver=epoll shards=1 pid={proxy.process.pid}"
        self.assertEqual(proxy.listening, f"listening {facts}\n")
        with connect(proxy.url("/"), compression=None) as client:
            client.send("there")
            self.assertEqual(client.recv(PATIENCE_S), "there")

    def test_messages_of_all_kinds_pass(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        for compression in (None, "deflate"):
            with connect(proxy.url("/x"), max_size=None, compression=compression) as client:
                self.assertEqual(bool(client.protocol.extensions), compression is not None)
                for message in ("", "Grüße", b"", bytes(range(256)), "x" * 200_000, noise(1 << 20)):
                    client.send(message)
                    self.assertEqual(client.recv(PATIENCE_S), message)
                client.send(["a fragmented ", "message ", "of three"])
                self.assertEqual(client.recv(PATIENCE_S), "a fragmented message of three")
                self.assertTrue(client.ping(b"through").wait(PATIENCE_S))

    def test_pings_of_the_server_reach_the_client(self):
        def handler(connection):
            connection.send("pong" if connection.ping(b"there?").wait(PATIENCE_S) else "nothing")

        proxy = self.proxy(self.backend(handler).url)
        with connect(proxy.url("/")) as client:
            self.assertEqual(client.recv(PATIENCE_S), "pong")

    def test_subprotocols_and_paths_pass(self):
        backend = self.backend(subprotocols=["chat", "v2"])
        proxy = self.proxy(backend.url)
        with connect(proxy.url("/a%20b?x=1&y"), subprotocols=["other", "v2"]) as client:
            self.assertEqual(client.subprotocol, "v2")
        self.assertEqual(backend.requests.get(timeout=PATIENCE_S).path, "/a%20b?x=1&y")

    def test_a_server_sees_who_asked_and_for_what(self):
        backend = self.backend()
        headers = {"X-Forwarded-For": "10.9.9.9", "X-Forwarded-Proto": "https"}
        told = {
            (): ("127.0.0.1", "http"),
            ("--forwarded", "add", "--host", "upstream"): ("10.9.9.9, 127.0.0.1", "https"),
            ("--forwarded", "off"): ("10.9.9.9", "https"),
        }
        for flags, (address, proto) in told.items():
            proxy = self.proxy(backend.url, flags=flags)
            with connect(proxy.url("/"), additional_headers=headers):
                seen = backend.requests.get(timeout=PATIENCE_S).headers
            self.assertEqual(seen.get_all("X-Forwarded-For"), [address], flags)
            self.assertEqual(seen.get_all("X-Forwarded-Proto"), [proto], flags)
            own = f"127.0.0.1:{proxy.port}"
            self.assertEqual(seen["Host"], backend.url[5:] if "upstream" in flags else own, flags)
            self.assertEqual(seen.get("X-Forwarded-Host"), None if "off" in flags else own, flags)

    def test_closes_of_the_client_reach_the_server_as_they_are(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        for code, reason in ((1000, ""), (1001, "left"), (3000, "Grüße"), (4999, "x" * 123)):
            with connect(proxy.url("/")) as client:
                client.close(code, reason)
                self.assertEqual((client.close_code, client.close_reason), (code, reason))
            self.assertEqual(backend.closes.get(timeout=PATIENCE_S), (code, reason))
        # A Close frame without a code is 1005, which is never sent.
        with Raw(proxy).open("/") as peer:
            peer.send(frame(8))
            self.assertEqual(peer.read_frame(), (0x88, b""))
            peer.read_end()
        self.assertEqual(backend.closes.get(timeout=PATIENCE_S), (1005, ""))

    def test_closes_of_the_server_reach_the_client_as_they_are(self):
        ends = queue.Queue()
        proxy = self.proxy(self.backend(lambda connection: connection.close(*ends.get())).url)
        for code, reason in ((1000, ""), (1008, "no"), (4123, "Grüße")):
            ends.put((code, reason))
            with connect(proxy.url("/")) as client:
                with self.assertRaises(ConnectionClosed):
                    client.recv(PATIENCE_S)
                self.assertEqual((client.close_code, client.close_reason), (code, reason))

    def test_a_lost_server_is_1014_even_in_the_middle_of_a_frame(self):
        for sent in (b"", b"\x81\x05he", b"\x82\x7f" + struct.pack("!Q", 1 << 40) + bytes(100_000), b"\x01\x02hi"):
            listener = self.listener()
            proxy = self.proxy(listener.url)
            with Raw(proxy) as peer:
                thread = threading.Thread(target=lambda: peer.upgrade("/"))
                thread.start()
                upstream = listener.accept_websocket()
                thread.join(PATIENCE_S)
                upstream.sendall(sent)
                upstream.close()
                self.assertEqual(peer.read_close(), 1014, sent[:10])

    def test_a_lost_client_is_the_end_of_the_stream_for_the_server(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        for sent in (b"", frame(1, b"hello")[:-2]):
            with Raw(proxy).open("/") as peer:
                peer.send(sent)
            self.assertEqual(backend.closes.get(timeout=PATIENCE_S)[0], 1006)

    def test_who_breaks_the_protocol_is_told_so(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        for sent in (frame(3), frame(1, b"bare", mask=None), frame(0, b"stray"), frame(8, b"x"), b"\xc1\x80\0\0\0\0"):
            with Raw(proxy).open("/") as peer:
                peer.send(frame(1, b"before") + sent)
                self.assertEqual(peer.read_close(), 1002, sent)
            self.assertEqual(backend.closes.get(timeout=PATIENCE_S)[0], 1006)
        with self.listener() as listener:
            proxy = self.proxy(listener.url)
            with Raw(proxy) as peer:
                thread = threading.Thread(target=lambda: peer.upgrade("/"))
                thread.start()
                upstream = listener.accept_websocket()
                thread.join(PATIENCE_S)
                upstream.sendall(b"\x81\x82\0\0\0\0hi")  # masked
                self.assertEqual(peer.read_close(), 1014)
                first, second = upstream.recv(2)
                self.assertEqual((first, second & 0x80), (0x88, 0x80))
                upstream.close()

    def test_what_a_server_does_not_grant_passes_as_it_is(self):
        def refuse(connection, request):
            return connection.respond(403, "not you\n")

        proxy = self.proxy(self.backend(process_request=refuse).url)
        with self.assertRaises(InvalidStatus) as raised:
            connect(proxy.url("/"))
        self.assertEqual(raised.exception.response.status_code, 403)
        self.assertEqual(raised.exception.response.body, b"not you\n")

    def test_compression_ends_at_the_proxy_when_asked_to(self):
        backend = self.backend()
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "recording")
            proxy = self.proxy(backend.url, flags=("--compress", "on", "--record", file))
            with connect(proxy.url("/"), max_size=None) as client:
                self.assertTrue(client.protocol.extensions)
                self.assertNotIn("Sec-WebSocket-Extensions", backend.requests.get(timeout=PATIENCE_S).headers)
                for message in ("", "short", "long " * 10_000, b"\0" * 200_000, noise(70_000)):
                    client.send(message)
                    self.assertEqual(client.recv(PATIENCE_S), message)
                client.send(["frag", "mented " * 100])
                self.assertEqual(client.recv(PATIENCE_S), "frag" + "mented " * 100)
            with connect(proxy.url("/"), compression=None) as client:
                client.send("plain " * 100)
                self.assertEqual(client.recv(PATIENCE_S), "plain " * 100)
            with connect(proxy.url("/"), max_size=None) as client:
                client.send(b"\0" * (2 << 20))
                with self.assertRaises(ConnectionClosed):
                    client.recv(PATIENCE_S)
                self.assertEqual(client.close_code, 1009)
            proxy.terminate()
            self.assertEqual(proxy.wait(), 0)
            _, records = read_record(file)
            self.assertFalse([record for record in records if record.get("compressed")])
            self.assertIn("long " * 10_000, [record.get("data") for record in records])

    def test_compression_is_not_offered_when_off(self):
        proxy = self.proxy(self.backend().url, flags=("--compress", "off"))
        with connect(proxy.url("/")) as client:
            self.assertFalse(client.protocol.extensions)

    def test_a_slow_reader_pauses_its_sender_and_gets_everything(self):
        chunk = noise(1 << 16)
        count = 1024  # 64 MiB
        stuck = threading.Event()
        sent = []

        def handler(connection):
            connection.socket.settimeout(None)
            for _ in range(count):
                connection.send(chunk)
                sent.append(time.monotonic())
            connection.recv(PATIENCE_S)

        backend = self.backend(handler, compression=None)
        proxy = self.proxy(backend.url, flags=("--idle-timeout", "off"))
        with Raw(proxy) as peer:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            peer.upgrade("/")
            before = proxy.rss_bytes()
            # A sender that makes no progress for a while is backpressured.
            deadline = time.monotonic() + PATIENCE_S
            while not (sent and time.monotonic() - sent[-1] > 0.5):
                self.assertLess(time.monotonic(), deadline)
                stuck.wait(0.05)
            self.assertLess(len(sent), count, "64 MiB went somewhere")
            self.assertLess(proxy.rss_bytes() - before, 8 << 20)
            for i in range(count):
                first, payload = peer.read_frame()
                self.assertTrue(first == 0x82 and payload == chunk, i)
            self.assertLess(proxy.rss_bytes() - before, 8 << 20)

    def test_a_message_of_65_mib_passes_in_little_memory(self):
        size = 65 << 20
        digest = hashlib.sha256()
        with self.listener() as listener:
            proxy = self.proxy(listener.url)
            with Raw(proxy) as peer:
                thread = threading.Thread(target=lambda: peer.upgrade("/"))
                thread.start()
                upstream = listener.accept_websocket()
                thread.join(PATIENCE_S)
                before = proxy.rss_bytes()
                chunk = bytes(range(256)) * 256
                expected = hashlib.sha256(chunk * (size // len(chunk))).hexdigest()

                def send():
                    upstream.sendall(b"\x82\x7f" + struct.pack("!Q", size))
                    for _ in range(size // len(chunk)):
                        upstream.sendall(chunk)

                sender = threading.Thread(target=send)
                sender.start()
                received, final, most = 0, False, 0
                while not final:
                    first, payload = peer.read_frame()
                    self.assertEqual(first & 0x7F, 0 if received else 2)
                    received, final = received + len(payload), first & 0x80 != 0
                    digest.update(payload)
                    most = max(most, proxy.rss_bytes())
                sender.join(PATIENCE_S)
                upstream.close()
                self.assertEqual((received, digest.hexdigest()), (size, expected))
                self.assertLess(most - before, 8 << 20)

    def test_an_idle_connection_is_closed_with_1001(self):
        backend = self.backend()
        proxy = self.proxy(backend.url, flags=("--idle-timeout", "300ms"))
        with Raw(proxy).open("/") as peer:
            self.assertEqual(peer.read_close(), 1001)
        self.assertEqual(backend.closes.get(timeout=PATIENCE_S), (1001, "idle timeout"))

    def test_a_drain_tells_both_sides_1001_and_exits_0(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        with Raw(proxy).open("/") as peer:
            started = time.monotonic()
            proxy.terminate()
            self.assertEqual(peer.read_close(), 1001)
            self.assertEqual(backend.closes.get(timeout=PATIENCE_S)[0], 1001)
            self.assertEqual(proxy.wait(), 0)
            self.assertLess(time.monotonic() - started, DRAIN_S_MAX)

    def test_a_deaf_client_does_not_hold_up_the_drain(self):
        proxy = self.proxy(self.backend().url)
        with Raw(proxy).open("/"):
            proxy.terminate(signal.SIGINT)
            self.assertEqual(proxy.wait(), 0)

    def test_a_recording_has_every_frame_with_its_time(self):
        backend = self.backend()
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "recording.jsonl")
            proxy = self.proxy(backend.url, flags=("--record", file))
            for _ in range(2):
                with connect(proxy.url("/r"), compression=None, subprotocols=None) as client:
                    for message in ("Grüße", b"\xff\0"):
                        client.send(message)
                        client.recv(PATIENCE_S)
                    client.ping(b"?").wait(PATIENCE_S)
                    client.close(4001, "bye")
            proxy.terminate()
            self.assertEqual(proxy.wait(), 0)
            head, records = read_record(file)
        self.assertEqual(head["schema"], "echoring.recording/1")
        self.assertLess(abs(head["started_unix_ns"] / 1e9 - time.time()), 600)
        for conn in (1, 2):
            own = [record for record in records if record["conn"] == conn]
            times = [record["t_ns"] for record in own]
            self.assertEqual(times, sorted(times))
            seen = [(r["dir"], r["kind"], r.get("data"), r.get("code"), r.get("reason")) for r in own]
            self.assertEqual(
                seen,
                [
                    ("client", "open", None, None, None),
                    ("client", "text", "Grüße", None, None),
                    ("upstream", "text", "Grüße", None, None),
                    ("client", "binary", "/wA=", None, None),
                    ("upstream", "binary", "/wA=", None, None),
                    ("client", "ping", "?", None, None),
                    ("upstream", "pong", "?", None, None),
                    ("client", "close", None, 4001, "bye"),
                    ("upstream", "close", None, 4001, "bye"),
                    ("client", "end", None, 4001, None),
                ],
            )
            self.assertEqual((own[0]["path"], own[0]["upstream"]), ("/r", backend.url + "/"))

    def test_a_full_disk_drains_the_proxy_and_is_told(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        done = subprocess.run(
            [BINARY, "proxy", "--upstream", "ws://127.0.0.1:1", "--listen", "127.0.0.1:0", "--record", "/dev/full"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
        self.assertIn("/dev/full", done.stderr)


    def test_a_recording_that_can_grow_no_further_ends_all_connections(self):
        limit = 256 * 1024

        def fill_the_disk():
            # As on a disk with this much room, a write beyond it fails.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if self.denied:
                deny_io_uring()

        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "recording")
            proxy = self.proxy(self.backend().url, flags=("--record", file), before=fill_the_disk)
            url = proxy.url("/")
            with connect(url, compression=None) as one, connect(url, compression=None) as other:
                with self.assertRaises(ConnectionClosed):
                    while True:
                        one.send("x" * 10_000)
                        one.recv(PATIENCE_S)
                with self.assertRaises(ConnectionClosed):
                    other.recv(PATIENCE_S)
                self.assertEqual([end.close_code for end in (one, other)], [1011, 1011])
            self.assertEqual(proxy.wait(), 1)
            self.assertTrue(any("the recording is incomplete: " in line for line in proxy.log), proxy.log)
            self.assertEqual(os.path.getsize(file), limit)


class ProxiedWebSocketsWithoutIoUring(ProxiedWebSockets):
    denied = True


class HttpBackend(http.server.ThreadingHTTPServer):
    """Answers with the request. `/stream` sends its parts when the test allows it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HttpHandler)
        self.parts = queue.Queue()
        self.healthy = True
        self.asked = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self):
        if self.path == "/healthz":
            self.send_response(200 if self.server.healthy else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while part := self.server.parts.get(timeout=PATIENCE_S):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return
        self.server.asked += 1
        body = self.body()
        seen = json.dumps({
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": hashlib.sha256(body).hexdigest(),
            "bytes": len(body),
            "port": self.server.server_address[1],
        }).encode()
        self.send_response(418 if self.path == "/teapot" else 200)
        self.send_header("Content-Length", str(len(seen)))
        self.send_header("Connection", "X-Private")
        self.send_header("X-Private", "for the next hop")
        self.send_header("X-Seen", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(seen)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = answer


class ProxiedHttp(unittest.TestCase):
    denied = False

    def proxy(self, *upstreams, **options):
        proxy = Proxy(*upstreams, denied=self.denied, **options)
        self.addCleanup(proxy.__exit__)
        return proxy

    def backend(self):
        backend = HttpBackend()
        self.addCleanup(backend.__exit__)
        return backend

    def test_requests_and_responses_pass(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        body = noise(3 << 20)
        for method, path, sent, status in (
            ("GET", "/a?b=c", None, 200),
            ("POST", "/upload", body, 200),
            ("PUT", "/teapot", b"", 418),
            ("DELETE", "/x", None, 200),
            ("OPTIONS", "/x", None, 200),
        ):
            got, headers, answer = proxy.request(method, path, sent, {"Connection": "X-Hop", "X-Hop": "1", "X-End": "2"})
            seen = json.loads(answer)
            self.assertEqual((got, seen["method"], seen["path"]), (status, method, path))
            self.assertEqual((seen["bytes"], seen["body"]), (len(sent or b""), hashlib.sha256(sent or b"").hexdigest()))
            self.assertEqual(headers["X-Seen"], "yes")
            self.assertIsNone(headers["X-Private"])
            self.assertNotIn("x-hop", seen["headers"])
            self.assertEqual(seen["headers"]["x-end"], "2")
            self.assertEqual(seen["headers"]["x-forwarded-for"], "127.0.0.1")
            self.assertEqual(seen["headers"]["via"], "1.1 echoring")
        status, headers, answer = proxy.request("HEAD", "/")
        self.assertEqual((status, answer), (200, b""))
        self.assertGreater(int(headers["Content-Length"]), 0)

    def test_one_connection_serves_several_requests(self):
        proxy = self.proxy(self.backend().url)
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE_S)
        for i in range(3):
            connection.request("POST", f"/{i}", body=iter([b"one", b"two"]), encode_chunked=True)
            seen = json.loads(connection.getresponse().read())
            self.assertEqual((seen["path"], seen["bytes"]), (f"/{i}", 6))
        connection.close()

    def test_bodies_stream(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE_S)
        connection.request("GET", "/stream")
        response = connection.getresponse()
        for part in (b"first", b"second", b"x" * 100_000):
            # The next part is sent only after this one has arrived.
            backend.parts.put(part)
            self.assertEqual(response.read(len(part)), part)
        backend.parts.put(b"")
        self.assertEqual(response.read(), b"")
        connection.close()

    def test_a_server_that_is_not_there_is_502(self):
        proxy = self.proxy("http://127.0.0.1:%d" % self.enterContext(refusing_port()))
        status, _, body = proxy.request("GET", "/")
        self.assertEqual(status, 502, body)
        with self.assertRaises(InvalidStatus) as raised:
            connect(proxy.url("/"))
        self.assertEqual(raised.exception.response.status_code, 502)
        proxy.wait_for_log(r"cannot reach ws://127\.0\.0\.1.*status=502")

    def test_a_server_that_does_not_answer_is_504_and_one_that_hangs_up_502(self):
        with Listener() as listener:
            proxy = self.proxy(listener.url, flags=("--response-timeout", "300ms", "--health-interval", "off"))
            self.assertEqual(proxy.request("GET", "/")[0], 504)
            with self.assertRaises(InvalidStatus) as raised:
                connect(proxy.url("/"))
            self.assertEqual(raised.exception.response.status_code, 504)
        with Listener() as listener:
            proxy = self.proxy(listener.url)
            thread = threading.Thread(target=lambda: listener.accept().close())
            thread.start()
            self.assertEqual(proxy.request("GET", "/")[0], 502)
            thread.join(PATIENCE_S)

    def test_a_server_that_takes_no_connection_is_504(self):
        # With a full backlog the kernel does not answer further connections.
        with socket.socket() as full, contextlib.ExitStack() as stack:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            url = "http://127.0.0.1:%d" % full.getsockname()[1]
            proxy = self.proxy(url, flags=("--connect-timeout", "300ms", "--health-interval", "off"))
            self.assertEqual(proxy.request("GET", "/")[0], 504)

    def test_another_server_takes_over_and_none_is_503(self):
        backends = [HttpBackend(), HttpBackend()]
        proxy = self.proxy(*(backend.url for backend in backends), flags=("--health-interval", "1h"))
        ports = [json.loads(proxy.request("GET", "/")[2])["port"] for _ in range(6)]
        self.assertEqual(sorted(set(ports)), sorted(backend.server_address[1] for backend in backends))
        backends[0].__exit__()
        for _ in range(4):
            seen = json.loads(proxy.request("GET", "/")[2])
            self.assertEqual(seen["port"], backends[1].server_address[1])
        proxy.wait_for_log(r"upstream ws://\S+ is down")
        backends[1].__exit__()
        self.assertEqual(proxy.request("GET", "/")[0], 502)
        status, headers, _ = proxy.request("GET", "/")
        self.assertEqual((status, headers["Retry-After"]), (503, "3600"))

    def test_checks_take_a_server_out_and_bring_it_back(self):
        backends = [self.backend(), self.backend()]
        flags = ("--health-interval", "50ms", "--health-path", "/healthz")
        proxy = self.proxy(*(backend.url for backend in backends), flags=flags)
        backends[0].healthy = False
        proxy.wait_for_log(r"is down: GET /healthz returned 503")
        for _ in range(4):
            self.assertEqual(json.loads(proxy.request("GET", "/")[2])["port"], backends[1].server_address[1])
        backends[0].healthy = True
        proxy.wait_for_log(r"is up again")
        ports = {json.loads(proxy.request("GET", "/")[2])["port"] for _ in range(6)}
        self.assertEqual(len(ports), 2)

    def test_what_is_no_request_is_refused(self):
        proxy = self.proxy(self.backend().url)
        for sent, status in (
            (b"nonsense\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
                400,
            ),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        ):
            with Raw(proxy) as peer:
                peer.send(sent)
                self.assertEqual(peer.read_head()[0], status, sent[:40])

    def test_a_drain_lets_a_response_finish(self):
        backend = self.backend()
        proxy = self.proxy(backend.url)
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE_S)
        connection.request("GET", "/stream")
        response = connection.getresponse()
        backend.parts.put(b"first")
        self.assertEqual(response.read(5), b"first")
        proxy.terminate()
        proxy.wait_for_log("draining")
        backend.parts.put(b"second")
        backend.parts.put(b"")
        self.assertEqual(response.read(), b"second")
        connection.close()
        self.assertEqual(proxy.wait(), 0)


class ProxiedHttpWithoutIoUring(ProxiedHttp):
    denied = True


if __name__ == "__main__":
    unittest.main()
