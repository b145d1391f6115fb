"""Measures the time that a message needs from one process to the other, without load: a client that sends one request at a
time to the application, and compares its clock with the application's log. Only the standard library is needed."""

import json
import socket
import statistics
import time

import websocket

REQUESTS = 2_000


def ask(origin, text_bytes):
    """Sends requests one after the other. Returns when each answer had arrived, by id."""
    arrived = {}
    with websocket.connect(origin, "/", Authorization="Bearer user-0").socket as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(1, REQUESTS + 1):
            params = {"sent_us": time.time_ns() // 1000, "text": "x" * text_bytes}
            body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "quote", "params": params}).encode()
            # 7 + 16 bits of length. The mask is zero, and changes nothing.
            connection.sendall(bytes([0x81, 0x80 | 126]) + len(body).to_bytes(2, "big") + bytes(4) + body)
            connection.recv(4096)
            arrived[number] = time.time_ns()
    return arrived


def transport(log, arrived):
    """Medians, in nanoseconds, from sending to reading a request, and from writing an answer to its arrival."""
    return {
        "there_ns": statistics.median(request.read - request.sent for request in log.requests),
        "back_ns": statistics.median(arrived[request.id] - request.written for request in log.answered()),
    }
