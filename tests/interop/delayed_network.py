"""Runs a server behind a network that delays packets, in a network namespace of its own, and prints the ages of its deliveries.

    delayed_network.py DELAY_MS FLAG...

The network is a TUN device with one address. A packet to the other address of its net comes back with both addresses exchanged, which
leaves its checksums as they are: so a client that connects to the other address reaches the server on this one, and each sees the other
at that address. Packets from the server are delayed. Prints `delivery_ages` of `GET /stats` as JSON.
"""

import collections
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

from harness import Raw, Server, frame, wait_until

HERE, THERE = "10.9.0.1", "10.9.0.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SUBSCRIBERS, MESSAGES = 20, 150


def open_network():
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"delayed", IFF_TUN | IFF_NO_PI))
    for words in ("link set lo up", f"addr add {HERE}/24 dev delayed", "link set delayed up"):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def relay(tun, port, delay_s):
    """Returns each packet with its addresses exchanged: those from `port` after the delay."""
    waiting = collections.deque()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tun, waiting.popleft()[1])
        timeout = waiting[0][0] - now if waiting else None
        if not select.select([tun], [], [], timeout)[0]:
            continue
        packet = os.read(tun, 65_536)
        if packet[0] >> 4 != 4:
            continue
        header_bytes = 4 * (packet[0] & 15)
        (source_port,) = struct.unpack_from("!H", packet, header_bytes)
        packet = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
        if source_port == port:
            waiting.append((time.monotonic() + delay_s, packet))
        else:
            os.write(tun, packet)


class Subscriber(Raw):
    """Acknowledges everything at once, and reads it."""

    def __init__(self, server):
        super().__init__(server)
        threading.Thread(target=self._read_all, daemon=True).start()

    def _read_all(self):
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.open("/broadcast/delayed")
        while True:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if not self.socket.recv(65_536):
                return


def main():
    delay_s, flags = float(sys.argv[1]) / 1000, sys.argv[2:]
    tun = open_network()
    with Server(*flags, listen=f"{HERE}:0") as server:
        threading.Thread(target=relay, args=(tun, server.port, delay_s), daemon=True).start()
        publisher = Raw(server).open("/broadcast/delayed")
        server.host = THERE
        subscribers = [Subscriber(server) for _ in range(SUBSCRIBERS)]
        wait_until(lambda: server.stats()["node"]["subscriptions"] == 1 + len(subscribers), "all subscribe")

        def ages():
            return server.stats()["node"]["delivery_ages"]

        def is_sampled():
            publisher.send(frame(1, b"tick"))
            return ages().get("*", {}).get("acknowledged", {}).get("count", 0) >= SUBSCRIBERS * MESSAGES // 100

        wait_until(is_sampled, "samples", 60)
        print(json.dumps(ages()["*"]))


if __name__ == "__main__":
    main()
