"""Tornado's client, which agrees to `client_no_context_takeover` and keeps its window all the same."""

import asyncio
import unittest

from harness import PATIENCE_S, Server
from tornado.websocket import websocket_connect

# Like one another, so that a window that was kept makes the second refer to the first.
MESSAGES = [f"message {number}: " + "the quick brown fox jumps over the lazy dog, " * 10 for number in range(5)]


class Tornado(unittest.IsolatedAsyncioTestCase):
    denied = False

    async def echo(self, compress, offers):
        """Echoes of MESSAGES, as far as they come, and the code of the Close frame before the others."""
        with Server("--compress", compress, denied=self.denied) as server:
            client = await websocket_connect(server.url("/echo"), compression_options={} if offers else None)
            heard = []
            for message in MESSAGES:
                await client.write_message(message)
                answer = await asyncio.wait_for(client.read_message(), PATIENCE_S)
                if answer is None:
                    return heard, client.close_code
                heard.append(answer)
            client.close(1000)
            self.assertIsNone(await asyncio.wait_for(client.read_message(), PATIENCE_S))
            return heard, client.close_code

    async def test_it_is_served_where_windows_of_clients_are_kept(self):
        self.assertEqual(await self.echo("server_no_context_takeover", True), (MESSAGES, 1000))

    async def test_it_is_served_without_compression(self):
        self.assertEqual(await self.echo("on", False), (MESSAGES, 1000))
        self.assertEqual(await self.echo("off", True), (MESSAGES, 1000))

    async def test_a_window_that_it_was_told_not_to_keep_ends_with_1007(self):
        # When this fails, Tornado heeds the parameter, and README need not warn of it any more.
        heard, code = await self.echo("on", True)
        self.assertEqual((heard, code), (MESSAGES[:1], 1007))


class TornadoOnEpoll(Tornado):
    denied = True


if __name__ == "__main__":
    unittest.main()
