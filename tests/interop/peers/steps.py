"""Runs checks of `matrix.py` with a Python client.

A client is a coroutine `open(url, subprotocols, compress)` that returns a session or raises `Refused`. A session has the attributes
`subprotocol` and `compressed`, and the methods `send`, `fragments`, `receive`, `ping`, `close` and `wait_closed`, one per step.
"""

import asyncio
import json
import sys

CHECK_S_MAX = 20


class Refused(Exception):
    """The upgrade was refused with this status."""

    def __init__(self, status):
        super().__init__(f"refused with {status}")
        self.status = status


def expand(kind, content):
    unit, times = content
    return unit * times if kind == "text" else bytes.fromhex(unit) * times


def brief(value):
    text = repr(value)
    return text if len(text) < 80 else f"{text[:70]}… ({len(value)} long)"


def same(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: {brief(found)} instead of {brief(wanted)}")


async def step(session, name, *arguments):
    """Runs one step. Returns whether it ended the connection."""
    match name, arguments:
        case "send", (kind, content):
            await session.send(expand(kind, content))
        case "fragments", (kind, contents):
            await session.fragments([expand(kind, content) for content in contents])
        case "expect", (kind, content):
            same(await session.receive(), expand(kind, content), "message")
        case "ping", (payload,):
            await session.ping(payload.encode())
        case "close", (code, reason):
            same(await session.close(code, reason), code, "the answer to our close code")
            return True
        case "expect_close", (code, reason):
            found_code, found_reason = await session.wait_closed()
            same(found_code, code, "close code")
            if reason is not None:
                same(found_reason, reason, "close reason")
            return True
        case _:
            raise AssertionError(f"unknown step {name}")
    return False


async def check(open, url, wanted):
    try:
        session = await open(url + wanted["path"], wanted.get("subprotocols", []), wanted.get("compress"))
    except Refused as refused:
        same(refused.status, wanted.get("refused", 101), "status")
        return
    same(101, wanted.get("refused", 101), "status")
    if "subprotocol" in wanted:
        same(session.subprotocol or "", wanted["subprotocol"], "subprotocol")
    if "compressed" in wanted:
        same(session.compressed, wanted["compressed"], "compressed")
    for name, *arguments in wanted["steps"]:
        if await step(session, name, *arguments):
            return
    await step(session, "close", 1000, "")


async def run(open):
    job = json.load(sys.stdin)
    for wanted in job["checks"]:
        result = {"name": wanted["name"]}
        try:
            await asyncio.wait_for(check(open, job["url"], wanted), CHECK_S_MAX)
        except Exception as problem:
            result["problem"] = f"{type(problem).__name__}: {problem}"
        print(json.dumps(result), flush=True)


def main(open):
    asyncio.run(run(open))
