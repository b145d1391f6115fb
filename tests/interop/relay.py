"""A relay in front of a server, for tests of what clients do when connections are cut, reset, half-open or slow."""

import contextlib
import socket
import struct
import threading
import time

from harness import PATIENCE_S


class Relay:
    """Forwards connections to a server, and plants faults: each is a block. Neither side is told of those that end no connection."""

    def __init__(self, host, port):
        self.server = (host, port)
        self.host = "127.0.0.1"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        # No connection begins while others are cut.
        self.lock = threading.Lock()
        self.pairs, self.is_cut = [], False
        self.may_pass, self.may_be_sent = threading.Event(), threading.Event()
        self.may_pass.set()
        self.may_be_sent.set()
        # Of each piece that is read, and bytes a second of each direction.
        self.delay_s = self.rate = 0
        # Of the server.
        self.bytes_sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path):
        return f"ws://127.0.0.1:{self.port}{path}"

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                try:
                    upstream = None if self.is_cut else socket.create_connection(self.server)
                except OSError:
                    upstream = None
                if upstream is None:
                    client.close()
                    continue
                self.pairs.append((client, upstream))
            for pair in ((client, upstream, False), (upstream, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, sink, is_server):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_server:
                    self.bytes_sent += len(data)
                (self.may_pass if is_server else self.may_be_sent).wait(PATIENCE_S)
                if pause_s := self.delay_s + (len(data) / self.rate if self.rate else 0):
                    time.sleep(pause_s)
                sink.sendall(data)
        self._end((source, sink))

    @staticmethod
    def _end(pair):
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def cut(self):
        """Ends all connections without a Close frame, and lets none through inside the block."""
        for pair in self._cut():
            self._end(pair)
        yield
        self.is_cut = False

    def _cut(self):
        """Lets no connection through any more. Returns those that there are."""
        with self.lock:
            self.is_cut = True
            return list(self.pairs)

    @contextlib.contextmanager
    def reset(self):
        """Ends all connections with RST, and lets none through inside the block."""
        for end in [end for pair in self._cut() for end in pair]:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Ends the thread that reads, and sends nothing.
                end.shutdown(socket.SHUT_RD)
                end.close()
        yield
        self.is_cut = False

    @contextlib.contextmanager
    def half_open(self):
        """Forwards nothing inside the block, and everything behind it."""
        self.may_be_sent.clear()
        try:
            with self.held():
                yield
        finally:
            self.may_be_sent.set()

    @contextlib.contextmanager
    def delayed(self, delay_s):
        """Forwards each piece later inside the block."""
        self.delay_s = delay_s
        try:
            yield
        finally:
            self.delay_s = 0

    @contextlib.contextmanager
    def limited(self, rate):
        """Forwards so many bytes a second in each direction inside the block."""
        self.rate = rate
        try:
            yield
        finally:
            self.rate = 0

    @contextlib.contextmanager
    def held(self):
        """Holds back what the server sends inside the block."""
        self.may_pass.clear()
        try:
            yield
        finally:
            self.may_pass.set()

    def close(self):
        # Also ends a thread that waits in `accept`.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for pair in self.pairs:
            for end in pair:
                end.close()
