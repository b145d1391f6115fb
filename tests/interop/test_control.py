"""The admin address, the drain, and restrictions of the environment."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from harness import BINARY, DRAIN_S_MAX, PATIENCE_S, Raw, Server, deny_io_uring, frame, refusing_port, wait_until


class Control(unittest.TestCase):
    denied = False

    @classmethod
    def setUpClass(cls):
        cls.server = Server(denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def test_stats_are_json_per_shard_and_for_the_node(self):
        stats = self.server.stats()
        self.assertEqual(stats["driver"]["name"], self.server.driver)
        self.assertEqual(len(stats["shards"]), self.server.shards)
        self.assertEqual(stats["pid"], self.server.pid)
        for counter in ("connections", "messages_in", "messages_out", "bytes_in", "bytes_out"):
            self.assertEqual(stats["node"][counter], sum(shard[counter] for shard in stats["shards"]))
        self.assertIn("degraded", stats["driver"])
        self.assertEqual(stats["control"], "tokio")
        self.assertEqual((stats["state"], stats["silent_shards"]), ("serving", 0))

    def test_refusals_and_closes_are_counted_by_reason(self):
        before = self.server.stats()["node"]
        with Raw(self.server) as peer:
            self.assertEqual(peer.upgrade("/nowhere")[0], 404)
            peer.read_end()
        with Raw(self.server).open() as peer:
            peer.send(frame(1, b"bare", mask=None))
            self.assertEqual(peer.read_close(), 1002)
        # A connection may have ended for the client before the shard has counted its end.
        def counted():
            after = self.server.stats()["node"]
            return [after[kind].get(reason, 0) - before[kind].get(reason, 0) for kind, reason in reasons]

        reasons = (("refusals", "404"), ("closes", "1002"))
        wait_until(lambda: counted() == [1, 1], lambda: f"one of each: {counted()}")

    def test_health_is_told_on_both_addresses(self):
        status, _, body = self.server.get("/healthz")
        self.assertEqual((status, body), (200, b"ok\n"))
        status, _, _ = self.server.get("/healthz", address=(self.server.host, self.server.port))
        self.assertEqual(status, 200)

    def test_other_paths_and_methods_are_told_so(self):
        self.assertEqual(self.server.get("/nowhere")[0], 404)
        status, headers, _ = self.server.get("/stats", method="DELETE")
        self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))
        status, _, body = self.server.get("/stats", method="HEAD")
        self.assertEqual((status, body), (200, b""))

    def test_the_page_allows_its_own_script_and_style_and_nothing_else(self):
        status, headers, body = self.server.get("/", address=(self.server.host, self.server.port))
        self.assertEqual(status, 200)
        self.assertEqual(headers.get_content_type(), "text/html")
        policy = headers["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), policy)
        self.assertNotIn("unsafe", policy)
        for file in re.findall(r'(?:src|href)="(\w+\.(?:js|css))"', body.decode()):
            status, headers, content = self.server.get(f"/{file}", address=(self.server.host, self.server.port))
            self.assertEqual((status, headers["X-Content-Type-Options"]), (200, "nosniff"), file)
            self.assertNotIn(b"innerHTML", content, file)


class ControlWithoutIoUring(Control):
    denied = True


class Drain(unittest.TestCase):
    denied = False

    def test_a_drain_says_1001_to_everyone_and_exits_0(self):
        with Server(denied=self.denied) as server:
            peers = [Raw(server).open(path) for path in ("/echo", "/echo", "/broadcast/a", "/broadcast/b")]
            started = time.monotonic()
            server.terminate()
            for peer in peers:
                with peer:
                    self.assertEqual(peer.read_close(), 1001)
            self.assertEqual(server.wait(), 0)
            self.assertLess(time.monotonic() - started, DRAIN_S_MAX, "nobody was in the way")

    def test_a_peer_that_ignores_the_drain_does_not_hold_it_up(self):
        with Server(denied=self.denied) as server, Raw(server).open() as deaf:
            server.terminate(signal.SIGINT)
            self.assertEqual(deaf.read_frame()[0], 0x88)
            # While the server waits for this client, it is alive and not ready.
            for path, expected in (("/healthz", (200, b"ok\n")), ("/readyz", (503, b"draining\n"))):
                status, _, body = server.get(path)
                self.assertEqual((status, body), expected)
            self.assertEqual(server.wait(), 0)

    def test_a_second_signal_ends_it_at_once(self):
        with Server(denied=self.denied) as server, Raw(server).open() as deaf:
            server.terminate()
            self.assertEqual(deaf.read_frame()[0], 0x88)
            server.terminate()
            self.assertNotEqual(server.wait(), 0)


class DrainWithoutIoUring(Drain):
    denied = True


class Environment(unittest.TestCase):
    """A restriction of the host gives one line with the remedy, and exit code 3."""

    def refused(self, *flags, **options):
        command = [BINARY, "serve", *(() if "--admin" in flags else ("--admin", "off")), *flags]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, **options
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual((done.returncode, len(errors), done.stdout), (3, 1, ""), done.stderr)
        return errors[0]

    def test_io_uring_asked_for_and_denied(self):
        line = self.refused("--listen", "127.0.0.1:0", "--driver", "uring", preexec_fn=deny_io_uring)
        self.assertIn("io_uring", line)
        self.assertRegex(line, "seccomp|--driver")

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            line = self.refused("--listen", f"127.0.0.1:{port}")
            self.assertIn(str(port), line)

    def test_a_port_in_use_by_another_server_of_this_kind(self):
        with Server() as other:
            line = self.refused("--listen", f"127.0.0.1:{other.port}")
            self.assertIn("--takeover", line)

    def test_a_name_for_takeovers_that_another_process_has(self):
        with refusing_port() as port, socket.socket(socket.AF_UNIX) as other:
            other.bind(f"\0echoring/takeover/127.0.0.1:{port}")
            with Server(listen=f"127.0.0.1:{port}") as server:
                server.wait_for_log("--takeover by another server will not work; another process .* --takeover-socket")

    def test_the_admin_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            line = self.refused("--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{port}")
            self.assertIn("--admin", line)

    def test_more_connections_than_descriptors(self):
        def few():
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        line = self.refused("--listen", "127.0.0.1:0", "--max-connections", "100000", preexec_fn=few)
        self.assertIn("descriptor", line)


class Listeners(unittest.TestCase):
    def test_a_unix_socket_is_served(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "ws.sock")
            with Server("--listen", f"unix:{path}"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(PATIENCE_S)
                    client.connect(path)
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    self.assertTrue(client.recv(64).startswith(b"HTTP/1.1 200 "))

    def test_a_reachable_admin_address_is_warned_about(self):
        with Server(admin="0.0.0.0:0") as server:
            server.wait_for_log(r"WARN.*without authentication")
