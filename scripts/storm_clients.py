"""Many clients of each kind in few processes, which check every message, and the publisher that they follow. For scripts/upgrade-storm.

A publication is `@SEQUENCE TIME@` with padding: its number in its topic from 1, and when it was sent, in ns of CLOCK_MONOTONIC, which
all processes share. Echo clients send the same. A client that is closed opens again, so that later upgrades have their load; messages
that it misses meanwhile are not counted as lost, because the close itself is the failure.
"""

import collections
import json
import re
import select
import socket
import ssl
import time
import traceback
import zlib

import websocket

MARK = re.compile(rb"@(\d+) (\d+)@")
PAD = "the same words in each message compress well. " * 2
# Handshakes and subscriptions of a process at the same time.
OPENING_MAX = 64
ECHO_EVERY_S = 5
WINDOW_BITS = 12
OFFER = f"permessage-deflate; server_max_window_bits={WINDOW_BITS}; client_max_window_bits={WINDOW_BITS}"
# Unacknowledged publications at which the publisher pauses.
UNACKNOWLEDGED_MAX = 50_000
# Different failures that are told apart.
DETAILS_MAX = 100
# Linux, ip(7): the port of a bound source address is chosen when it connects.
IP_BIND_ADDRESS_NO_PORT = 24


def marked(sequence):
    return f"@{sequence} {time.monotonic_ns()}@{PAD}"


def of_any_server():
    """TLS 1.3 with whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Client:
    """A connection that reads what has arrived and counts. `opens` counts its connections, and `tls` is how they are secured, if so."""

    path, fields, is_echo, tls = "", {}, False, None

    def __init__(self, loop, number, topic):
        self.loop, self.number, self.topic = loop, number, topic
        self.opens, self.is_ready, self.age_max = 0, False, -1

    def open(self):
        self.opens += 1
        self.is_ready, self.is_upgraded, self.buffer = False, False, b""
        # Publishing begins when all are open: only who returns does not know its first message.
        self.next, self.sent = (1, 0) if self.is_echo or self.opens == 1 else (None, 0)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((self.loop.source, 0))
        self.socket.settimeout(websocket.PATIENCE_S)
        self.socket.connect(self.loop.address)
        if self.tls:
            self.socket = self.tls.wrap_socket(self.socket)
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.fields.items())
        self.socket.sendall(f"GET {self.path.format(self.topic)} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        self.socket.setblocking(False)
        self.loop.add(self)

    def readable(self):
        try:
            received = self.socket.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            received = b""
        if not received:
            return self.closed(1006)
        data = self.buffer + received if self.buffer else received
        if not self.is_upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            if not re.match(rb"HTTP/1.1 (101|200) ", head):
                return self.closed(int(head[9:12]))
            self.is_upgraded, self.buffer = True, b""
            self.upgraded(head)
        self.parse(data)

    def upgraded(self, head):
        self.ready()

    def ready(self):
        self.is_ready = True
        self.loop.opened(self)

    def content(self, payload):
        """A message or event of the topic. Everything else goes to `control`."""
        found = MARK.search(payload)
        if not found:
            return self.control(payload)
        sequence, now = int(found[1]), time.monotonic_ns()
        self.loop.deliveries += 1
        self.age_max = max(self.age_max, now - int(found[2]))
        if self.next is not None and sequence != self.next:
            if sequence < self.next:
                self.loop.failed("doubled", self)
                return
            self.loop.failed("lost", self, sequence - self.next)
        self.next = sequence + 1

    def control(self, payload):
        self.event(payload)

    def event(self, payload):
        self.loop.failed("events", self, seen=payload[:100].decode(errors="replace"))

    def closed(self, code):
        self.loop.failed("closes", self, seen=f"{code}" if self.is_ready else f"{code} while it opened")
        self.loop.remove(self)
        self.open()

    def missing(self, last):
        """Messages that should have come until now."""
        last = self.sent if self.is_echo else last
        return max(0, last + 1 - self.next) if self.next is not None else 0


class WebSocket(Client):
    fields = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": websocket.KEY,
    }  # fmt: skip

    def send(self, payload, first=websocket.TEXT):
        frame = websocket.masked(websocket.FIN | first, payload)
        try:
            is_sent = self.socket.send(frame) == len(frame)
        except (BlockingIOError, ssl.SSLWantWriteError):
            is_sent = False
        except OSError:
            # The close itself is found by reading.
            return
        if not is_sent:
            self.event(b"the server does not read")

    def parse(self, data):
        at, end, connection = 0, len(data), self.opens
        while end - at >= 2 and self.opens == connection:
            length, start = data[at + 1], at + 2
            if length >= 126:
                start = at + (4 if length == 126 else 10)
                length = int.from_bytes(data[at + 2 : start], "big")
            if start > end or start + length > end:
                break
            self.frame(data[at], data[start : start + length])
            at = start + length
        if self.opens == connection:
            self.buffer = data[at:]

    def frame(self, first, payload):
        opcode = first & 0xF
        if opcode == websocket.PING:
            self.send(payload, websocket.PONG)
        elif opcode == websocket.CLOSE:
            self.closed(int.from_bytes(payload[:2], "big") or 1005)
        elif not first & websocket.FIN or opcode not in (websocket.TEXT, websocket.BINARY):
            self.event(b"an unexpected frame")
        else:
            self.whole(payload, first & websocket.COMPRESSED)

    def whole(self, payload, is_compressed):
        self.content(payload)


class Raw(WebSocket):
    path = "/broadcast/{}"


class Echo(WebSocket):
    path, is_echo = "/echo", True

    def ask(self):
        self.sent += 1
        self.send(marked(self.sent).encode())


class Compressed(WebSocket):
    """With context takeover in both directions."""

    fields = {**WebSocket.fields, "Sec-WebSocket-Extensions": OFFER}

    def upgraded(self, head):
        answer = re.search(rb"(?i)sec-websocket-extensions: *(.*)", head)
        if not answer or b"no_context_takeover" in answer[1]:
            self.event(f"no context takeover: {answer and answer[1]}".encode())
        self.inflater = zlib.decompressobj(-15)
        self.deflater = zlib.compressobj(1, zlib.DEFLATED, -WINDOW_BITS, 5)
        self.ready()

    def send(self, payload, first=websocket.TEXT):
        if first == websocket.TEXT:
            payload = (self.deflater.compress(payload) + self.deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
            first |= websocket.COMPRESSED
        super().send(payload, first)

    def whole(self, payload, is_compressed):
        try:
            self.content(self.inflater.decompress(payload + b"\0\0\xff\xff") if is_compressed else payload)
        except zlib.error as error:
            self.event(f"{error}".encode())


class V1(WebSocket):
    path = "/broadcast"
    fields = {**WebSocket.fields, "Sec-WebSocket-Protocol": "echoring.v1.json"}

    def upgraded(self, head):
        self.send(json.dumps({"type": "subscribe", "id": 1, "topic": self.topic}).encode())

    def control(self, payload):
        kind = json.loads(payload)["type"]
        if kind == "subscribed" and not self.is_ready:
            self.ready()
        elif kind != "heartbeat":
            self.event(payload)


class CentrifugeJson(WebSocket):
    path = "/connection/websocket"

    def upgraded(self, head):
        self.send(f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{self.topic}"}}}}'.encode())

    def whole(self, payload, is_compressed):
        for line in payload.splitlines():
            self.content(line)

    def control(self, payload):
        reply = json.loads(payload)
        if not reply:
            self.send(b"{}")
        elif reply.get("id") == 2 and "subscribe" in reply and not self.is_ready:
            self.ready()
        elif "connect" not in reply or self.is_ready:
            self.event(payload)


class CentrifugeProtobuf(WebSocket):
    path = "/connection/websocket"
    fields = {**WebSocket.fields, "Sec-WebSocket-Protocol": "centrifuge-protobuf"}

    def upgraded(self, head):
        # Command: id = 1, connect = 4, subscribe = 5. SubscribeRequest: channel = 1.
        channel = bytes([0x0A, len(self.topic)]) + self.topic.encode()
        subscribe = b"\x08\x02\x2a" + bytes([len(channel)]) + channel
        self.send(b"\x04\x08\x01\x22\x00" + bytes([len(subscribe)]) + subscribe, websocket.BINARY)

    def whole(self, payload, is_compressed):
        at = 0
        while at < len(payload):
            length, shift = 0, 0
            while True:
                byte, at = payload[at], at + 1
                length, shift = length | (byte & 0x7F) << shift, shift + 7
                if byte < 0x80:
                    break
            self.content(payload[at : at + length])
            at += length

    def control(self, payload):
        # Reply: id = 1, connect = 5, subscribe = 6.
        if not payload:
            self.send(b"\0", websocket.BINARY)
        elif payload[:3] == b"\x08\x02\x32" and not self.is_ready:
            self.ready()
        elif payload[:3] != b"\x08\x01\x2a" or self.is_ready:
            self.event(payload)


class EventStream(Client):
    path = "/sse/{}"

    def upgraded(self, head):
        pass

    def parse(self, data):
        *events, self.buffer = data.split(b"\n\n")
        connection = self.opens
        for event in events:
            if self.opens == connection:
                self.content(event)

    def control(self, payload):
        if b"event: subscribed" in payload and not self.is_ready:
            self.ready()
        elif found := re.search(rb"event: end\ndata: (\d+)", payload):
            self.closed(int(found[1]))
        elif not re.fullmatch(rb"((:|retry:).*\n?)+", payload):
            self.event(payload)


# Each kind with its share of all connections.
KINDS = {
    "echo": (Echo, 0.10),
    "compressed echo": (type("CompressedEcho", (Compressed, Echo), {}), 0.05),
    "raw": (Raw, 0.20),
    "compressed raw": (type("CompressedRaw", (Compressed, Raw), {}), 0.05),
    "echoring.v1.json": (V1, 0.25),
    "centrifuge json": (CentrifugeJson, 0.10),
    "centrifuge protobuf": (CentrifugeProtobuf, 0.10),
    "event stream": (EventStream, 0.15),
}


class Loop:
    """The clients of one process. `commands` is a pipe to the one that decides."""

    def __init__(self, commands, address, number, kinds):
        self.commands, self.address, self.source = commands, address, f"127.0.0.{10 + number}"
        self.poll, self.clients = select.epoll(), {}
        self.deliveries, self.failures, self.busy_ns_max = 0, collections.Counter(), 0
        self.poll.register(commands.fileno(), select.EPOLLIN)
        self.all = [KINDS[kind][0](self, place, topic) for place, (kind, topic) in enumerate(kinds)]
        self.kinds = [kind for kind, _ in kinds]
        self.echoes = [client for client in self.all if client.is_echo]
        self.waiting, self.opening = list(self.all), set()

    def add(self, client):
        self.clients[client.socket.fileno()] = client
        self.opening.add(client)
        self.poll.register(client.socket.fileno(), select.EPOLLIN)

    def remove(self, client):
        del self.clients[client.socket.fileno()]
        self.opening.discard(client)
        client.socket.close()

    def opened(self, client):
        self.opening.discard(client)

    def failed(self, what, client, count=1, seen=""):
        kind = self.kinds[client.number]
        place = what, kind, seen
        self.failures[place if place in self.failures or len(self.failures) < DETAILS_MAX else (what, kind, "others")] += count

    def run(self):
        asked, begin, at = 0, time.monotonic(), 0
        before = time.monotonic_ns()
        while True:
            while self.waiting and len(self.opening) < OPENING_MAX:
                self.waiting.pop().open()
            if self.waiting or self.opening:
                begin, asked = time.monotonic(), 0
            self.busy_ns_max = max(self.busy_ns_max, time.monotonic_ns() - before)
            events = self.poll.poll(0.02)
            before = time.monotonic_ns()
            for descriptor, _ in events:
                if descriptor == self.commands.fileno():
                    if not self.command(*self.commands.recv()):
                        return
                elif client := self.clients.get(descriptor):
                    client.readable()
            due = int((time.monotonic() - begin) * len(self.echoes) / ECHO_EVERY_S)
            while asked < due:
                client = self.echoes[at]
                at, asked = (at + 1) % len(self.echoes), asked + 1
                if client.is_ready:
                    client.ask()

    def command(self, name, last=None):
        if name == "opening":
            self.commands.send(len(self.waiting) + len(self.opening))
        elif name == "ages":
            ages = [client.age_max for client in self.all if client.age_max >= 0]
            self.commands.send((ages, self.busy_ns_max))
            self.busy_ns_max = 0
            for client in self.all:
                client.age_max = -1
        else:
            for client in self.all:
                if missing := client.missing(last.get(client.topic, 0)):
                    self.failed("lost", client, missing)
            self.commands.send((self.deliveries, self.failures))
            return False
        return True


class PublisherSession(V1):
    """Publishes to some topics. What was not acknowledged when it is closed is sent again, with its idempotency key."""

    def open(self):
        if not self.opens:
            self.unacknowledged, self.outgoing = collections.OrderedDict(), bytearray()
        super().open()

    def upgraded(self, head):
        self.outgoing = bytearray().join(frame for frame, *_ in self.unacknowledged.values())
        self.ready()

    def publish(self, topic, sequence, number):
        request = {"type": "publish", "id": number, "topic": topic, "idempotency_key": f"{number}", "text": marked(sequence)}
        frame = websocket.masked(websocket.FIN | websocket.TEXT, json.dumps(request).encode())
        self.unacknowledged[number] = frame, topic, sequence, time.monotonic_ns()
        self.outgoing += frame
        self.flush()

    def flush(self):
        if self.outgoing and self.is_ready:
            try:
                del self.outgoing[: self.socket.send(self.outgoing)]
            except OSError:
                # It takes no more for now, or reading finds the close.
                pass

    def whole(self, payload, is_compressed):
        answer = json.loads(payload)
        found = self.unacknowledged.pop(answer.get("id"), None) if answer["type"] == "published" else None
        if not found:
            return self.event(payload)
        _, topic, sequence, sent = found
        self.loop.last[topic] = max(sequence, self.loop.last.get(topic, 0))
        self.loop.slowest_ns = max(self.loop.slowest_ns, time.monotonic_ns() - sent)


class Publisher(Loop):
    def __init__(self, commands, address, number, topics, sessions, rate):
        super().__init__(commands, address, number, [])
        self.all = [PublisherSession(self, place, "") for place in range(sessions)]
        self.kinds, self.waiting = ["publisher"] * sessions, list(self.all)
        self.topics, self.rate, self.last, self.slowest_ns = topics, rate, {}, 0

    def run(self):
        begin, number, is_stopping = None, 0, None
        while True:
            while self.waiting:
                self.waiting.pop().open()
            for descriptor, _ in self.poll.poll(0.002):
                if descriptor == self.commands.fileno():
                    name, _ = self.commands.recv()
                    if name == "opening":
                        self.commands.send(len(self.opening))
                    elif name == "publish":
                        begin = time.monotonic()
                    else:
                        is_stopping, elapsed = time.monotonic(), time.monotonic() - begin
                elif client := self.clients.get(descriptor):
                    client.readable()
            unacknowledged = sum(len(session.unacknowledged) for session in self.all)
            if is_stopping:
                if not unacknowledged or time.monotonic() - is_stopping > websocket.PATIENCE_S:
                    found = {"publications": number, "publications_per_s": number / elapsed, "unacknowledged": unacknowledged}
                    found["slowest_acknowledgement_ms"] = self.slowest_ns / 1e6
                    return self.commands.send((self.last, found, self.failures))
            elif begin:
                due = min(int((time.monotonic() - begin) * self.rate), number + UNACKNOWLEDGED_MAX - unacknowledged)
                while number < due:
                    place, turn = number % len(self.topics), number // len(self.topics)
                    self.all[place % len(self.all)].publish(self.topics[place], turn + 1, number)
                    number += 1
            for session in self.all:
                session.flush()


def process(kind, commands, *arguments):
    """What a process of clients runs."""
    try:
        kind(commands, *arguments).run()
    except EOFError:
        # The script has ended.
        pass
    except Exception:
        traceback.print_exc()
