"""A WebSocket client on a blocking socket, for checks and measurements of servers, and what servers of scripts need."""

import base64
import hashlib
import os
import re
import socket
import ssl

import pairs

PATIENCE_S = 60
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN, COMPRESSED = 0x80, 0x40
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
# RFC 6455, section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Client:
    """Sends its request at once. `opened` waits for the answer, so that several clients can open at a time."""

    READ_BYTES = 1 << 16

    def __init__(self, connected, path, **fields):
        """`fields` are further ones of the request, with `_` for `-`."""
        self.socket, self.waiting = connected, b""
        self.socket.settimeout(PATIENCE_S)
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n".encode()
        )

    def opened(self):
        while b"\r\n\r\n" not in self.waiting:
            self.more()
        self.head, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
        if not self.head.startswith(b"HTTP/1.1 101"):
            pairs.fail(f"the server refused the upgrade: {self.head[:100]!r}")
        return self

    def more(self):
        received = self.socket.recv(self.READ_BYTES)
        if not received:
            pairs.fail("the server closed a connection")
        self.waiting += received

    def exactly(self, count):
        while len(self.waiting) < count:
            self.more()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def frame(self):
        """The first byte and the payload of the next frame. A server sends frames unmasked."""
        first, length = self.exactly(2)
        if length >= 126:
            length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
        return first, self.exactly(length)

    def receive(self):
        """The kind, compression flag and payload of the next message. Answers the pings before it."""
        kind, compressed, payload = None, False, b""
        while True:
            first, piece = self.frame()
            opcode = first & 0x0F
            if opcode == PING:
                self.send(piece, PONG)
            elif opcode == CLOSE:
                pairs.fail(f"the server sent a Close frame: {piece[:60]!r}")
            elif opcode != PONG:
                if kind is None:
                    kind, compressed = opcode, bool(first & COMPRESSED)
                payload += piece
                if first & FIN:
                    return kind, compressed, payload

    def send(self, payload, first=TEXT):
        """Sends one whole frame. `first` is the opcode, with other bits than FIN."""
        self.socket.sendall(masked(FIN | first, payload))

    def close(self):
        self.socket.close()


def connect(origin, path, **fields):
    """An open client of `ws://ADDRESS:PORT`, or of `wss:` with any certificate."""
    scheme, address, port = re.match(r"(wss?)://([^:/]+):(\d+)", origin).groups()
    connected = socket.create_connection((address, int(port)), timeout=PATIENCE_S)
    if scheme == "wss":
        believing = ssl.create_default_context()
        believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
        connected = believing.wrap_socket(connected)
    return Client(connected, path, **fields).opened()


def masked(first, payload):
    """A masked frame."""
    key, length = os.urandom(4), len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65_536:
        size = b"\xfe" + length.to_bytes(2, "big")
    else:
        size = b"\xff" + length.to_bytes(8, "big")
    pad = (key * (length // 4 + 1))[:length]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return bytes([first]) + size + key + mixed.to_bytes(length, "big")


def upgrade(waiting):
    """The path of the request that `waiting` begins with, the response, and the bytes behind it; None while it is not complete."""
    head, end, rest = waiting.partition(b"\r\n\r\n")
    if not end:
        return None
    line = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(line.split(b":", 1)[1].strip() + GUID).digest())
    response = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return head.split(b" ", 2)[1].decode(), response, rest


def unmasked(waiting):
    """The first frame of a client as a server sends it back, and the bytes behind it; None while it is not complete. It has less than 64 KiB."""
    if len(waiting) < 6 or (len(waiting) < 8 and waiting[1] & 0x7F >= 126):
        return None
    length, at = waiting[1] & 0x7F, 2
    if length == 126:
        length, at = int.from_bytes(waiting[2:4], "big"), 4
    end = at + 4 + length
    if len(waiting) < end:
        return None
    pad = (waiting[at : at + 4] * (length // 4 + 1))[:length]
    payload = (int.from_bytes(waiting[at + 4 : end], "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")
    head = bytes([waiting[0], length]) if length < 126 else bytes([waiting[0], 126]) + length.to_bytes(2, "big")
    return head + payload, waiting[end:]
