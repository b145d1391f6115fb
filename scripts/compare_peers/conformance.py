"""Checks that a peer works before it is measured, with a separate client on a plain socket.

An echo must return text and binary messages with every header length unchanged, also several at once. A broadcast must reach all
other clients, in order. A raw server must only return frames of the right length.
"""

import random
import zlib

import pairs
import websocket
from catalogue import COMPRESSED, ECHO, SECURED
from websocket import BINARY, TEXT

SIZES = (16, 125, 126, 1_024, 16_384, 65_535, 65_536)
AT_ONCE = 16
SUBSCRIBERS = 5
MESSAGES = 20
# Characters of two, three and four bytes, which reveal an echo that counts characters.
WORDS = "wörter, 言葉, слова, 🙂 "


def text_of(size):
    """Valid UTF-8 of `size` bytes."""
    whole = (WORDS * (size // len(WORDS.encode()) + 1)).encode()[:size]
    cut = whole.decode(errors="ignore").encode()
    return cut + b"." * (size - len(cut))


def check(server, role, row, raw):
    """Fails if the server does not work."""
    if role not in (ECHO, COMPRESSED, SECURED):
        check_broadcast(server.origin, row.path(server.side, role).format(topic="conformance"))
    elif raw:
        check_lengths(server.origin, row.message_bytes)
    elif role == COMPRESSED:
        check_compressed(server.origin)
    else:
        check_echo(server.origin)


def check_echo(origin):
    client = websocket.connect(origin, "/echo")
    source = random.Random(1)
    for size in SIZES:
        for kind, payload in ((TEXT, text_of(size)), (BINARY, source.randbytes(size))):
            client.send(payload, kind)
            if client.receive() != (kind, False, payload):
                pairs.fail(f"an echo of {size} bytes came back changed")
    many = [source.randbytes(16 + number) for number in range(AT_ONCE)]
    client.socket.sendall(b"".join(websocket.masked(websocket.FIN | BINARY, payload) for payload in many))
    if [client.receive()[2] for _ in many] != many:
        pairs.fail(f"{AT_ONCE} echoes at once came back changed")
    client.close()


def check_lengths(origin, message_bytes):
    client = websocket.connect(origin, "/echo")
    for _ in range(3):
        client.send(bytes(message_bytes), BINARY)
        if len(client.receive()[2]) != message_bytes:
            pairs.fail("an echo came back with another length")
    client.close()


def check_compressed(origin):
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    client = websocket.connect(origin, "/echo", Sec_WebSocket_Extensions=offer)
    if b"permessage-deflate" not in client.head:
        pairs.fail("compression was not negotiated")
    payload = b"".join(b'{"id":%d,"name":"echo","open":true}' % number for number in range(40))
    for _ in range(3):
        deflater = zlib.compressobj(wbits=-15)
        body = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
        client.send(body.removesuffix(b"\0\0\xff\xff"), websocket.COMPRESSED | TEXT)
        kind, compressed, answer = client.receive()
        if kind != TEXT or not compressed:
            pairs.fail("a compressed message came back uncompressed")
        if zlib.decompressobj(wbits=-15).decompress(answer + b"\0\0\xff\xff") != payload:
            pairs.fail("a compressed message came back changed")
    client.close()


def check_broadcast(origin, path):
    """A publisher's messages must reach all others. A server may also send them to the publisher."""
    publisher, *subscribers = [websocket.connect(origin, path) for _ in range(1 + SUBSCRIBERS)]
    source = random.Random(2)
    for number in range(MESSAGES):
        payload = b"%05d" % number + source.randbytes(SIZES[number % 5] - 5)
        publisher.send(payload, BINARY)
        for subscriber in subscribers:
            if subscriber.receive()[2] != payload:
                pairs.fail("a message reached a subscriber changed")
    for client in [*subscribers, publisher]:
        client.close()
