"""picows as the client. Its API has frames, so this program assembles messages. It has no compression."""

import asyncio

import picows
import steps
from picows import WSMsgType


class Session(picows.WSListener):
    """Collects frames in `on_ws_frame`. Returns messages, pongs and closes in their order."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.kind = None
        self.parts = bytearray()
        self.compressed = False

    def on_ws_frame(self, transport, frame):
        kind, payload = frame.msg_type, frame.get_payload_as_bytes()
        if kind == WSMsgType.PING:
            transport.send_pong(payload)
        elif kind == WSMsgType.PONG:
            self.events.put_nowait(("pong", payload))
        elif kind == WSMsgType.CLOSE:
            self.events.put_nowait(("close", (int(frame.get_close_code()), (frame.get_close_message() or b"").decode())))
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            self.kind = kind if kind != WSMsgType.CONTINUATION else self.kind
            self.parts += payload
            if frame.fin:
                message = bytes(self.parts)
                self.parts.clear()
                self.events.put_nowait(("message", message.decode() if self.kind == WSMsgType.TEXT else message))

    def on_ws_disconnected(self, transport):
        self.events.put_nowait(("end", None))

    async def next(self, wanted):
        event, value = await self.events.get()
        steps.same(event, wanted, f"what came ({steps.brief(value)})")
        return value

    async def send(self, message):
        await self.fragments([message])

    async def fragments(self, parts):
        for number, part in enumerate(parts):
            kind = WSMsgType.TEXT if isinstance(part, str) else WSMsgType.BINARY
            data = part.encode() if isinstance(part, str) else part
            fin = number == len(parts) - 1
            self.transport.send(kind if number == 0 else WSMsgType.CONTINUATION, data, fin)

    async def receive(self):
        return await self.next("message")

    async def ping(self, payload):
        self.transport.send_ping(payload)
        steps.same(await self.next("pong"), payload, "pong")

    async def close(self, code, reason):
        self.transport.send_close(picows.WSCloseCode(code) if code < 1016 else code, reason.encode())
        code, _ = await self.next("close")
        return code

    async def wait_closed(self):
        return await self.next("close")


async def open(url, subprotocols, compress):
    headers = {"Sec-WebSocket-Protocol": ", ".join(subprotocols)} if subprotocols else None
    try:
        transport, session = await picows.ws_connect(Session, url, extra_headers=headers)
    except picows.WSInvalidStatusError as refusal:
        raise steps.Refused(refusal.response.status) from None
    session.transport = transport
    session.subprotocol = transport.response.headers.get("Sec-WebSocket-Protocol")
    return session


if __name__ == "__main__":
    steps.main(open)
