"""Clients that mean no good."""

import contextlib
import socket
import threading
import time

from idle import SOURCES

# A slow client sends a head that does not end. On a port with TLS it is no handshake, but the server knows that
# only once it has the first bytes of a record.
HEAD = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 100_000
RECORD = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600)


@contextlib.contextmanager
def hold(port, count):
    """So many connections that say nothing, as far as the server lets them in."""
    clients = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                clients.append(socket.create_connection(("127.0.0.1", port), timeout=1))
        yield
    finally:
        for client in clients:
            client.close()


class SlowClients:
    """Connections that send a byte a second each, and come again when they are cut."""

    def __init__(self, port, count, secure=False):
        self.port, self.count = port, count
        self.text = RECORD if secure else HEAD
        self.over = threading.Event()
        self.cut = 0

    def __enter__(self):
        self.clients = [self._open(number) for number in range(self.count)]
        self.thread = threading.Thread(target=self._send)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        for client, _ in self.clients:
            client.close()

    def _open(self, number):
        client = socket.socket()
        client.setblocking(False)
        client.bind((SOURCES[number % len(SOURCES)], 0))
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", self.port))
        return [client, 0]

    def _send(self):
        step = self.count // 100
        while not self.over.is_set():
            began = time.monotonic()
            for first in range(0, self.count, step):
                for number in range(first, min(first + step, self.count)):
                    self._send_byte(number)
                # Spread over the second.
                rest = began + (first + step) / self.count - time.monotonic()
                if rest > 0 and self.over.wait(rest):
                    return

    def _send_byte(self, number):
        client, sent = self.clients[number]
        try:
            client.send(self.text[sent:sent + 1])
            self.clients[number][1] = (sent + 1) % len(self.text)
        except BlockingIOError:
            pass
        except OSError:
            client.close()
            self.cut += 1
            self.clients[number] = self._open(number)
