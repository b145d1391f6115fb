"""The files, forms and destinations of the two logs."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

from harness import BINARY, PATIENCE_S, Raw, Server, deny, first_line, frame, request, wait_until

TEXT = re.compile(
    r"(?P<time>\S+Z) address=(?P<address>\S+) identity=(?P<identity>\S+) path=(?P<path>-|\"(?:[^\"\\]|\\.)*\") "
    r"status=(?P<status>\S+) code=(?P<code>\S+) cause=(?P<cause>\S+) messages_in=(?P<messages_in>\S+) "
    r"messages_out=(?P<messages_out>\S+) bytes_in=(?P<bytes_in>\S+) bytes_out=(?P<bytes_out>\S+) "
    r"duration_s=(?P<duration_s>[0-9.]+)"
)


def lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def wait_for_lines(path, count):
    """Waits until a file has so many lines, and returns them."""
    wait_until(lambda: len(lines(path)) >= count, lambda: f"{count} lines of {path}: {lines(path)}")
    return lines(path)


def wait_for_texts(path, *texts):
    """Waits until each of these texts is in a line of a file. Several threads write their lines in any order."""
    written = lambda: all(any(text in line for line in lines(path)) for text in texts)  # noqa: E731
    wait_until(written, lambda: f"{texts} in {path}: {lines(path)}")


class InDirectory(unittest.TestCase):
    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory(prefix="logs-"))
        self.access, self.errors = (os.path.join(self.directory, name) for name in ("access.log", "error.log"))

    def serve(self, *flags, admin="off", **options):
        return self.enterContext(Server(*flags, admin=admin, **options))


class AccessLog(InDirectory):
    def talk(self, server):
        """An echo, a broadcast, a refused request, a plain request, a violation and a client that leaves; in this order."""
        with Raw(server).open("/echo") as peer:
            self.address = "{}:{}".format(*peer.socket.getsockname())
            for _ in range(3):
                peer.send(frame(1, b"hello"))
                peer.read_frame()
            peer.send(frame(8, b"\x03\xe8"))
            peer.read_end()
        self.ended += 1
        wait_for_lines(self.access, self.ended)
        with Raw(server).open("/broadcast/a?self=1") as peer:
            peer.send(frame(1, b"hello"))
            peer.read_frame()
            peer.send(frame(8))
            peer.read_end()
        self.ended += 1
        wait_for_lines(self.access, self.ended)
        with Raw(server) as peer:
            peer.upgrade('/no"where')
            peer.read_end()
        self.ended += 1
        wait_for_lines(self.access, self.ended)
        with Raw(server) as peer:
            peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            peer.read_end()
        self.ended += 1
        wait_for_lines(self.access, self.ended)
        with Raw(server).open() as peer:
            peer.send(frame(1, b"bare", mask=None))
            peer.read_close()
        self.ended += 1
        wait_for_lines(self.access, self.ended)
        with Raw(server) as peer:
            peer.send(b"GET /echo")
        self.ended += 1
        return wait_for_lines(self.access, self.ended)

    ended = 0

    def test_each_connection_that_ends_has_a_line(self):
        for flags in ((), ("--driver", "epoll")):
            with self.subTest(flags=flags):
                server = self.serve("--access-log", self.access, *flags)
                self.ended = len(lines(self.access))
                said = self.talk(server)[-6:]
                for line in said:
                    self.assertRegex(line, TEXT)
                echo, broadcast, refused, plain, violation, left = (TEXT.fullmatch(line).groupdict() for line in said)
                self.assertEqual(echo["address"], self.address)
                self.assertEqual((echo["path"], echo["status"], echo["code"], echo["cause"]), ('"/echo"', "101", "1000", "peer"))
                self.assertEqual((echo["messages_in"], echo["messages_out"], echo["identity"]), ("3", "3", "-"))
                # Three frames of 11 bytes, a Close of 8, and the request; the 101, three of 7, and a Close of 4.
                self.assertGreater(int(echo["bytes_in"]), 41)
                self.assertGreater(int(echo["bytes_out"]), 25)
                self.assertLess(float(echo["duration_s"]), PATIENCE_S)
                self.assertEqual((broadcast["messages_in"], broadcast["messages_out"]), ("1", "1"))
                self.assertEqual((broadcast["path"], broadcast["code"]), ('"/broadcast/a"', "1005"))
                self.assertEqual((refused["status"], refused["code"]), ("404", "-"))
                self.assertEqual((plain["path"], plain["status"], plain["cause"]), ('"/healthz"', "200", "answered"))
                self.assertEqual((violation["code"], violation["cause"]), ("1002", "offence"))
                self.assertEqual((left["path"], left["status"], left["cause"]), ("-", "-", "gone"))

    def test_an_object_per_line_with_log_format_json(self):
        server = self.serve("--access-log", self.access, "--log-format", "json")
        records = [json.loads(line) for line in self.talk(server)]
        self.assertEqual(records[0]["address"], self.address)
        self.assertEqual((records[0]["status"], records[0]["code"], records[0]["messages_in"]), (101, 1000, 3))
        self.assertEqual(records[2]["path"], '/no"where')
        self.assertEqual((records[5]["path"], records[5]["identity"]), (None, None))

    def test_counts_of_recorded_connections_are_in_the_totals(self):
        server = self.serve("--access-log", self.access, admin="127.0.0.1:0")
        before = server.stats()["node"]
        with Raw(server).open() as peer:
            for _ in range(5):
                peer.send(frame(1, b"hello"))
                peer.read_frame()
            during = server.stats()["node"]
        wait_for_lines(self.access, 1)
        after = server.stats()["node"]
        for figure in ("messages_in", "messages_out"):
            self.assertEqual((during[figure] - before[figure], after[figure] - before[figure]), (5, 5))

    def test_a_part_of_all_connections_is_recorded(self):
        server = self.serve("--access-log", self.access, "--access-log-sample", "0.25", "--shards", "1")
        for _ in range(40):
            with Raw(server).open() as peer:
                peer.send(frame(8, b"\x03\xe8"))
                peer.read_end()
        self.assertEqual(len(wait_for_lines(self.access, 10)), 10)

    def test_standard_output_takes_the_log(self):
        server = self.serve("--access-log", "-")
        with Raw(server).open() as peer:
            peer.send(frame(8, b"\x03\xe8"))
            peer.read_end()
        self.assertRegex(first_line(server.process).rstrip(), TEXT)

    def test_a_pipe_that_nobody_reads_stops_nothing(self):
        """Its records are dropped and counted once the queue is full."""
        server = self.serve("--access-log", "-", admin="127.0.0.1:0")

        def dropped():
            body = server.get("/metrics")[2].decode()
            return float(re.search(r'access_log_records_total\{result="dropped"\} (\S+)', body)[1])

        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        def ask_until_dropped():
            for _ in range(500):
                with Raw(server) as peer:
                    peer.send(request)
            return dropped()

        wait_until(ask_until_dropped, "dropped records", 4 * PATIENCE_S)
        with Raw(server).open() as peer:
            peer.send(frame(1, b"still there"))
            self.assertEqual(peer.read_frame()[1], b"still there")

    def test_a_full_disk_stops_nothing(self):
        server = self.serve("--access-log", "/dev/full", admin="127.0.0.1:0")
        for _ in range(3):
            with Raw(server).open() as peer:
                peer.send(frame(1, b"x"))
                self.assertEqual(peer.read_frame()[1], b"x")
        dropped = b'access_log_records_total{result="dropped"} 3'
        wait_until(lambda: dropped in server.get("/metrics")[2], "three dropped records")


class LogFiles(InDirectory):
    def test_files_are_opened_again_on_sigusr1(self):
        server = self.serve("--access-log", self.access, "--log-file", self.errors)
        for log in (self.access, self.errors):
            os.rename(log, log + ".1")
        server.terminate(signal.SIGUSR1)
        wait_for_texts(self.errors, "the log was reopened")
        # The files are opened by two threads.
        wait_until(lambda: os.path.exists(self.access), "a new access log")
        with Raw(server) as peer:
            peer.upgrade("/nowhere")
            peer.read_end()
        self.assertRegex(wait_for_lines(self.access, 1)[0], "status=404")
        wait_for_texts(self.errors, "request refused")
        self.assertEqual(lines(self.access + ".1"), [])
        self.assertEqual(os.stat(self.errors).st_mode & 0o777 & ~0o640, 0)

    def test_a_log_that_cannot_be_opened_again_goes_on_in_the_old_file(self):
        server = self.serve("--access-log", self.access, "--log-file", self.errors)
        for log in (self.access, self.errors):
            os.rename(log, log + ".1")
            os.mkdir(log)
        server.terminate(signal.SIGUSR1)
        wait_for_texts(self.errors + ".1", "the log cannot be reopened", "the access log cannot be reopened")
        with Raw(server) as peer:
            peer.upgrade("/nowhere")
            peer.read_end()
        self.assertRegex(wait_for_lines(self.access + ".1", 1)[0], "status=404")

    def test_a_file_takes_what_stderr_would(self):
        server = self.serve("--log-file", self.errors, "--log", "debug")
        with Raw(server).open() as peer:
            peer.send(frame(1, b"bare", mask=None))
            peer.read_close()
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertEqual(server.log, [])
        text = "\n".join(lines(self.errors))
        self.assertIn("connection closed for a protocol error", text)
        self.assertIn("drained", text)
        self.assertNotIn("\x1b", text)

    def test_a_file_that_cannot_be_opened_prevents_the_start(self):
        for flag in ("--log-file", "--access-log"):
            path = os.path.join(self.directory, "missing", "log")
            command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "off", flag, path]
            started = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual((started.returncode, started.stdout), (3, ""), flag)
            self.assertIn("No such file", started.stderr)

    def test_records_are_objects_with_log_format_json(self):
        server = self.serve("--log-format", "json", "--log", "debug")
        with Raw(server) as peer:
            peer.upgrade("/nowhere")
            peer.read_end()
        server.wait_for_log("request refused")
        server.terminate()
        self.assertEqual(server.wait(), 0)
        records = [json.loads(line) for line in server.log]
        (refused,) = (record for record in records if record["message"] == "request refused")
        self.assertEqual((refused["level"], refused["status"], refused["path"]), ("INFO", 404, "/nowhere"))
        self.assertRegex(refused["peer"], r"127\.0\.0\.1:\d+")
        self.assertRegex(refused["time"], r"^\d{4}-\d\d-\d\dT[0-9:.]+Z$")
        self.assertEqual(refused["target"].partition("::")[0], "echoring_runtime")


class LogLevel(unittest.TestCase):
    def put(self, server, level, **headers):
        status, _, body = request(server.admin, "PUT", "/log-level", level, headers)
        return status, body

    def test_the_level_is_changed_while_the_server_runs(self):
        with Server() as server:
            self.assertEqual(json.loads(server.get("/log-level")[2]), {"level": "info"})
            status, body = self.put(server, "debug\n")
            self.assertEqual((status, json.loads(body)), (200, {"level": "debug"}))
            server.wait_for_log("the log level was changed before=.info. now=.debug.")
            with Raw(server).open():
                server.wait_for_log("connection opened")
            status, body = self.put(server, "loud")
            self.assertEqual((status, json.loads(body)["error"]["code"]), (400, "bad-level"))
            self.assertEqual(self.put(server, "x" * 2000)[0], 400)
            self.assertEqual(json.loads(server.get("/log-level")[2]), {"level": "debug"})
            self.assertEqual(server.get("/log-level", method="DELETE")[0], 405)
            # A page of a browser may not.
            self.assertEqual(self.put(server, "off", Origin="http://localhost")[0], 403)


# Runs as root in a mount namespace of its own: a server whose stderr claims to be connected to the journal, and the
# journal's socket. Prints the datagrams.
JOURNAL = """
import json, os, signal, socket, subprocess, sys
directory = "/run/systemd/journal"
os.makedirs("/run/systemd", exist_ok=True)
subprocess.run(["mount", "-t", "tmpfs", "journal", "/run/systemd"], check=True)
os.makedirs(directory)
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.settimeout(30)
journal.bind(directory + "/socket")
stderr, kept = socket.socketpair()
stat = os.fstat(stderr.fileno())
server = subprocess.Popen(
    sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
    env={**os.environ, "JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"},
)
host, port = server.stdout.readline().split()[1].removeprefix("ws://").rsplit(":", 1)
with socket.create_connection((host, int(port)), timeout=30) as client:
    client.sendall(b"GET /no%0Awhere HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    while client.recv(4096):
        pass
records = []
while not any("request refused" in record for record in records):
    records.append(journal.recv(65536).decode())
server.send_signal(signal.SIGTERM)
print(json.dumps({"records": records, "code": server.wait(30)}))
"""


@unittest.skipUnless(os.geteuid() == 0, "only root can mount a journal")
class Journal(unittest.TestCase):
    def test_records_go_to_the_journal_with_their_fields(self):
        command = ["unshare", "--mount", sys.executable, "-c", JOURNAL]
        command += [BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "off"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
        self.assertEqual(run.returncode, 0, run.stderr)
        result = json.loads(run.stdout)
        self.assertEqual(result["code"], 0)
        (refused,) = (record for record in result["records"] if "request refused" in record)
        fields = dict(line.split("=", 1) for line in refused.splitlines())
        self.assertEqual((fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"]), ("6", "echoring"))
        self.assertEqual((fields["ECHORING_STATUS"], fields["ECHORING_PATH"]), ("404", "/no%0Awhere"))
        self.assertRegex(fields["ECHORING_PEER"], r"^127\.0\.0\.1:\d+$")
        self.assertRegex(fields["MESSAGE"], r"^request refused .*status=404")
        self.assertTrue(fields["ECHORING_TARGET"].startswith("echoring_runtime"))


class OfTheHost(unittest.TestCase):
    def test_a_shard_that_cannot_be_pinned_says_so_and_serves(self):
        # sched_setaffinity, as a container may deny it.
        number = {"x86_64": 203, "aarch64": 122}[os.uname().machine]
        with Server("--shards", "1", before=lambda: deny(number, number)) as server:
            server.wait_for_log("cannot pin this thread; the scheduler chooses its CPU")
            with contextlib.closing(Raw(server)) as client:
                client.upgrade()
                client.send(frame(0x1, b"served"))
                self.assertEqual(client.read_exactly(8), b"\x81\x06served")

if __name__ == "__main__":
    unittest.main()
