"""`echoring connect`: with pipes, and with a pseudo-terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from harness import BINARY, PATIENCE_S


class Backend:
    """Runs a server of Python's websockets on a thread, with the test's handler."""

    def __init__(self, handler, **options):
        self.requests, self.closes = [], []
        self.handler = handler
        self.closed = threading.Event()
        self.server = serve(self.handle, "127.0.0.1", 0, max_size=None, **options)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = "ws://127.0.0.1:%d/path" % self.server.socket.getsockname()[1]

    def handle(self, connection):
        self.requests.append(connection.request)
        try:
            self.handler(connection)
        except ConnectionClosed:
            pass
        connection.close()
        self.closes.append((connection.close_code, connection.close_reason))
        self.closed.set()

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(PATIENCE_S)


def echo(connection):
    for message in connection:
        connection.send(message)


def talk(url, *flags, lines=b"", **options):
    """Runs `connect` with pipes. Returns exit code, stdout and stderr."""
    done = subprocess.run(
        [BINARY, "connect", *flags, url], input=lines, capture_output=True, timeout=PATIENCE_S, **options
    )
    return done.returncode, done.stdout, done.stderr.decode()


class ByPipe(unittest.TestCase):
    def backend(self, handler=echo, **options):
        backend = Backend(handler, **options)
        self.addCleanup(backend.__exit__)
        return backend

    def test_lines_go_out_and_messages_come_in(self):
        backend = self.backend()
        for flags in ((), ("--compress",)):
            lines = "hi\n\nGrüße\nthe last has no end".encode()
            self.assertEqual(talk(backend.url, *flags, lines=lines), (0, lines + b"\n", ""))
        self.assertTrue(backend.closed.wait(PATIENCE_S))
        self.assertEqual(backend.closes[0], (1000, ""))

    def test_many_lines_need_little_patience(self):
        lines = b"".join(b"%d %s\n" % (i, b"x" * 1000) for i in range(20_000))
        code, out, errors = talk(self.backend().url, lines=lines)
        self.assertEqual((code, out == lines, errors), (0, True, ""))

    def test_binary_is_hexadecimal_both_ways(self):
        self.assertEqual(talk(self.backend().url, "--binary", lines=b"00ff\n de ad\n"), (0, b"00ff\ndead\n", ""))
        code, _, errors = talk(self.backend().url, "--binary", lines=b"00ff\nxyz\n")
        self.assertEqual((code, errors.count("\n")), (2, 1))
        self.assertIn("line 2 ", errors)
        code, _, errors = talk(self.backend().url, lines=b"\xff\xfe\n")
        self.assertEqual(code, 2, errors)

    def test_what_the_request_has_is_as_told(self):
        backend = self.backend(subprotocols=["chat", "v2"])
        flags = ("--subprotocol", "other", "--subprotocol", "v2", "--origin", "https://app.example")
        flags += ("--header", "X-One: 1", "-H", "Authorization:Bearer a b")
        self.assertEqual(talk(backend.url, *flags, lines=b"x\n")[0], 0)
        headers = backend.requests[0].headers
        self.assertEqual(headers["Sec-WebSocket-Protocol"], "other, v2")
        self.assertEqual((headers["Origin"], headers["X-One"]), ("https://app.example", "1"))
        self.assertEqual(headers["Authorization"], "Bearer a b")

    def test_a_secure_server_is_believed_by_its_roots_or_without_a_look_if_told_so(self):
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        url = self.backend(ssl=context).url.replace("ws://127.0.0.1", "wss://localhost")
        with authority.cert_pem.tempfile() as roots:
            self.assertEqual(talk(url, "--ca-file", roots, lines=b"hi\n"), (0, b"hi\n", ""))
            # The certificate is for another host.
            code, out, errors = talk(url.replace("localhost", "127.0.0.1"), "--ca-file", roots, lines=b"hi\n")
            self.assertEqual((code, out), (3, b""), errors)
        self.assertEqual(talk(url, "--insecure", lines=b"hi\n"), (0, b"hi\n", ""))
        code, out, errors = talk(url, lines=b"hi\n")
        self.assertEqual((code, out, errors.count("\n")), (3, b"", 1), errors)

    def test_a_certificate_of_an_authority_is_no_servers_and_that_is_told(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
        subprocess.run([*command, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
        certificate, key = (os.path.join(folder, name) for name in ("cert.pem", "key.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        url = self.backend(ssl=context).url.replace("ws://127.0.0.1", "wss://localhost")
        code, out, errors = talk(url, "--ca-file", certificate, lines=b"hi\n")
        self.assertEqual((code, out, errors.count("\n")), (3, b"", 1), errors)
        # As bench tells it.
        bench = subprocess.run(
            [BINARY, "bench", "--mode", "echo", "-c", "1", "-d", "100ms", "--ca-file", certificate, url],
            capture_output=True, text=True, timeout=PATIENCE_S,
        )
        self.assertEqual(bench.returncode, 3, bench.stderr)
        for told in (errors, bench.stderr):
            self.assertIn("the server presented a CA certificate as its own", told)
            self.assertIn("basicConstraints=critical,CA:FALSE", told)
            self.assertIn("--insecure", told)
            self.assertNotIn("OtherError", told)

    def test_it_waits_for_a_count_or_for_silence(self):
        def push(connection):
            for i in range(5):
                connection.send(f"news {i}")
            connection.recv(PATIENCE_S)

        def one(connection):
            connection.send("only")
            connection.recv(PATIENCE_S)

        self.assertEqual(talk(self.backend(push).url, "-n", "3"), (0, b"news 0\nnews 1\nnews 2\n", ""))
        expected = b"".join(b"news %d\n" % i for i in range(5))
        self.assertEqual(talk(self.backend(push).url, "--wait", "2s"), (0, expected, ""))
        code, out, errors = talk(self.backend(one).url, "-n", "2", "--wait", "2s")
        self.assertEqual((code, out), (1, b"only\n"))
        self.assertIn("received 1 of 2 expected messages", errors)

    def test_an_answer_that_does_not_come_is_not_awaited_for_long(self):
        started = time.monotonic()
        self.assertEqual(talk(self.backend(lambda c: c.recv(PATIENCE_S) and c.recv(PATIENCE_S)).url, lines=b"x\n")[0], 0)
        self.assertLess(time.monotonic() - started, 10)

    def test_the_exit_code_tells_how_it_ended(self):
        for code, reason, exit_code in ((1000, "", 0), (1001, "bye", 0), (1008, "no \x1b[31m", 1), (4000, "", 1)):
            backend = self.backend(lambda connection: connection.close(code, reason))
            got, _, errors = talk(backend.url, "-n", "1", lines=b"")
            # Fewer messages than requested have their own exit code.
            self.assertEqual(got, 1)
            got, _, errors = talk(backend.url, "--wait", "10s", lines=b"")
            self.assertEqual(got, exit_code, errors)
            if exit_code:
                self.assertIn(str(code), errors)
                self.assertNotIn("\x1b", errors)
        backend = self.backend(lambda connection: connection.socket.shutdown(socket.SHUT_RDWR))
        got, _, errors = talk(backend.url, "--wait", "10s")
        self.assertEqual((got, errors.count("\n")), (1, 1), errors)

    def test_no_connection_is_3_with_the_reason_and_a_cure(self):
        refusing = self.backend(process_request=lambda c, _: c.respond(403, "not from there\n"))
        for url, word in (
            ("ws://127.0.0.1:1/", "running"),
            (refusing.url, "--origin"),
            ("ws://nowhere.invalid/", "nowhere.invalid"),
            (self.backend().url.replace("ws:", "wss:"), "TLS"),
        ):
            code, out, errors = talk(url, lines=b"x\n")
            self.assertEqual((code, out, errors.count("\n")), (3, b"", 1), errors)
            self.assertIn(word, errors)
        for url in ("http://127.0.0.1/", "ws://"):
            self.assertEqual(talk(url)[0], 2)

    def test_json_is_spread_and_timestamps_are_seconds(self):
        code, out, _ = talk(self.backend().url, "--json", lines=b'{"b":[1.0,2],"a":{}}\n')
        self.assertEqual((code, out), (0, b'{\n  "b": [\n    1.0,\n    2\n  ],\n  "a": {}\n}\n'))
        _, out, _ = talk(self.backend().url, "--timestamps", lines=b"hi\n")
        match = re.fullmatch(rb"(\d+\.\d{3}) hi\n", out)
        self.assertLess(abs(float(match[1]) - time.time()), 600)

    def test_a_reader_that_goes_away_ends_it(self):
        def flood(connection):
            while True:
                connection.send("x" * 10_000)

        backend = self.backend(flood)
        process = subprocess.Popen(
            [BINARY, "connect", "--wait", "1m", backend.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.kill)
        process.stdout.read(10_001)
        process.stdout.close()
        self.assertEqual(process.wait(PATIENCE_S), 0, process.stderr.read())
        process.stdin.close()
        process.stderr.close()

    def test_an_interrupt_says_goodbye(self):
        opened = threading.Event()

        def handler(connection):
            connection.send("ready")
            opened.set()
            connection.recv(PATIENCE_S)

        backend = self.backend(handler)
        process = subprocess.Popen(
            [BINARY, "connect", "--wait", "1m", backend.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(PATIENCE_S), 0)
        self.assertTrue(backend.closed.wait(PATIENCE_S))
        self.assertEqual(backend.closes, [(1000, "")])
        process.stdin.close()
        process.stdout.close()


class Terminal:
    """Runs `connect` on a pseudo-terminal.

    Between two lines the terminal is in canonical mode, where the kernel would take Ctrl-D itself: keys are typed
    only while the program reads single keys, which it tells by asking for bracketed paste.
    """

    reads_keys = re.compile("\x1b\\[\\?2004([hl])")

    def __init__(self, url, *flags, home, no_color="1"):
        self.master, slave = pty.openpty()
        environment = {**os.environ, "HOME": home, "TERM": "xterm", "NO_COLOR": no_color}
        environment.pop("XDG_STATE_HOME", None)
        self.process = subprocess.Popen(
            [BINARY, "connect", *flags, url], stdin=slave, stdout=slave, stderr=slave, env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""
        self.printed = ""
        self.lines_typed = 0

    def type(self, text):
        while not self.is_reading_keys():
            if not self.read():
                raise AssertionError(f"ended before {text!r} could be typed: {self.printed!r}")
        os.write(self.master, text.encode())
        self.lines_typed += text.count("\r")

    def is_reading_keys(self):
        """The last line that was typed is taken, and the next can be."""
        modes = self.reads_keys.findall(self.printed)
        return modes.count("l") >= self.lines_typed and modes[-1:] == ["h"]

    def read(self):
        """Reads more of the screen. `False` at its end."""
        ready, _, _ = select.select([self.master], [], [], PATIENCE_S)
        if not ready:
            raise AssertionError(f"nothing more came after {self.seen!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.seen += data.decode()
        self.printed += data.decode()
        return bool(data)

    def wait_for(self, pattern):
        while not (match := re.search(pattern, self.seen)):
            if not self.read():
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}")
        self.seen = self.seen[match.end() :]
        return match

    def wait(self):
        while self.read():
            pass
        return self.process.wait(PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


class AtTerminal(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = folder.name

    def terminal(self, handler=echo, *flags, **options):
        self.backend = Backend(handler, **options)
        self.addCleanup(self.backend.__exit__)
        terminal = Terminal(self.backend.url, *flags, home=self.home)
        self.addCleanup(terminal.__exit__)
        terminal.wait_for("> ")
        return terminal

    def test_a_conversation(self):
        terminal = self.terminal(echo, "--subprotocol", "chat", subprotocols=["chat"])
        terminal.type("hello\r")
        terminal.wait_for(r"\d\d:\d\d:\d\d\.\d{3} < hello")
        terminal.type("/binary 00 ff\r")
        terminal.wait_for(r"< 2 bytes: 00ff")
        terminal.type("//slash\r")
        terminal.wait_for(r"< /slash")
        terminal.type("/ping there\r")
        terminal.wait_for(r'\* pong "there" after [\d.]+ ms')
        terminal.type("/wat\r")
        terminal.wait_for(r"unknown command /wat")
        terminal.type("/help\r")
        terminal.wait_for(r"/binary HEX")
        terminal.type("/close 4001 good bye\r")
        self.assertEqual(terminal.wait(), 0)
        self.assertTrue(self.backend.closed.wait(PATIENCE_S))
        self.assertEqual(self.backend.closes, [(4001, "good bye")])
        self.assertRegex(terminal.seen, "closed: 4001 good bye")

    def test_control_characters_are_shown_and_not_obeyed(self):
        def attack(connection):
            connection.recv(PATIENCE_S)
            connection.send("\x1b]0;owned\x07\x1b[2Jend")
            connection.recv(PATIENCE_S)

        terminal = self.terminal(attack)
        terminal.type("go\r")
        terminal.wait_for(r"< \\u\{1b\}\]0;owned\\u\{7\}\\u\{1b\}\[2Jend")
        self.assertNotIn("\x1b]0;", terminal.seen)

    def test_the_end_by_keys_and_by_the_server(self):
        for key in ("\x03", "\x04"):
            terminal = self.terminal()
            terminal.type(key)
            self.assertEqual(terminal.wait(), 0, repr(key))
            self.assertTrue(self.backend.closed.wait(PATIENCE_S))
            self.assertEqual(self.backend.closes, [(1000, "")])
        terminal = self.terminal(lambda connection: connection.recv(PATIENCE_S) and connection.close(1008, "enough"))
        terminal.type("x\r")
        self.assertEqual(terminal.wait(), 1)
        self.assertRegex(terminal.seen, "closed by the server: 1008 enough")

    def test_what_was_typed_is_remembered_unless_told_not_to(self):
        file = os.path.join(self.home, ".local", "state", "echoring", "history")
        terminal = self.terminal(echo, "--no-history")
        terminal.type("forget me\r")
        terminal.wait_for("< forget me")
        terminal.type("/quit\r")
        terminal.wait()
        self.assertFalse(os.path.exists(file))
        terminal = self.terminal()
        terminal.type("remember me\r")
        terminal.wait_for("< remember me")
        terminal.type("/quit\r")
        terminal.wait()
        self.assertEqual(os.stat(file).st_mode & 0o077, 0, "for nobody else to read")
        terminal = self.terminal()
        # Up twice: /quit, then the message.
        terminal.type("\x1b[A\x1b[A\r")
        terminal.wait_for("< remember me")

    def test_the_terminal_is_left_as_it_was(self):
        import termios

        terminal = self.terminal(lambda connection: connection.recv(PATIENCE_S) and connection.close())
        terminal.type("x\r")
        self.assertEqual(terminal.wait(), 0)
        # Line mode and echo are restored.
        flags = termios.tcgetattr(terminal.master)[3]
        self.assertTrue(flags & termios.ICANON and flags & termios.ECHO)


class Colours(unittest.TestCase):
    """They appear on a terminal only, and not there if `NO_COLOR` has a value."""

    # Select Graphic Rendition of ECMA-48.
    sequence = re.compile(r"\x1b\[[0-9;]*m")

    def run_at_terminal(self, no_color, *command):
        """Runs a command with its stderr at a terminal until it has printed a line. Returns that line, and what the terminal got."""
        mine, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
        with subprocess.Popen(
            [BINARY, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
        ) as process:
            os.close(theirs)
            line = process.stdout.readline()
            process.terminate()
            shown = b""
            # The end of a terminal that nobody holds any more is an error.
            with contextlib.suppress(OSError):
                while data := os.read(mine, 65536):
                    shown += data
            self.assertEqual(process.wait(PATIENCE_S), 0)
        os.close(mine)
        return line, shown.decode()

    def test_of_logs_are_for_terminals(self):
        serve = ("serve", "--listen", "127.0.0.1:0", "--admin", "off")
        proxy = ("proxy", "--listen", "127.0.0.1:0", "--upstream", "ws://127.0.0.1:1")
        for command in (serve, proxy):
            for no_color, has_colours in (("", True), ("1", False)):
                line, shown = self.run_at_terminal(no_color, *command)
                self.assertNotRegex(line, self.sequence)
                self.assertEqual(bool(self.sequence.search(shown)), has_colours, (command, no_color, shown))
                self.assertIn("INFO", shown)
            with tempfile.TemporaryFile("w+") as file:
                with subprocess.Popen([BINARY, *command], stdout=subprocess.PIPE, stderr=file) as process:
                    process.stdout.readline()
                    process.terminate()
                file.seek(0)
                self.assertNotRegex(file.read(), self.sequence)

    def test_of_a_conversation_are_for_terminals(self):
        backend = Backend(echo)
        self.addCleanup(backend.__exit__)
        for no_color, has_colours in (("", True), ("1", False)):
            with tempfile.TemporaryDirectory() as home, Terminal(backend.url, home=home, no_color=no_color) as terminal:
                terminal.wait_for("> ")
                terminal.type("hello\r")
                seen = []
                while not any("< hello" in self.sequence.sub("", text) for text in seen):
                    self.assertTrue(terminal.read())
                    seen.append(terminal.seen)
                terminal.type("\x04")
                terminal.wait()
                self.assertEqual(bool(self.sequence.search(terminal.seen)), has_colours, (no_color, terminal.seen))
        code, out, errors = talk(backend.url, "--json", lines=b'{"a":1}\n', env={**os.environ, "NO_COLOR": ""})
        self.assertEqual(code, 0)
        self.assertNotRegex(out.decode() + errors, self.sequence)


if __name__ == "__main__":
    unittest.main()
