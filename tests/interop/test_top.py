"""`echoring top`: as text, and on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import unittest

from harness import BINARY, PATIENCE_S, Raw, Server, frame, refusing_port, stopped, threads_of, token_file

TOKEN = "0123456789abcdef0123456789abcdef"


def address_of(server):
    return f"{server.admin[0]}:{server.admin[1]}"


def once(*flags):
    """Runs `top` without a terminal. Returns exit code, stdout and stderr."""
    command = [BINARY, "top", "--interval", "100ms", *flags]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, text=True)
    return done.returncode, done.stdout, done.stderr


class AsText(unittest.TestCase):
    def test_a_snapshot_has_a_line_for_each_figure(self):
        with Server("--shards", "2") as server, Raw(server).open("/broadcast/prices") as subscriber:
            server.get("/topics/plain", method="POST", headers={"Content-Type": "text/plain"})
            for number in range(20):
                subscriber.send(frame(9, b"ping"))
                subscriber.read_frame()
            with Raw(server).open() as wrong:
                wrong.send(frame(1, b"bare", mask=None))
                self.assertEqual(wrong.read_close(), 1002)
            for flags in ((), ("--once",)):
                code, out, errors = once("--admin", address_of(server), *flags)
                self.assertEqual((code, errors), (0, ""))
                head = out.splitlines()[0]
                self.assertRegex(head, rf"^echoring \S+ at {address_of(server)}: serving, {server.driver}, 2 shards, up ")
                self.assertRegex(out, r"(?m)^connections +1 of [\d,]+$")
                self.assertRegex(out, r"(?m)^tick +p50 .* times$")
                self.assertRegex(out, r"(?m)^shard 1 ")
                self.assertRegex(out, r"(?m)^  1002: \d+ 1$")
                self.assertNotIn("\x1b", out)

    def test_topics_and_names_of_clients_are_shown_without_control_characters(self):
        with Server() as server, Raw(server).open("/broadcast/%E2%80%AEevil%20name"):
            code, out, _ = once("--admin", address_of(server))
            self.assertEqual(code, 0)
            self.assertIn("  \\u{202e}evil name: 1 subscribers", out)

    def test_without_an_answer_the_exit_code_is_3_with_one_line(self):
        with refusing_port() as port:
            code, out, errors = once("--admin", f"127.0.0.1:{port}")
            self.assertEqual((code, out, errors.count("\n")), (3, "", 1), errors)
            self.assertIn("is the server running", errors)
        self.assertEqual(once("--interval", "1ms")[0], 2)

    def test_the_token_of_the_admin_address_is_sent(self):
        with token_file(TOKEN) as file, Server("--admin-token-file", file) as server:
            code, _, errors = once("--admin", address_of(server))
            self.assertEqual(code, 3)
            self.assertIn("--admin-token-file", errors)
            code, out, errors = once("--admin", address_of(server), "--admin-token-file", file)
            self.assertEqual((code, errors), (0, ""))
            self.assertNotIn(TOKEN, out)


class Screen:
    """Runs `top` on a pseudo-terminal."""

    def __init__(self, *flags, columns=100, lines=40):
        self.ends = self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [BINARY, "top", "--interval", "100ms", *flags],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        self.seen = ""

    def resize(self, columns, lines):
        """Makes the terminal another size, upon which everything is drawn again."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.columns, self.lines = columns, lines
        if hasattr(self, "process"):
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self):
        """Reads more. `False` if nothing comes for a while."""
        ready, _, _ = select.select([self.master], [], [], 0.5)
        if ready:
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        return bool(ready)

    def wait_for(self, pattern):
        """Waits for words on the screen. Only changes are drawn, so it has all drawn again from time to time."""
        for _ in range(2 * PATIENCE_S):
            if re.search(pattern, plain(self.seen)):
                self.seen = ""
                return
            if self.process.poll() is not None and not self.read():
                break
            # Narrower and wider by a column.
            self.resize(self.columns ^ 1, self.lines)
            for _ in range(20):
                if not self.read() or re.search(pattern, plain(self.seen)):
                    break
            self.seen = self.seen[-1 << 16 :]
        raise AssertionError(f"never saw {pattern!r}: {plain(self.seen)[-4000:]!r}")

    def wait(self):
        # What it draws is read meanwhile: a terminal that nobody reads takes only so much.
        for _ in range(2 * PATIENCE_S):
            if self.process.poll() is not None:
                break
            self.read()
        code = self.process.wait(1)
        while self.read():
            pass
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self):
        for end in self.ends:
            os.close(end)
        self.ends = ()


def plain(text):
    """Words without escape sequences. The cursor is moved over spaces."""
    moved = re.sub(r"\x1b\[\d+;\d+H", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", moved))


class AtTerminal(unittest.TestCase):
    def screen(self, *flags, **options):
        screen = Screen(*flags, **options)
        self.addCleanup(screen.__exit__)
        return screen

    def assert_restored(self, screen):
        self.assertEqual(termios.tcgetattr(screen.slave), screen.modes)
        self.assertIn("\x1b[?1049l", screen.seen, "the main screen is shown again")
        self.assertIn("\x1b[?25h", screen.seen, "the cursor is shown again")

    def test_figures_keys_and_the_end(self):
        with Server("--shards", "2") as server, Raw(server).open("/broadcast/prices"):
            screen = self.screen("--admin", address_of(server))
            screen.wait_for(rf"echoring {address_of(server)} .*2 shards")
            screen.wait_for("serving")
            screen.wait_for("prices")
            screen.type("h")
            screen.wait_for("refresh more or less often")
            screen.type("h")
            screen.type("p")
            screen.wait_for("PAUSED")
            screen.type("p")
            screen.type("t")
            screen.wait_for("▼rate")
            screen.resize(60, 12)
            screen.wait_for("serving")
            screen.type("q")
            self.assertEqual(screen.wait(), 0)
            self.assert_restored(screen)

    def test_a_server_that_goes_is_missed_and_found_again(self):
        with Server("--shards", "1") as first:
            address = address_of(first)
            screen = self.screen("--admin", address)
            screen.wait_for("serving")
        screen.wait_for("NO ANSWER: .*old figures")
        with Server("--shards", "1", admin=address):
            screen.wait_for("restarted meanwhile")
            screen.wait_for("serving")
            screen.type("\x03")
            self.assertEqual(screen.wait(), 0)
            self.assert_restored(screen)

    def test_a_drain_is_seen(self):
        with Server("--drain", "1m") as server, Raw(server).open("/broadcast/prices"):
            screen = self.screen("--admin", address_of(server))
            screen.wait_for("serving")
            server.terminate()
            screen.wait_for("DRAINING: no new clients")
            screen.type("q")
            self.assertEqual(screen.wait(), 0)

    def test_a_stalled_shard_is_named_and_not_taken_for_no_answer(self):
        with Server("--shards", "2") as server, Raw(server).open("/broadcast/prices"):
            screen = self.screen("--admin", address_of(server))
            screen.wait_for("serving")
            with stopped(next(threads_of(server.pid, "shard-1"))):
                screen.wait_for(r"STALLED: stalled shards: \[1\].*old lists.*prices")
                code, out, _ = once("--admin", address_of(server))
                self.assertEqual(code, 0)
                self.assertIn("stalled shards: [1]", out)
            screen.wait_for("serving")

    def test_a_banned_address_is_named(self):
        with Server("--max-connections-per-address", "1", "--ban-after", "1", "--driver", "epoll") as server:
            with Raw(server).open(), Raw(server) as second:
                self.assertEqual(second.upgrade()[0], 429)
            screen = self.screen("--admin", address_of(server))
            screen.wait_for("serving 1 address banned: 127.0.0.1")

    def test_signals_restore_the_terminal(self):
        with Server("--shards", "1") as server:
            for signal_number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                screen = self.screen("--admin", address_of(server))
                screen.wait_for("serving")
                screen.process.send_signal(signal_number)
                self.assertEqual(screen.wait(), 0)
                self.assert_restored(screen)

    def test_a_terminal_that_is_gone_ends_it(self):
        # Nobody is sent SIGHUP: it is not the controlling terminal of anyone. Each hangs up at another moment.
        with Server("--shards", "1") as server:
            screens = [self.screen("--admin", address_of(server)) for _ in range(12)]
            for screen in screens:
                screen.wait_for("serving")
                screen.type("p")
                screen.wait_for("PAUSED")
            for screen in screens:
                screen.hang_up()
            for screen in screens:
                self.assertIsNotNone(screen.process.wait(PATIENCE_S))


if __name__ == "__main__":
    unittest.main()
