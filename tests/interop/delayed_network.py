"""Runs a server on a network that delays its packets, in a network namespace of its own, and prints the ages of its deliveries:
`delivery_ages` of `GET /stats` as JSON.

    delayed_network.py DELAY_MS FLAG...
"""

import json
import socket
import sys
import threading

from harness import Raw, Server, frame, wait_until
from tun_network import HERE, THERE, open_network, relay

SUBSCRIBERS, MESSAGES = 20, 150


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
        delay_of = lambda segment: delay_s if segment.source_port == server.port else 0  # noqa: E731
        threading.Thread(target=relay, args=(tun, delay_of), daemon=True).start()
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
