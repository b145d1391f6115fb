"""picows as a peer: an echo, or with --broadcast a loop over those who asked for the same path.

    picows_server.py [--broadcast]     prints `listening ws://127.0.0.1:PORT ...` once it accepts connections
"""

import asyncio
import os
import sys

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# What ten thousand who come at once need.
BACKLOG = 4096

topics = {}


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


class Subscriber(WSListener):
    """Gets whole messages of its topic: its clients do not fragment."""

    def __init__(self, topic):
        super().__init__()
        self.topic = topic

    def on_ws_connected(self, transport: WSTransport):
        topics.setdefault(self.topic, set()).add(transport)

    def on_ws_disconnected(self, transport: WSTransport):
        members = topics.get(self.topic, set())
        members.discard(transport)
        if not members:
            topics.pop(self.topic, None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            payload = frame.get_payload_as_bytes()
            for member in topics[self.topic]:
                if member is not transport:
                    member.send(frame.msg_type, payload)


async def main():
    broadcast = "--broadcast" in sys.argv

    def listener(request: WSUpgradeRequest):
        return Subscriber(bytes(request.path)) if broadcast else Echo()

    server = await ws_create_server(
        listener, "127.0.0.1", 0, max_frame_size=MESSAGE_BYTES_MAX, backlog=BACKLOG, disconnect_on_exception=True
    )
    port = server.sockets[0].getsockname()[1]
    print(f"listening ws://127.0.0.1:{port} driver=epoll shards=1 pid={os.getpid()}", flush=True)
    await server.serve_forever()


asyncio.run(main())
