"""One address with many connections takes nothing from others: in what waits for back ends and hooks, and in what webhooks are told."""

import base64
import contextlib
import functools
import http.server
import json
import os
import tempfile
import threading
import unittest

import argon2
from harness import PATIENCE_S, Server, text_file, wait_until
from test_backends import Service, by_event, connect, echo, events, tables
from test_webhooks import SECRET, Receiver
from websockets.sync.client import unix_connect

OTHERS = 10
# Between two attempts of one of the greedy client's connections. Without it their threads leave this process's others no time.
RETRY_S = 0.25


class Addresses(unittest.TestCase):
    """Where clients come from: one that is greedy, number 0, and others."""

    denied = False
    proxies, listen, flags = "", "127.0.0.1:0", ()

    def setUp(self):
        self.over = threading.Event()
        self.addCleanup(self.over.set)

    def serve(self, config):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.directory = stack.enter_context(tempfile.TemporaryDirectory())
        file = stack.enter_context(text_file("admin = '127.0.0.1:0'\ndemo = 'off'\n" + self.proxies + config))
        flags = [flag.format(directory=self.directory) for flag in self.flags]
        command = ("--config", file, "--shards", "2", *flags)
        return stack.enter_context(Server(*command, listen=self.listen, denied=self.denied))

    def open(self, server, path, who, **fields):
        """A connection of a client. Fields are those of its handshake."""
        return self.connect(f"ws://127.0.0.1:{server.port}{path}", who, fields)

    def connect(self, url, who, fields):
        return connect(url, source_address=(f"127.0.0.{9 + who}", 0), additional_headers=fields)

    def greedy(self, server, path, count, **fields):
        """Opens connections of number 0 at the same time, again until it is let in, some hundred a second. Returns those that are open so far."""
        opened = []

        def one():
            while not self.over.wait(RETRY_S):
                with contextlib.suppress(Exception):
                    opened.append(self.open(server, path, 0, **fields))
                    return

        for _ in range(count):
            threading.Thread(target=one, daemon=True).start()
        return opened

    def each_other(self, do):
        """Does something as each of the others, at the same time. Returns the results in their order."""
        results = [None] * OTHERS

        def one(who):
            try:
                results[who - 1] = do(who)
            except Exception as error:
                results[who - 1] = repr(error)

        threads = [threading.Thread(target=one, args=(who,)) for who in range(1, OTHERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class IPv4(Addresses):
    """Each client has an address of IPv4."""


class IPv6(Addresses):
    """The greedy client has an address of IPv6."""

    listen = "[::]:0"

    def connect(self, url, who, fields):
        if who > 0:
            return super().connect(url, who, fields)
        return connect(url.replace("127.0.0.1", "[::1]"), additional_headers=fields)


class Unix(Addresses):
    """The greedy client has no address."""

    flags = ("--listen", "unix:{directory}/socket")

    def connect(self, url, who, fields):
        if who > 0:
            return super().connect(url, who, fields)
        return unix_connect(os.path.join(self.directory, "socket"), url, compression=None, open_timeout=PATIENCE_S, additional_headers=fields)


class Proxied(Addresses):
    """All come through a trusted proxy that names them. The greedy client has all addresses of a network of IPv6."""

    proxies = "trusted_proxy = '127.0.0.1'\n"

    def setUp(self):
        super().setUp()
        self.hosts = iter(range(1, 1 << 16))

    def connect(self, url, who, fields):
        client = f"2001:db8::{next(self.hosts):x}" if who == 0 else f"2001:db8:0:{who}::1" if who % 2 else f"192.0.2.{who}"
        return connect(url, additional_headers={**fields, "X-Forwarded-For": client})


class Waits:
    """Services that answer the greedy client only when the test is over."""

    def wait(self):
        self.over.wait(PATIENCE_S)

    def back_end(self, slow):
        """A server with a back end that answers one kind of events of /chat/slow late."""

        def answer(event, now):
            if event["path"] == "/chat/slow":
                self.wait()
            return now(event) if callable(now) else now

        answers = {"connect": (204, None), "message": echo}
        answers[slow] = functools.partial(answer, now=answers[slow])
        service = Service(by_event(**answers))
        self.addCleanup(service.close)
        return self.serve(tables(service.url, timeout="'60s'", queue_bytes="'4MiB'")[len("admin = '127.0.0.1:0'\ndemo = 'off'\n"):])

    def assert_others_are_served(self, server, path="/chat/fast", credentials=lambda who: {}):
        def talk(who):
            with self.open(server, path, who, **credentials(who)) as client:
                client.send(f"from {who}")
                return client.recv(PATIENCE_S)

        self.assertEqual(self.each_other(talk), [f"from {who}" for who in range(1, OTHERS + 1)])

    def test_messages_that_wait_for_a_back_end(self):
        server = self.back_end("message")
        clients = self.greedy(server, "/chat/slow", 66)
        wait_until(lambda: len(clients) == 66, "they are open")
        for client in clients:
            with contextlib.suppress(Exception):
                for size in (60_000, 60_000, 20_000, 6_000, 2_000, 600, 200, 60, 60, 60, 60, 60, 60, 60):
                    client.send("x" * size)
        wait_until(lambda: events(server, "message", "rejected") > 20, "no more of it may wait")
        self.assert_others_are_served(server)

    def test_handshakes_that_wait_for_a_back_end(self):
        server = self.back_end("connect")
        self.greedy(server, "/chat/slow", 200)
        wait_until(lambda: self.queued(server) > 100 * 512, "they wait")
        self.assert_others_are_served(server)

    def queued(self, server):
        _, _, body = server.get("/metrics")
        return next(float(line.split()[-1]) for line in body.decode().splitlines() if line.startswith("echoring_backend_queued_bytes{"))

    def test_handshakes_that_wait_for_the_hook(self):
        asked = threading.Semaphore(0)
        case = self

        class Hook(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if b"slow" in self.rfile.read(int(self.headers["content-length"])):
                    asked.release()
                    case.wait()
                body = b'{"subject": "somebody"}'
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128
            handle_error = lambda *_: None

        hook = Quiet(("127.0.0.1", 0), Hook)
        self.addCleanup(hook.server_close)
        self.addCleanup(hook.shutdown)
        threading.Thread(target=hook.serve_forever, args=(0.01,), daemon=True).start()
        server = self.serve(f"[auth]\nhook = 'http://127.0.0.1:{hook.server_port}/'\nhook_timeout = '4s'\n")
        self.greedy(server, "/echo", 200, Authorization="Bearer slow")
        for _ in range(16):
            self.assertTrue(asked.acquire(timeout=PATIENCE_S))
        self.assert_others_are_served(server, "/echo", lambda who: {"Authorization": f"Bearer fast{who}"})

    def test_passwords_that_wait_to_be_checked(self):
        hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1)
        users = "".join(f"[[users]]\nname = '{name}'\npassword = '{hasher.hash('right')}'\n" for name in ("greedy", "other"))
        server = self.serve(f"[auth]\nbasic = '{self.enterContext(text_file(users))}'\n")
        credentials = lambda name, password: "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        self.greedy(server, "/echo", 200, Authorization=credentials("greedy", "wrong"))
        wait_until(lambda: json.loads(server.get("/stats")[2])["auth"]["refused"]["busy"] > 0, "no more of its may wait")
        self.assert_others_are_served(server, "/echo", lambda who: {"Authorization": credentials("other", "right")})


class Told:
    """A webhook whose receiver accepts nothing until the test is over."""

    def test_events_of_connections(self):
        server, receiver, may_go_on = self.webhook()
        for _ in range(600):
            with contextlib.suppress(Exception), self.open(server, "/echo", 0):
                pass
        self.assert_others_are_told(server, receiver, may_go_on)

    def test_events_of_topics(self):
        server, receiver, may_go_on = self.webhook()
        for number in range(600):
            with contextlib.suppress(Exception), self.open(server, f"/broadcast/rooms.{number:0200}", 0):
                pass
        self.assert_others_are_told(server, receiver, may_go_on)

    def webhook(self):
        may_go_on = threading.Event()
        self.addCleanup(may_go_on.set)
        receiver = Receiver()
        self.addCleanup(receiver.close)
        receiver.answers.put(lambda: may_go_on.wait(PATIENCE_S) and 204)
        with tempfile.NamedTemporaryFile(delete=False) as secret:
            secret.write(SECRET)
        self.addCleanup(os.unlink, secret.name)
        topics = "[[topics]]\npattern = 'rooms.*'\npresence = 'everybody'\n"
        table = f"[[webhooks]]\nurl = '{receiver.url}'\nsecret_file = '{secret.name}'\nqueue = '256KiB'\ntimeout = '60s'\n"
        events = "events = ['topic_occupied', 'topic_vacated', 'member_joined', 'member_left', 'connection_opened', 'connection_closed', 'history_lost']\n"
        return self.serve(topics + table + events), receiver, may_go_on

    def assert_others_are_told(self, server, receiver, may_go_on):
        def come_and_go(who):
            with self.open(server, f"/broadcast/by-{who}", who):
                return True

        self.assertEqual(self.each_other(come_and_go), [True] * OTHERS)
        expected = {(event, f"/broadcast/by-{who}") for who in range(1, OTHERS + 1) for event in ("connection_opened", "connection_closed")}
        may_go_on.set()
        told = set()
        while not expected <= told:
            _, body, _ = receiver.request()
            told |= {(event["type"], event.get("path")) for event in body["events"]}


for addresses in (IPv4, IPv6, Unix, Proxied):
    for services in (Waits, Told):
        name = f"{services.__name__}By{addresses.__name__}"
        globals()[name] = type(name, (services, addresses), {"__module__": __name__, "SECONDS": 15})
del addresses, services, name
