"""Tornado's client, which negotiates `client_no_context_takeover` but still uses context takeover."""

import asyncio
import unittest

from harness import PATIENCE_S, AsyncTest, Server
from tornado.websocket import websocket_connect

# Similar messages, so that with context takeover the second refers to the first.
MESSAGES = [f"message {number}: " + "the quick brown fox jumps over the lazy dog, " * 10 for number in range(5)]


class Tornado(AsyncTest):
    denied = False

    async def echo(self, compress, offers):
        """Returns the echoes of MESSAGES, up to a Close frame, and its code."""
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
        # If this fails, Tornado respects the parameter, and the documentation need no longer warn of it.
        heard, code = await self.echo("on", True)
        self.assertEqual((heard, code), (MESSAGES[:1], 1007))


class TornadoOnEpoll(Tornado):
    denied = True


if __name__ == "__main__":
    unittest.main()
