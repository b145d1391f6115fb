"""Opens many connections at a time, and measures what they cost a server."""

import contextlib
import socket

import machine
import websocket

# Several source addresses, so that no address runs out of ports. The number of concurrent handshakes fits the backlog.
SOURCES = [f"127.0.0.{i}" for i in range(2, 10)]
OPENING_AT_ONCE = 200
# Opened before the others, because some memory grows once, with the first connections.
FIRST = 1_000
# These send this frame: together, more than the receive regions of all shards hold. Otherwise the server would receive the requests of later
# connections in memory that it had never used before, which would count as theirs.
TOUCHING = websocket.masked(0x82, bytes(16_000))
KNOWN_BIAS = (
    "Includes memory that grows once, with the first connections (pages of tables, pools and code touched for the first time), so it "
    "overstates; the figure after the first 1000 does not. Slabs include both ends, and other work of the machine: halve those of sockets "
    "(TCP, sock_inode_cache, dentry, filp); those of io_uring are the server's."
)


def over_tcp(host, port):
    return lambda number: socket.create_connection((host, port), source_address=(SOURCES[number % len(SOURCES)], 0))


def open_all(connect, count, path, **fields):
    """Opens `count` clients on what `connect` returns for each number."""
    found = []
    while len(found) < count:
        some = range(len(found), min(count, len(found) + OPENING_AT_ONCE))
        opening = [websocket.Client(connect(number), path, **fields) for number in some]
        found += [client.opened() for client in opening]
    return found


@contextlib.contextmanager
def opened(host, port, count, frame=None):
    """Opens `count` idle connections to `/echo` for the duration of the block. With `frame`, each has had it echoed."""
    offer = "permessage-deflate; client_max_window_bits"
    clients = open_all(over_tcp(host, port), count, "/echo", Sec_WebSocket_Extensions=offer)
    try:
        for client in clients if frame else ():
            client.socket.sendall(frame)
            if client.receive()[:2] != (frame[0] & 0xF, bool(frame[0] & 0x40)):
                raise SystemExit("an echo differs from its message in kind or compression")
        yield
    finally:
        for client in clients:
            client.close()


def write_record(name, schema="echoring.idle-memory/1", **figures):
    record = {"schema": schema, **figures, **machine.origin(), "cpu": machine.cpu_model(), "known_bias": KNOWN_BIAS}
    return machine.keep_json(name, record), record
