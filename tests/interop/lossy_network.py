"""Runs a server and `bench` with these flags on a network that reorders or loses packets, in a network namespace of its own, and prints the
record of `bench` as JSON, with the packets of the generator that were `lost`, and those that it `repeated`.

    lossy_network.py reorder EVERY DELAY_MS FLAG...   of each EVERYth answer the first full packet arrives DELAY_MS after the others
    lossy_network.py lose EVERY 0 FLAG...             each EVERYth packet with data of the generator is lost
"""

import json
import subprocess
import sys
import threading

from harness import BINARY, Server
from tun_network import HERE, THERE, open_network, relay

# Larger packets are full ones.
FULL_BYTES = 1_400


class Reordering:
    """Delays full packets that follow a short one, which ended an answer."""

    def __init__(self, server_port, every, delay_s):
        self.server_port, self.every, self.delay_s = server_port, every, delay_s
        self.answers, self.begins, self.held = 0, {}, set()
        self.lost = self.repeated = 0

    def delay_of(self, segment):
        if segment.source_port != self.server_port or segment.payload_bytes == 0:
            return 0
        key = (segment.port, segment.sequence)
        if key in self.held:
            # The server sends again what is only late.
            return None
        begins = self.begins.get(segment.port, True)
        self.begins[segment.port] = segment.payload_bytes < FULL_BYTES
        if segment.payload_bytes < FULL_BYTES or not begins:
            return 0
        self.answers += 1
        if self.answers % self.every:
            return 0
        self.held.add(key)
        return self.delay_s


class Losing:
    """Loses packets of the generator, and counts those that it repeats."""

    def __init__(self, server_port, every, _):
        self.server_port, self.every = server_port, every
        self.sent, self.ends = 0, {}
        self.lost = self.repeated = 0

    def delay_of(self, segment):
        if segment.port != self.server_port or segment.payload_bytes == 0:
            return 0
        end = self.ends.get(segment.source_port)
        if end is not None and (segment.sequence - end) % 2**32 >= 2**31:
            self.repeated += 1
            return 0
        self.ends[segment.source_port] = segment.sequence + segment.payload_bytes
        self.sent += 1
        if self.sent % self.every:
            return 0
        self.lost += 1
        return None


def main():
    kind = {"reorder": Reordering, "lose": Losing}[sys.argv[1]]
    every, delay_s, flags = int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.argv[4:]
    tun = open_network()
    with Server(listen=f"{HERE}:0") as server:
        network = kind(server.port, every, delay_s)
        threading.Thread(target=relay, args=(tun, network.delay_of), daemon=True).start()
        command = [BINARY, "bench", f"ws://{THERE}:{server.port}/echo", *flags, "--allow-saturated", "--json", "-"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        record = json.loads(done.stdout)["runs"][0]
    print(json.dumps({"record": record, "lost": network.lost, "repeated": network.repeated}))


if __name__ == "__main__":
    main()
