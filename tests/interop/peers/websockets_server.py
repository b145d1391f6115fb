"""Python's `websockets` as the server. `programs.py` describes its paths."""

import asyncio
import http
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MESSAGE_BYTES_MAX = 1 << 20


def target(request):
    parts = urlsplit(request.path)
    return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


def refuse(connection, request):
    path, query = target(request)
    if path == "/reject":
        return connection.respond(http.HTTPStatus(int(query["status"])), "refused\n")
    if path not in ("/echo", "/close", "/fragment", "/ping", "/push"):
        return connection.respond(http.HTTPStatus.NOT_FOUND, "no such path\n")
    return None


def choose(connection, offered):
    return "chat" if "chat" in offered else None


def split(message, parts):
    """Splits the message into this many pieces. Only the last may be empty or short."""
    length = -(-len(message) // parts)
    return [message[i * length : (i + 1) * length] for i in range(parts)]


async def handle(connection):
    path, query = target(connection.request)
    if path == "/close":
        await connection.close(int(query["code"]), query.get("reason", ""))
    if path == "/ping":
        await (await connection.ping("are you there?"))
        await connection.send("pong: are you there?")
    try:
        # Runs until the peer closes, which raises an exception.
        while path == "/push":
            await connection.send(json.dumps({"data": {"sent": time.time_ns()}}))
            await asyncio.sleep(float(query["ms"]) / 1000)
        async for message in connection:
            await connection.send(split(message, int(query["parts"])) if path == "/fragment" else message)
    except ConnectionClosed:
        pass


async def main():
    compression = "deflate" if "--compress" in sys.argv else None
    async with serve(
        handle,
        "127.0.0.1",
        0,
        process_request=refuse,
        select_subprotocol=choose,
        max_size=MESSAGE_BYTES_MAX,
        compression=compression,
    ) as server:
        print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
