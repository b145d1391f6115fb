"""Servers of tests on an event loop in a thread of their own."""

import asyncio
import threading

from harness import PATIENCE_S


class AsyncServer:
    """Listens within the block. A subclass has `listen`, which returns an asynchronous context manager with `sockets`."""

    def __init__(self):
        self.port = None
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set_result, None)
        self.thread.join(PATIENCE_S)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())

    async def _serve(self):
        self.stop = self.loop.create_future()
        async with await self.listen() as server:
            address = server.sockets[0].getsockname()
            # A Unix socket has a path instead.
            self.port = address[1] if isinstance(address, tuple) else None
            self.ready.set()
            await self.stop
