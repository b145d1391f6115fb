#!/usr/bin/env python3
"""An echo server with a known capacity, for checks of `echoring capacity`.

It has WORKERS, each of which takes SERVICE_MS for a message, in virtual time: a message is answered when its worker would be done, and the
server never computes. So it holds WORKERS * 1000 / SERVICE_MS messages a second, whatever the CPU does; beyond that its queue grows.

    scripts/knee_server.py WORKERS SERVICE_MS      prints its URL
"""

import asyncio
import sys

sys.dont_write_bytecode = True
import websocket  # noqa: E402


class Workers:
    def __init__(self, number, service_ms):
        self.service_s = service_ms / 1000
        self.free_at = [0.0] * number
        self.next = 0

    def done_at(self, now):
        """When a message that arrives now is done. All take the same time, so the workers take turns."""
        done_at = max(now, self.free_at[self.next]) + self.service_s
        self.free_at[self.next] = done_at
        self.next = (self.next + 1) % len(self.free_at)
        return done_at


class Echo(asyncio.Protocol):
    def __init__(self, loop, workers):
        self.loop, self.workers = loop, workers
        self.waiting, self.is_open = b"", False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.waiting += data
        if not self.is_open and (upgrade := websocket.upgrade(self.waiting)):
            _, response, self.waiting = upgrade
            self.transport.write(response)
            self.is_open = True
        while self.is_open and (found := websocket.unmasked(self.waiting)):
            frame, self.waiting = found
            if frame[0] & 0x0F == websocket.CLOSE:
                self.transport.write(frame)
                self.transport.close()
                return
            self.loop.call_at(self.workers.done_at(self.loop.time()), self.answer, frame)

    def answer(self, frame):
        if not self.transport.is_closing():
            self.transport.write(frame)


async def serve(number, service_ms):
    loop, workers = asyncio.get_running_loop(), Workers(number, service_ms)
    server = await loop.create_server(lambda: Echo(loop, workers), "127.0.0.1", 0, backlog=1024)
    print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    # Ends with whoever started it.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
