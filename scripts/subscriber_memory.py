"""Measures the server's memory per subscriber. See scripts/subscriber-memory."""

import argparse
import asyncio
import contextlib
import fcntl
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import termios

sys.dont_write_bytecode = True
import idle_memory  # noqa: E402

# Several source addresses, so that no address runs out of ports.
SOURCES = [f"127.0.0.{i}" for i in range(2, 10)]
PATIENCE_S = 60
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
SUBPROTOCOL = "echoring.v1.json"
MESSAGE = b"x" * 1024
# First bytes of frames, with FIN (RFC 6455, 5.2).
TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A
# Messages of the busy topic: within the lag that a subscriber may have, so that none is disconnected.
BUSY_MESSAGE = b"y" * (16 * 1024)
LAG_BYTES = 512 * 1024
BUSY_MESSAGES = 24
# Subscribers that do not read stay connected for the whole test; the topic keeps only its log.
SETTINGS = f'[topic_defaults]\nlag_bytes = {LAG_BYTES}\nlag = "10m"\nhistory_bytes = 0\nhistory_messages = 0\n'
NOT_READING_MAX = 1024 * 1024
ROUNDS = 3


def fail(text):
    sys.exit(f"subscriber-memory: {text}")


@contextlib.contextmanager
def serving(binary, listen, settings=None, program=None):
    """Runs a server, or a `program` with one, for the duration of the block. Yields it and its `listening` line."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(settings or "")
        file.flush()
        command = [binary, "serve", "--listen", listen, "--admin", "off", "--log", "warn"]
        if program:
            command = [program, "--listen", listen]
        server = subprocess.Popen(
            command + (["--config", file.name] if settings else []), stdout=subprocess.PIPE, text=True
        )
        try:
            line = server.stdout.readline()
            if not line.startswith("listening "):
                fail(f"the server did not start: {line!r}")
            yield server, line
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def resident(server):
    """Resident memory of the process in bytes, once it has not changed for a second."""
    return sum(asyncio.run(idle_memory.settled_bytes(server.pid)).values())


class Subscriber:
    """A WebSocket on a blocking socket. Its request is already sent."""

    def __init__(self, connected, path, subprotocol=None):
        self.socket = connected
        self.socket.settimeout(PATIENCE_S)
        self.waiting = b""
        offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n".encode()
        )

    def opened(self):
        while b"\r\n\r\n" not in self.waiting:
            self.more()
        head, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            fail(f"the server refused the upgrade: {head!r}")
        return self

    def more(self):
        received = self.socket.recv(65_536)
        if not received:
            fail("the server closed a connection")
        self.waiting += received

    def exactly(self, count):
        while len(self.waiting) < count:
            self.more()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def receive(self):
        """Receives a message, and answers the pings before it: on a busy machine many subscribers take longer than a ping interval."""
        while (frame := self.receive_frame())[0] == PING:
            self.send(frame[1], PONG)
        first, payload = frame
        if first not in (TEXT, BINARY):
            fail(f"expected a message, got a frame {first:#x} with {payload[:60]!r}")
        return payload

    def receive_frame(self):
        """The first byte and the payload. The server sends frames unmasked, and messages in one frame."""
        first, length = self.exactly(2)
        if length >= 126:
            length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
        return first, self.exactly(length)

    def send(self, payload, first=TEXT):
        # A masking key of zeros leaves the payload unchanged.
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        self.socket.sendall(bytes([first]) + size + bytes(4) + payload)


def over_tcp(port):
    def connect(number):
        return socket.create_connection(("127.0.0.1", port), source_address=(SOURCES[number % len(SOURCES)], 0))

    return connect


def open_all(connect, count, path, subprotocol=None):
    """Opens `count` subscribers. The number of concurrent handshakes fits the backlog."""
    found = []
    while len(found) < count:
        some = range(len(found), min(count, len(found) + 200))
        opening = [Subscriber(connect(number), path, subprotocol) for number in some]
        found += [subscriber.opened() for subscriber in opening]
    return found


def per_subscriber(binary, count, subprotocol, path="/broadcast/memory", program=None):
    """Measures subscribers of one topic over TCP, after one message each."""
    with serving(binary, "127.0.0.1:0", program=program) as (server, line):
        connect = over_tcp(int(re.search(r":(\d+) ", line)[1]))
        before = resident(server)
        path = "/broadcast" if subprotocol else path
        subscribers = open_all(connect, count, path, subprotocol)
        if subprotocol:
            for subscriber in subscribers:
                subscriber.send(b'{"type":"subscribe","id":1,"topic":"memory"}')
            for subscriber in subscribers:
                answer = subscriber.receive()
                if b'"subscribed"' not in answer:
                    fail(f"the subscription was not accepted: {answer!r}")
        publisher = open_all(connect, 1, "/broadcast/memory")[0]
        publisher.send(MESSAGE)
        for subscriber in subscribers:
            message = subscriber.receive()
            if MESSAGE not in message:
                fail(f"a subscriber received another message: {message[:100]!r}")
        after = resident(server)
        for subscriber in [*subscribers, publisher]:
            subscriber.socket.close()
    figures = {
        "subscribers": count,
        "bytes_per_subscriber": round((after - before) / count, 1),
        "resident_before": before,
        "resident_after": after,
    }
    print(f"{figures['bytes_per_subscriber']:.0f} B of user memory per subscriber ({subprotocol or path})")
    return line.split("pid=")[0].split(" ", 2)[2].strip(), figures


def not_reading(binary, count):
    """Measures the growth of the server for subscribers that do not read a busy topic. Over a Unix socket, because the TCP
    buffers of this many sockets would exceed the kernel's total limit."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")

        def connect(_number):
            connected = socket.socket(socket.AF_UNIX)
            connected.connect(path)
            return connected

        with serving(binary, f"unix:{path}", SETTINGS) as (server, _):
            subscribers = open_all(connect, count, "/broadcast/busy")
            publisher, reader = open_all(connect, 2, "/broadcast/busy")
            # The first message to all subscribers creates the log, pools, and tables for a batch of sends. These are not part
            # of the growth.
            publisher.send(BUSY_MESSAGE)
            for subscriber in [*subscribers, reader]:
                if subscriber.receive() != BUSY_MESSAGE:
                    fail("a message was damaged")
            before = resident(server)
            for _ in range(BUSY_MESSAGES):
                publisher.send(BUSY_MESSAGE)
                if reader.receive() != BUSY_MESSAGE:
                    fail("a message was damaged")
            after = resident(server)
            behind = [lag_bytes(subscriber) for subscriber in subscribers[:: max(1, count // 100)]]
            if min(behind) <= 0:
                fail("the kernel took all messages, so no subscriber lagged")
            # Every subscriber that reads again gets all messages.
            for subscriber in subscribers:
                for _ in range(BUSY_MESSAGES):
                    if subscriber.receive() != BUSY_MESSAGE:
                        fail("a message was damaged")
                subscriber.socket.close()
    return {
        "not_reading": count,
        "growth_bytes": after - before,
        "behind_bytes_min": min(behind),
        "behind_bytes_max": max(behind),
    }


def median_growth(binary, count):
    """The median of several servers, because the allocator's steps are larger than the memory of a few subscribers."""
    found = sorted((not_reading(binary, count) for _ in range(ROUNDS)), key=lambda figures: figures["growth_bytes"])
    return {**found[ROUNDS // 2], "growth_bytes_of_all": [figures["growth_bytes"] for figures in found]}


def lag_bytes(subscriber):
    """Bytes that were published and have not reached the subscriber's socket."""
    in_socket = struct.unpack("i", fcntl.ioctl(subscriber.socket, termios.FIONREAD, bytes(4)))[0]
    return BUSY_MESSAGES * (len(BUSY_MESSAGE) + 4) - in_socket - len(subscriber.waiting)


def rooms(program, count, is_recorded):
    """Members of a room of the program's handlers, and subscribers of its built-in route, in turns."""
    paths = {"handlers": "/rooms/memory", "builtin": "/broadcast/memory"}
    found = {side: [] for side in paths}
    for number in range(ROUNDS):
        for side in sorted(paths, reverse=number % 2 == 0):
            found[side].append(per_subscriber(None, count, None, paths[side], program)[1])
    medians = {
        side: sorted(figures["bytes_per_subscriber"] for figures in rounds)[ROUNDS // 2] for side, rounds in found.items()
    }
    more = medians["handlers"] - medians["builtin"]
    print(f"a member of handlers takes {more:.0f} B more than a subscriber of the built-in route")
    if is_recorded:
        idle_memory.write_record(
            "rooms-memory.json",
            schema="echoring.rooms-memory/1",
            scenario=f"bench/rooms.rs: {count} members of one room over TCP, after one message of {len(MESSAGE)} bytes each, on the route of "
            "its handlers and on the built-in route of the same program, in turns",
            bytes_per_member=medians,
            rounds=found,
        )


def main():
    parser = argparse.ArgumentParser(prog="subscriber-memory")
    parser.add_argument("binary")
    parser.add_argument("subscribers", type=int, nargs="?", default=15_000)
    parser.add_argument("not_reading", type=int, nargs="?", default=10_000)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--rooms", metavar="PROGRAM")
    options = parser.parse_intermixed_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(options.subscribers, options.not_reading)
    if most + 100 > hard:
        fail(f"{most} subscribers need as many descriptors, the limit is {hard}; raise it with ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.rooms:
        return rooms(options.rooms, options.subscribers, not options.no_record)
    driver, raw = per_subscriber(options.binary, options.subscribers, None)
    _, spoken = per_subscriber(options.binary, options.subscribers, SUBPROTOCOL)
    one, many = (median_growth(options.binary, count) for count in (1, options.not_reading))
    beyond = many["growth_bytes"] - one["growth_bytes"]
    verdict = "met" if beyond <= NOT_READING_MAX else "missed"
    print(
        f"{options.not_reading} subscribers that do not read a busy topic take {beyond / 1024:.0f} KiB beyond its log, with a lag of "
        f"up to {many['behind_bytes_max'] // 1024} KiB ({verdict}: target {NOT_READING_MAX // 1024} KiB)"
    )
    if not options.no_record:
        idle_memory.write_record(
            "subscriber-memory.json",
            schema="echoring.subscriber-memory/1",
            scenario=f"raw and {SUBPROTOCOL}: {options.subscribers} subscribers of one topic over TCP, after one message of "
            f"{len(MESSAGE)} bytes each, default configuration; not_reading: subscribers over a Unix socket that read none of "
            f"{BUSY_MESSAGES} messages of {len(BUSY_MESSAGE)} bytes, beside one subscriber that reads",
            server=driver,
            raw=raw,
            spoken=spoken,
            settings_of_not_reading=SETTINGS,
            not_reading={"one": one, "many": many, "beyond_the_log_bytes": beyond, "target_bytes": NOT_READING_MAX},
        )


if __name__ == "__main__":
    main()
