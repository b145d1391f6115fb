"""aiohttp as the client, with the reader and writer of its responses.

Its public API shows pongs only if its automatic answers to pings are off, and does not send fragments. So this program answers
pings, and does not support fragments.
"""

import aiohttp
import steps
from aiohttp import WSMsgType


class Session:
    def __init__(self, session, response):
        self.session = session
        self.response = response
        self.subprotocol = response.protocol
        self.compressed = response.compress > 0

    async def send(self, message):
        await (self.response.send_str if isinstance(message, str) else self.response.send_bytes)(message)

    async def next(self):
        while True:
            message = await self.response.receive()
            if message.type != WSMsgType.PING:
                return message
            await self.response.pong(message.data)

    async def receive(self):
        message = await self.next()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            raise AssertionError(f"{message!r} instead of a message")
        return message.data

    async def ping(self, payload):
        await self.response.ping(payload)
        message = await self.next()
        steps.same((message.type, bytes(message.data)), (WSMsgType.PONG, payload), "pong")

    async def close(self, code, reason):
        await self.response.close(code=code, message=reason.encode())
        await self.session.close()
        return self.response.close_code

    async def wait_closed(self):
        message = await self.next()
        steps.same(message.type, WSMsgType.CLOSE, "what came")
        await self.response.close(code=message.data)
        await self.session.close()
        return message.data, message.extra


async def open(url, subprotocols, compress):
    session = aiohttp.ClientSession()
    try:
        response = await session.ws_connect(
            url,
            protocols=subprotocols,
            compress=15 if compress else 0,
            autoping=False,
            autoclose=False,
            max_msg_size=0,
        )
        return Session(session, response)
    except aiohttp.WSServerHandshakeError as refusal:
        await session.close()
        raise steps.Refused(refusal.status) from None


if __name__ == "__main__":
    steps.main(open)
