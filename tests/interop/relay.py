"""A relay in front of a server, for tests of what clients do when connections are cut or slow."""

import contextlib
import socket
import threading

from harness import PATIENCE_S


class Relay:
    """Forwards connections to a server, cuts them, and holds back what the server sends, which neither side is told."""

    def __init__(self, host, port):
        self.server = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs, self.is_cut = [], False
        self.may_pass = threading.Event()
        self.may_pass.set()
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
            if self.is_cut:
                client.close()
                continue
            upstream = socket.create_connection(self.server)
            self.pairs.append((client, upstream))
            for pair in ((client, upstream, False), (upstream, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, sink, is_server):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_server:
                    self.bytes_sent += len(data)
                    self.may_pass.wait(PATIENCE_S)
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
        self.is_cut = True
        for pair in self.pairs:
            self._end(pair)
        yield
        self.is_cut = False

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
