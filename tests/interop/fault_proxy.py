"""A WebSocket proxy that plants faults among the answers of a server, and counts them exactly."""

import asyncio
import contextlib
import re

import websockets
from async_server import AsyncServer
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

# A character of a generated payload behind its header of twelve digits; it becomes another one.
CHANGED_BYTE = re.compile(rb"(?<=[0-O]{12})[A-Za-z0-9 -](?=[A-Za-z0-9 -]{40})")


class FaultProxy(AsyncServer):
    """Between clients and the server at `upstream`, within the block.

    `answers` is a regular expression of the messages among which faults are planted. `faults` says which: `lost=50` drops each fiftieth answer of
    a connection, `duplicated` sends it twice, `swapped` sends it behind the next, `changed` alters a letter, `delayed` sends it after `delay_s`.
    An answer has one fault at most, and the first `spared` answers of a connection have none. `planted` counts them. With `cut`, messages of
    the server are sent in WebSocket messages of so many bytes or characters, without faults.
    """

    KINDS = ("lost", "duplicated", "swapped", "changed", "delayed")

    def __init__(self, upstream, answers, delay_s=0.3, spared=0, cut=None, **faults):
        super().__init__()
        assert set(faults) <= set(self.KINDS), faults
        self.upstream, self.answers = upstream, re.compile(answers, re.DOTALL)
        self.delay_s, self.spared, self.cut, self.faults = delay_s, spared, cut, faults
        self.planted = dict.fromkeys(self.KINDS, 0)

    async def listen(self):
        pick = lambda _, offered: offered[0] if offered else None  # noqa: E731
        options = {"select_subprotocol": pick, "compression": None, "max_size": None, "ping_interval": None}
        return serve(self._relay, "127.0.0.1", 0, **options)

    @property
    def url(self):
        return re.sub(r"^ws://[^/]*", f"ws://127.0.0.1:{self.port}", self.upstream)

    async def _relay(self, client):
        subprotocols = [client.subprotocol] if client.subprotocol else None
        async with connect(
            self.upstream, subprotocols=subprotocols, compression=None, max_size=None, ping_interval=None
        ) as server:
            both = [self._up(client, server), self._down(client, server)]
            done, rest = await asyncio.wait(map(asyncio.ensure_future, both), return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            await asyncio.gather(*done, *rest, return_exceptions=True)

    async def _up(self, client, server):
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in client:
                await server.send(message)

    async def _down(self, client, server):
        seen, held, later = 0, None, set()

        def start(sending):
            task = asyncio.ensure_future(sending)
            later.add(task)
            task.add_done_callback(later.discard)

        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in server:
                if self.cut:
                    for at in range(0, len(message), self.cut):
                        await client.send(message[at : at + self.cut])
                    continue
                raw = message.encode() if isinstance(message, str) else message
                if not self.answers.search(raw):
                    await client.send(message)
                    continue
                seen += 1
                if held is not None and not held.done():
                    await client.send(message)
                    held.set_result(True)
                    continue
                fault = self._fault(seen)
                if fault == "swapped":
                    held = self.loop.create_future()
                    start(self._swapped(client, message, held))
                    continue
                if fault == "changed":
                    changed = CHANGED_BYTE.sub(lambda found: b"x" if found[0] != b"x" else b"y", raw, count=1)
                    assert changed != raw, raw
                    await client.send(changed.decode() if isinstance(message, str) else changed)
                elif fault == "delayed":
                    start(self._later(client, message))
                elif fault != "lost":
                    for _ in range(2 if fault == "duplicated" else 1):
                        await client.send(message)
                if fault:
                    self.planted[fault] += 1

    def _fault(self, seen):
        for fault, every in self.faults.items():
            if seen > self.spared and seen % every == 0:
                return fault
        return None

    async def _swapped(self, client, message, behind):
        """Sends a message when the next one was sent, or alone if there is none."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(behind, self.delay_s)
            self.planted["swapped"] += 1
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send(message)

    async def _later(self, client, message):
        await asyncio.sleep(self.delay_s)
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send(message)
