"""Python's `websockets` as the client."""

import steps
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


class Session:
    def __init__(self, connection):
        self.connection = connection
        self.subprotocol = connection.subprotocol
        self.compressed = bool(connection.protocol.extensions)
        self.send = connection.send
        self.fragments = connection.send
        self.receive = connection.recv

    async def ping(self, payload):
        await (await self.connection.ping(payload))

    async def close(self, code, reason):
        await self.connection.close(code, reason)
        return self.connection.protocol.close_rcvd.code

    async def wait_closed(self):
        try:
            raise AssertionError(f"a message instead of a close: {steps.brief(await self.connection.recv())}")
        except ConnectionClosed as closed:
            return closed.rcvd.code, closed.rcvd.reason


async def open(url, subprotocols, compress):
    options = {} if compress is None else {"compression": "deflate" if compress else None}
    try:
        return Session(await connect(url, subprotocols=subprotocols or None, max_size=None, proxy=None, **options))
    except InvalidStatus as refusal:
        raise steps.Refused(refusal.response.status_code) from None


if __name__ == "__main__":
    steps.main(open)
