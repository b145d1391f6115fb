"""Five kinds of messages as they are broadcast, for measurements of compression. The same seed gives the same messages."""

import json
import random
import struct

SEED = 7
SYMBOLS = [f"{base}{quote}" for base in ("BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "LTC", "UNI") for quote in ("USDT", "EUR", "BTC")]
WORDS = (
    "the a and but so we you they it this that is was are have has will would can could should not very really just maybe about with for from "
    "on in at to of game server map team score match player level build release test bug fix deploy time today tomorrow meeting coffee lunch "
    "great good bad slow fast nice thanks sorry hello question answer idea problem works broken again please check look see think know"
).split()
SERVICES = ("gateway", "billing", "search", "sessions", "catalogue", "mailer")
ROUTES = ("/v1/orders", "/v1/orders/{id}", "/v1/users/{id}", "/v1/search", "/healthz", "/v1/cart/{id}/items")
COMPACT = (",", ":")


def ticker(dice, number):
    """A trade of an exchange: about 130 bytes of JSON."""
    symbol = dice.choice(SYMBOLS)
    price = 100 + SYMBOLS.index(symbol) * 37 + dice.gauss(0, 1)
    trade = {
        "e": "trade", "E": 1_764_000_000_000 + number * 7, "s": symbol, "t": 9_000_000 + number, "p": f"{price:.4f}",
        "q": f"{dice.expovariate(1):.5f}", "T": 1_764_000_000_000 + number * 7 - dice.randrange(5), "m": dice.random() < 0.5,
    }  # fmt: skip
    return json.dumps(trade, separators=COMPACT).encode()


def chat(dice, number):
    """A line of a chat: about 150 bytes of JSON."""
    text = " ".join(dice.choice(WORDS) for _ in range(dice.randrange(3, 16)))
    line = {"id": f"{dice.getrandbits(48):012x}", "user": f"user{dice.randrange(200)}", "room": "lobby", "text": text, "at": 1_764_000_000 + number // 3}
    return json.dumps(line, separators=COMPACT).encode()


def positions(dice, number):
    """The position of a vehicle: about 130 bytes of JSON."""
    vehicle = dice.randrange(300)
    place = {
        "id": f"veh-{vehicle:04}", "lat": round(48.1 + vehicle / 5_000 + dice.gauss(0, 0.002), 6), "lon": round(11.5 + vehicle / 4_000 + dice.gauss(0, 0.002), 6),
        "speed": round(abs(dice.gauss(38, 14)), 1), "heading": dice.randrange(360), "ts": 1_764_000_000_000 + number * 41,
    }  # fmt: skip
    return json.dumps(place, separators=COMPACT).encode()


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, content):
    """A field of protobuf: bytes, a number, or a double."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if isinstance(content, float):
        return varint(number << 3 | 1) + struct.pack("<d", content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def centrifuge(dice, number):
    """A publication of Centrifuge's client protocol in protobuf, whose data is protobuf too: about 100 bytes."""
    entity = dice.randrange(64)
    state = field(1, f"entity-{entity}".encode()) + field(2, dice.gauss(100, 30)) + field(3, dice.gauss(100, 30)) + field(4, dice.randrange(100)) + field(5, b"running")
    publication = field(4, state) + field(6, number + 1)
    push = field(2, b"game:arena.eu-west.1") + field(4, publication)
    return field(4, push)


def logs(dice, number):
    """A line of a log: about 190 bytes of text."""
    service, route = dice.choice(SERVICES), dice.choice(ROUTES).replace("{id}", str(dice.randrange(10_000)))
    level = dice.choices(("INFO", "WARN", "ERROR"), (90, 8, 2))[0]
    return (
        f"2026-11-27T20:{number // 600 % 60:02}:{number // 10 % 60:02}.{dice.randrange(1000):03}Z {level} {service}-{dice.randrange(4)} request completed method=GET route={route} "
        f"status={dice.choices((200, 404, 500), (95, 4, 1))[0]} duration_ms={dice.expovariate(0.05):.2f} trace={dice.getrandbits(64):016x}"
    ).encode()


KINDS = {"ticker": ticker, "chat": chat, "positions": positions, "centrifuge": centrifuge, "logs": logs}
# Kinds that are sent as binary messages. The others are text.
BINARY = ("centrifuge",)


def messages(kind, count):
    dice = random.Random(f"{SEED} {kind}")
    return [KINDS[kind](dice, number) for number in range(count)]
