"""A network with one address in a network namespace of its own, made of a TUN device, that delays or loses chosen packets.

A packet to the other address of its net comes back with both addresses exchanged, which leaves its checksums as they are: so a client
that connects to the other address reaches a server on this one, and each sees the other at that address.
"""

import dataclasses
import fcntl
import functools
import heapq
import itertools
import os
import select
import struct
import subprocess
import time

from harness import PATIENCE_S

HERE, THERE = "10.9.0.1", "10.9.0.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


@functools.cache
def namespace():
    """The beginning of a command that runs in a network namespace of its own; None if this host does not allow one with a TUN device."""
    for words in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        probe = [*words, "sh", "-c", "ip tuntap add dev probe mode tun"]
        try:
            if subprocess.run(probe, capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0:
                return words
        except FileNotFoundError:
            return None
    return None


@dataclasses.dataclass
class Segment:
    """What a packet of TCP tells."""

    source_port: int
    port: int
    sequence: int
    payload_bytes: int

    @classmethod
    def of(cls, packet):
        header_bytes = 4 * (packet[0] & 15)
        source_port, port, sequence = struct.unpack_from("!HHI", packet, header_bytes)
        data_offset = 4 * (packet[header_bytes + 12] >> 4)
        return cls(source_port, port, sequence, len(packet) - header_bytes - data_offset)


def open_network():
    """Opens the device, in a namespace that has none."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"changed", IFF_TUN | IFF_NO_PI))
    for words in ("link set lo up", f"addr add {HERE}/24 dev changed", "link set changed up"):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def relay(tun, delay_of):
    """Returns each packet of TCP with its addresses exchanged after `delay_of(segment)` seconds; None loses it."""
    waiting, order = [], itertools.count()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tun, heapq.heappop(waiting)[2])
        timeout = waiting[0][0] - now if waiting else None
        if not select.select([tun], [], [], timeout)[0]:
            continue
        packet = os.read(tun, 65_536)
        if packet[0] >> 4 != 4:
            continue
        delay_s = delay_of(Segment.of(packet))
        if delay_s is not None:
            packet = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
            heapq.heappush(waiting, (time.monotonic() + delay_s, next(order), packet))
