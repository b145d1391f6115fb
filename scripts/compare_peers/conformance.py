"""Checks that a peer works before it is measured, with a separate client on a plain socket.

An echo must return text and binary messages with every header length unchanged, also several at once. A broadcast must reach all
other clients, in order. A raw server must only return frames of the right length.
"""

import os
import random
import re
import socket
import ssl
import zlib

import pairs
from catalogue import BROADCAST, COMPRESSED

PATIENCE_S = 20
SIZES = (16, 125, 126, 1_024, 16_384, 65_535, 65_536)
AT_ONCE = 16
SUBSCRIBERS = 5
MESSAGES = 20
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
# Characters of two, three and four bytes, which reveal an echo that counts characters.
WORDS = "wörter, 言葉, слова, 🙂 "


class Client:
    """A WebSocket on a blocking socket."""

    def __init__(self, origin, path, extension=None):
        scheme, address, port = re.match(r"(wss?)://([^:/]+):(\d+)", origin).groups()
        self.socket = socket.create_connection((address, int(port)), timeout=PATIENCE_S)
        if scheme == "wss":
            believing = ssl.create_default_context()
            believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
            self.socket = believing.wrap_socket(self.socket)
        self.waiting = b""
        offer = f"Sec-WebSocket-Extensions: {extension}\r\n" if extension else ""
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n".encode()
        )
        while b"\r\n\r\n" not in self.waiting:
            self.more()
        self.head, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
        if not self.head.startswith(b"HTTP/1.1 101"):
            pairs.fail(f"the server refused the upgrade: {self.head[:100]!r}")

    def more(self):
        received = self.socket.recv(1 << 16)
        if not received:
            pairs.fail("the connection was closed")
        self.waiting += received

    def exactly(self, count):
        while len(self.waiting) < count:
            self.more()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def frame(self):
        """The first byte and the payload of the next frame."""
        first, length = self.exactly(2)
        if length >= 126:
            length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
        return first, self.exactly(length)

    def receive(self):
        """The kind, compression flag and payload of the next message. Answers pings."""
        kind, compressed, payload = None, False, b""
        while True:
            first, piece = self.frame()
            if first & 0x0F == PING:
                self.socket.sendall(masked(0x80 | PONG, piece))
            elif first & 0x0F == CLOSE:
                pairs.fail(f"the server sent a Close frame: {piece[:60]!r}")
            elif first & 0x0F != PONG:
                if kind is None:
                    kind, compressed = first & 0x0F, bool(first & 0x40)
                payload += piece
                if first & 0x80:
                    return kind, compressed, payload

    def close(self):
        self.socket.close()


def masked(first, payload):
    """A masked frame."""
    key = os.urandom(4)
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65_536:
        size = b"\xfe" + length.to_bytes(2, "big")
    else:
        size = b"\xff" + length.to_bytes(8, "big")
    pad = (key * (length // 4 + 1))[:length]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return bytes([first]) + size + key + mixed.to_bytes(length, "big")


def text_of(size):
    """Valid UTF-8 of `size` bytes."""
    whole = (WORDS * (size // len(WORDS.encode()) + 1)).encode()[:size]
    cut = whole.decode(errors="ignore").encode()
    return cut + b"." * (size - len(cut))


def check(server, role, row, raw):
    """Fails if the server does not work."""
    if role == BROADCAST:
        check_broadcast(server.origin)
    elif raw:
        check_lengths(server.origin, row.message_bytes)
    elif role == COMPRESSED:
        check_compressed(server.origin)
    else:
        check_echo(server.origin)


def check_echo(origin):
    client = Client(origin, "/echo")
    source = random.Random(1)
    for size in SIZES:
        for kind, payload in ((TEXT, text_of(size)), (BINARY, source.randbytes(size))):
            client.socket.sendall(masked(0x80 | kind, payload))
            if client.receive() != (kind, False, payload):
                pairs.fail(f"an echo of {size} bytes came back changed")
    many = [source.randbytes(16 + number) for number in range(AT_ONCE)]
    client.socket.sendall(b"".join(masked(0x80 | BINARY, payload) for payload in many))
    if [client.receive()[2] for _ in many] != many:
        pairs.fail(f"{AT_ONCE} echoes at once came back changed")
    client.close()


def check_lengths(origin, message_bytes):
    client = Client(origin, "/echo")
    for _ in range(3):
        client.socket.sendall(masked(0x80 | BINARY, bytes(message_bytes)))
        if len(client.receive()[2]) != message_bytes:
            pairs.fail("an echo came back with another length")
    client.close()


def check_compressed(origin):
    client = Client(
        origin, "/echo",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    )
    if b"permessage-deflate" not in client.head:
        pairs.fail("compression was not negotiated")
    payload = b"".join(b'{"id":%d,"name":"echo","open":true}' % number for number in range(40))
    for _ in range(3):
        deflater = zlib.compressobj(wbits=-15)
        body = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
        client.socket.sendall(masked(0xC0 | TEXT, body.removesuffix(b"\0\0\xff\xff")))
        kind, compressed, answer = client.receive()
        if kind != TEXT or not compressed:
            pairs.fail("a compressed message came back uncompressed")
        if zlib.decompressobj(wbits=-15).decompress(answer + b"\0\0\xff\xff") != payload:
            pairs.fail("a compressed message came back changed")
    client.close()


def check_broadcast(origin):
    """A publisher's messages must reach all others. A server may also send them to the publisher."""
    subscribers = [Client(origin, "/broadcast/conformance") for _ in range(SUBSCRIBERS)]
    publisher = Client(origin, "/broadcast/conformance")
    source = random.Random(2)
    for number in range(MESSAGES):
        payload = b"%05d" % number + source.randbytes(SIZES[number % 5] - 5)
        publisher.socket.sendall(masked(0x80 | BINARY, payload))
        for subscriber in subscribers:
            if subscriber.receive()[2] != payload:
                pairs.fail("a message reached a subscriber changed")
    for client in [*subscribers, publisher]:
        client.close()
