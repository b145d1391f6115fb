"""Every test endpoint of `serve` and every error of its parameters, as docs/reference/endpoints.md describes them."""

import asyncio
import json
import re
import socket
import struct
import time
import unittest
import urllib.parse

from harness import PATIENCE_S, AsyncTest, Raw, Server, frame, wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


def headers_of(status_error):
    return status_error.exception.response.headers


class Endpoints(AsyncTest):
    denied = False

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--log", "warn,echoring_admin=info", denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def connect(self, path, **options):
        options = {"compression": None, "open_timeout": PATIENCE_S, "max_size": None, "ping_interval": None} | options
        return connect(self.server.url(path), **options)

    def get(self, path, method="GET"):
        return self.server.get(path, method, (self.server.host, self.server.port))

    async def recv(self, client):
        return await asyncio.wait_for(client.recv(), PATIENCE_S)

    async def closed(self, client):
        """Waits for the end of the connection. Returns close code and reason."""
        with self.assertRaises(ConnectionClosed) as ended:
            while True:
                await self.recv(client)
        received = ended.exception.rcvd
        return (received.code, received.reason) if received else (1006, "")

    async def refused(self, path, **options):
        """Status and body of a refusal."""
        with self.assertRaises(InvalidStatus) as refusal:
            await self.connect(path, **options)
        response = refusal.exception.response
        return response.status_code, response.body.decode()

    # ---- flow ----

    async def test_sink_takes_all_and_tells_how_much(self):
        async with self.connect("/sink?every=3") as client:
            await client.send("abc")
            await client.send(b"\x00" * 60_000)
            await client.send(["in ", "three ", "parts"])
            self.assertEqual(json.loads(await self.recv(client)), {"messages": 3, "bytes": 60_017})
        async with self.connect("/sink") as client:
            await client.send("nothing comes back")
            await (await client.ping())
            await client.close()
            self.assertEqual(await self.closed(client), (1000, ""))

    async def test_source_sends_numbered_messages_at_its_rate(self):
        started = time.monotonic()
        async with self.connect("/source?rate=100&bytes=6&count=30") as client:
            for number in range(30):
                self.assertEqual(await self.recv(client), str(number).ljust(6, "."))
            self.assertEqual(await self.closed(client), (1000, "that was all"))
        # 30 messages take 29 intervals of 10 ms; slow machines take longer.
        self.assertGreaterEqual(time.monotonic() - started, 0.28)

    async def test_source_sends_binary_too(self):
        async with self.connect("/source?rate=1000&bytes=20&kind=binary") as client:
            for number in range(5):
                self.assertEqual(await self.recv(client), struct.pack("!Q", number) + bytes(12))
        async with self.connect("/source?bytes=0") as client:
            self.assertEqual(await self.recv(client), "")

    async def test_source_waits_for_a_peer_that_does_not_read_and_leaves_nothing_out(self):
        with Raw(self.server).open("/source?rate=100000&bytes=65536&kind=binary&count=500") as peer:
            # More than all buffers on the path hold, so the server must have waited.
            while self.server.stats()["node"]["short_sends"] == 0:
                pass
            for number in range(500):
                first, payload = peer.read_frame()
                self.assertEqual((first, payload[:8]), (0x82, struct.pack("!Q", number)))
            self.assertEqual(peer.read_frame(), (0x88, struct.pack("!H", 1000) + b"that was all"))

    async def test_delay_sends_back_later_and_in_order(self):
        async with self.connect("/delay?ms=200") as client:
            started = time.monotonic()
            for number in range(50):
                await client.send(str(number))
            await client.send(b"last")
            for number in range(50):
                self.assertEqual(await self.recv(client), str(number))
                self.assertGreaterEqual(time.monotonic() - started, 0.2)
            self.assertEqual(await self.recv(client), b"last")

    async def test_delay_holds_up_who_sends_too_much_and_loses_nothing(self):
        # Few bytes: if the kernel's buffers of both directions fill up, TCP may take a minute to recover.
        before = self.server.stats()["node"]["pauses"]
        async with self.connect("/delay?ms=2000") as client:
            messages = []
            while self.server.stats()["node"]["pauses"] == before:
                more = [str(len(messages) + i) for i in range(300)]
                await self.send_all(client, more)
                messages += more
            for message in messages:
                self.assertEqual(await self.recv(client), message)

    async def send_all(self, client, messages):
        for message in messages:
            await client.send(message)

    async def test_delay_of_nothing_is_an_echo(self):
        async with self.connect("/delay?ms=0") as client:
            await client.send("now")
            self.assertEqual(await self.recv(client), "now")

    async def test_slow_read_takes_no_more_than_its_rate(self):
        message = b"x" * 16_384
        async with self.connect("/slow-read?bytes_per_s=1048576") as client:
            # Data for four seconds, of which one receive and the buffers of both sides take some hundred KiB at once.
            started = time.monotonic()
            for _ in range(256):
                await client.send(message)
            # The pong comes when everything before the ping was read.
            await asyncio.wait_for(await client.ping(), PATIENCE_S)
            self.assertGreater(time.monotonic() - started, 1.5)

    async def test_slow_read_does_not_hold_up_a_close(self):
        with Raw(self.server).open("/slow-read?bytes_per_s=64") as peer:
            # At once, because the server reads nothing for 15 s after the message.
            peer.send(frame(2, bytes(1_000)) + frame(8, struct.pack("!H", 1000)))
            self.assertEqual(peer.read_close(), 1000)
        with Server(admin="off", denied=self.denied) as server:
            async with connect(server.url("/slow-read?bytes_per_s=64"), compression=None) as client:
                await client.send(b"x" * 65_000)
                server.terminate()
                self.assertEqual((await self.closed(client))[0], 1001)
                self.assertEqual(server.wait(), 0)

    # ---- what is said ----

    async def test_close_closes_as_it_was_asked(self):
        for path, expected in [
            ("/close", (1000, "")),
            ("/close?code=1001", (1001, "")),
            ("/close?code=4999&reason=so%20long%21%20%F0%9F%91%8B", (4999, "so long! 👋")),
            (f"/close?code=1011&reason={'x' * 123}", (1011, "x" * 123)),
        ]:
            async with self.connect(path) as client:
                self.assertEqual(await self.closed(client), expected, path)

    async def test_reject_refuses_with_the_status_that_was_asked_for(self):
        self.assertEqual(await self.refused("/reject"), (403, "rejected with 403, as asked\n"))
        for status in (200, 400, 404, 418, 500, 599):
            self.assertEqual((await self.refused(f"/reject?status={status}"))[0], status)
            self.assertEqual(self.get(f"/reject?status={status}")[0], status)
        for status, name, value in [
            (302, "Location", "/echo"),
            (401, "WWW-Authenticate", 'Basic realm="echoring"'),
            (503, "Retry-After", "1"),
        ]:
            got, headers, _ = self.get(f"/reject?status={status}")
            self.assertEqual((got, headers[name]), (status, value))

    async def test_fragment_sends_each_message_in_so_many_frames(self):
        with Raw(self.server).open("/fragment?parts=3") as peer:
            peer.send(frame(1, b"abcdefgh") + frame(2, b"x") + frame(1))
            for expected in [b"ab", b"cde", b"fgh"], [b"", b"", b"x"], [b"", b"", b""]:
                frames = [peer.read_frame() for _ in range(3)]
                self.assertEqual([payload for _, payload in frames], expected)
                self.assertEqual([first & 0x80 for first, _ in frames], [0, 0, 0x80])
                self.assertEqual([first & 0x0F for first, _ in frames][1:], [0, 0])
        async with self.connect("/fragment?parts=1024") as client:
            await client.send("ü" * 3_000)
            self.assertEqual(await self.recv(client), "ü" * 3_000)
        async with self.connect("/fragment", compression="deflate") as client:
            await client.send("compressed " * 100)
            self.assertEqual(await self.recv(client), "compressed " * 100)

    async def test_fragments_to_a_slow_reader_are_bounded_and_complete(self):
        with Raw(self.server).open("/fragment?parts=64") as peer:
            messages = 20_000
            # All frames but the last are empty: each message of one byte becomes 129 bytes.
            echo = b"\x02\x00" + 62 * b"\x00\x00" + b"\x80\x01x"
            pauses = lambda: self.server.stats()["node"]["pauses"]
            before = pauses()
            peer.send(frame(2, b"x") * messages)
            wait_until(lambda: pauses() > before, "the server reads no more")
            for _ in range(messages):
                self.assertEqual(peer.read_exactly(len(echo)), echo)

    async def test_ping_storm_pings_and_echoes(self):
        with Raw(self.server).open("/ping-storm?rate=500&bytes=12") as peer:
            for number in range(10):
                self.assertEqual(peer.read_frame(), (0x89, struct.pack("!Q", number) + bytes(4)))
            peer.send(frame(1, b"beside"))
            first, payload = peer.read_frame()
            while first == 0x89:
                first, payload = peer.read_frame()
            self.assertEqual((first, payload), (0x81, b"beside"))

    async def test_a_pong_behind_a_close_causes_no_reset(self):
        # Firefox sends one for a ping that came when it was closing. A reset could overtake the server's Close frame.
        for close in (b"\x03\xe8", b""):
            with Raw(self.server).open("/ping-storm?rate=1") as peer:
                self.assertEqual(peer.read_frame()[0], 0x89)
                peer.send(frame(8, close))
                self.assertEqual(peer.read_frame(), (0x88, close))
                self.assertEqual(peer.socket.recv(1), b"")
                for number in range(3):
                    peer.send(frame(10, bytes(number)))
                    self.server.stats()
                    self.assertEqual(peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)

    async def test_abort_ends_without_a_close(self):
        async with self.connect("/abort?after=2") as client:
            await client.send("one")
            await client.send("two")
            self.assertEqual([await self.recv(client), await self.recv(client)], ["one", "two"])
            self.assertEqual(await self.closed(client), (1006, ""))
        for path in "/abort?after=0", "/abort?ms=0", "/abort?ms=20", "/abort?ms=20&after=5":
            async with self.connect(path) as client:
                self.assertEqual(await self.closed(client), (1006, ""), path)
        async with self.connect("/abort?ms=3000") as client:
            for _ in range(3):
                await client.send("messages do not count")
                self.assertEqual(await self.recv(client), "messages do not count")
            self.assertEqual(await self.closed(client), (1006, ""))

    async def test_headers_are_the_request(self):
        status, headers, body = self.get("/headers")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        request = json.loads(body)
        self.assertEqual((request["method"], request["target"], request["path"]), ("GET", "/headers", "/headers"))
        self.assertIn(["Host", f"{self.server.host}:{self.server.port}"], request["headers"])
        async with self.connect("/headers", additional_headers=[("X-Twice", "a"), ("X-Twice", 'b"')]) as client:
            request = json.loads(await self.recv(client))
            self.assertEqual([value for name, value in request["headers"] if name == "X-Twice"], ["a", 'b"'])
            await client.send("an echo from then on")
            self.assertEqual(await self.recv(client), "an echo from then on")
        self.assertEqual(self.get("/headers", "HEAD")[2], b"")

    async def test_subprotocol_names_what_was_agreed_on(self):
        for path, offered, expected in [
            ("/subprotocol", ["b", "a"], "b"),
            ("/subprotocol", [], None),
            ("/subprotocol?supported=a,b", ["b", "a"], "a"),
            ("/subprotocol?supported=a,b&preference=client", ["b", "a"], "b"),
            ("/subprotocol?supported=c", ["b", "a"], None),
        ]:
            async with self.connect(path, subprotocols=offered or None) as client:
                self.assertEqual(client.subprotocol, expected, path)
                self.assertEqual(await self.recv(client), expected or "")

    async def test_push_beats_at_once_and_again_beside_an_echo(self):
        async with self.connect("/push?ms=50") as client:
            await client.send("echo")
            heard = []
            while "echo" not in heard or heard.count("heart beat") < 4:
                heard.append(await self.recv(client))
            self.assertEqual(heard[0], "heart beat")
            self.assertEqual(sorted(set(heard)), ["echo", "heart beat"])
            self.assertEqual(heard.count("echo"), 1)
        async with self.connect("/push") as client:
            self.assertEqual(await self.recv(client), "heart beat")

    # ---- parameters ----

    async def test_every_wrong_parameter_gets_400_with_the_reason(self):
        number = "must be a whole number from {} to {}, and not \"{}\""
        cases = [
            ("/sink", "every", "0", number.format(1, 1_000_000, 0)),
            ("/sink", "every", "x", number.format(1, 1_000_000, "x")),
            ("/source", "rate", "0", number.format(1, 100_000, 0)),
            ("/source", "rate", "100001", number.format(1, 100_000, 100_001)),
            ("/source", "bytes", "1048577", number.format(0, 1_048_576, 1_048_577)),
            ("/source", "bytes", "-1", number.format(0, 1_048_576, -1)),
            ("/source", "count", "0", number.format(1, 1_000_000, 0)),
            ("/source", "kind", "json", 'must be one of text, binary, and not "json"'),
            ("/delay", "ms", "60001", number.format(0, 60_000, 60_001)),
            ("/delay", "ms", "1.5", number.format(0, 60_000, "1.5")),
            ("/slow-read", "bytes_per_s", "63", number.format(64, 1 << 30, 63)),
            ("/slow-read", "bytes_per_s", str((1 << 30) + 1), number.format(64, 1 << 30, (1 << 30) + 1)),
            ("/close", "code", "65536", number.format(0, 65_535, 65_536)),
            ("/close", "reason", "x" * 124, "must be percent-encoded UTF-8 of at most 123 bytes"),
            ("/close", "reason", "%ff", 'must be percent-encoded UTF-8 of at most 123 bytes, and not "%ff"'),
            ("/reject", "status", "199", number.format(200, 599, 199)),
            ("/reject", "status", "600", number.format(200, 599, 600)),
            ("/reject", "status", "204", "must be 200, 301, 302, 303, 307, 308 or from 400 to 599"),
            ("/reject", "status", "304", "must be 200, 301, 302, 303, 307, 308 or from 400 to 599"),
            ("/fragment", "parts", "0", number.format(1, 1_024, 0)),
            ("/fragment", "parts", "1025", number.format(1, 1_024, 1_025)),
            ("/ping-storm", "rate", "1001", number.format(1, 1_000, 1_001)),
            ("/ping-storm", "bytes", "126", number.format(0, 125, 126)),
            ("/abort", "after", "1000001", number.format(0, 1_000_000, 1_000_001)),
            ("/abort", "ms", "", number.format(0, 60_000, "")),
            ("/subprotocol", "supported", "a,,b", 'must be comma-separated names, and not ""'),
            ("/subprotocol", "preference", "mine", 'must be one of server, client, and not "mine"'),
            ("/push", "ms", "9", number.format(10, 60_000, 9)),
            ("/push", "ms", "60001", number.format(10, 60_000, 60_001)),
        ]
        may_be_sent = "must be a code that may be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999"
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535):
            cases.append(("/close", "code", str(code), f'{may_be_sent}, and not "{code}"'))
        for path, name, value, reason in cases:
            status, body = await self.refused(f"{path}?{name}={value}")
            self.assertEqual(status, 400, f"{path}?{name}={value}")
            self.assertTrue(body.startswith(f"{name}: {reason}"), f"{path}?{name}={value}: {body}")

    async def test_the_bounds_of_parameters_are_values(self):
        for path, names in {
            "/sink": {"every": (1, 1_000_000)},
            "/source": {"rate": (1, 100_000), "bytes": (0, 1_048_576), "count": (1, 1_000_000)},
            "/delay": {"ms": (0, 60_000)},
            "/slow-read": {"bytes_per_s": (64, 1 << 30)},
            "/fragment": {"parts": (1, 1_024)},
            "/ping-storm": {"rate": (1, 1_000), "bytes": (0, 125)},
            "/push": {"ms": (10, 60_000)},
            "/abort": {"after": (0, 1_000_000), "ms": (0, 60_000)},
        }.items():
            for name, bounds in names.items():
                for value in bounds:
                    with Raw(self.server) as peer:
                        self.assertEqual(peer.upgrade(f"{path}?{name}={value}")[0], 101, f"{path}?{name}={value}")

    async def test_reject_has_the_fields_of_each_status(self):
        fields = {
            **dict.fromkeys((301, 302, 303, 307, 308), ("Location", "/echo")),
            401: ("WWW-Authenticate", 'Basic realm="echoring"'),
            426: ("Upgrade", "websocket"),
            **dict.fromkeys((429, 503), ("Retry-After", "1")),
        }
        for status in (200, 301, 302, 303, 307, 308, *range(400, 600)):
            name, value = fields.get(status, ("Location", None))
            got, headers, _ = self.get(f"/reject?status={status}")
            self.assertEqual((got, headers[name]), (status, value))
            with Raw(self.server) as peer:
                got, headers = peer.upgrade(f"/reject?status={status}")
                self.assertEqual((got, headers.get(name.lower())), (status, value))

    async def test_unknown_and_repeated_parameters_get_400(self):
        known = {
            "sink": "every",
            "source": "rate, bytes, kind, count",
            "delay": "ms",
            "slow-read": "bytes_per_s",
            "close": "code, reason",
            "reject": "status",
            "fragment": "parts",
            "ping-storm": "rate, bytes",
            "abort": "after, ms",
            "headers": "none",
            "subprotocol": "supported, preference",
            "push": "ms",
        }
        for path, names in known.items():
            status, body = await self.refused(f"/{path}?colour=red")
            self.assertEqual((status, body), (400, f"colour: unknown parameter; known here: {names}\n"), path)
            first = names.split(",")[0]
            if first != "none":
                status, body = await self.refused(f"/{path}?{first}=1&{first}=1")
                self.assertEqual((status, body), (400, f"{first}: given twice\n"), path)
        self.assertEqual(self.get("/headers?x=1")[0], 400)

    async def test_without_an_upgrade_they_are_told_what_they_need(self):
        for path in "/sink", "/source", "/delay", "/close", "/push", "/slow-read":
            self.assertEqual(self.get(path)[0], 426, path)
        self.assertEqual(self.get("/headers", "POST")[0], 405)

    async def test_headers_leaves_credentials_out(self):
        sent = [
            ("Cookie", "session=s3cr3t"),
            ("Authorization", "Basic s3cr3t"),
            ("Proxy-Authorization", "Basic s3cr3t"),
            ("X-Forwarded-Access-Token", "s3cr3t"),
            ("X-Plain", "shown"),
        ]
        for offered, shown in (
            (["chat", "bearer", "s3cr3t"], "chat"),
            # As Kubernetes clients do, with the token in the name, which may be first or last in the list.
            (["v4.channel.k8s.io", "base64url.bearer.authorization.k8s.io.s3cr3t"], "v4.channel.k8s.io"),
            (["base64url.bearer.authorization.k8s.io.s3cr3t", "v4.channel.k8s.io", "chat"], "chat"),
            (["access_token", "s3cr3t", "chat"], "chat"),
            (["one", "two.v1"], "one, two.v1"),
        ):
            async with self.connect("/headers", additional_headers=sent, subprotocols=offered) as client:
                text = await asyncio.wait_for(client.recv(), PATIENCE_S)
            self.assertNotIn("s3cr3t", text, offered)
            fields = {name.lower(): value for name, value in json.loads(text)["headers"]}
            self.assertEqual((fields["x-plain"], fields["sec-websocket-protocol"]), ("shown", shown), offered)
            for name, _ in sent[:-1]:
                self.assertNotIn(name.lower(), fields)

    async def test_they_keep_to_the_origins_of_the_server(self):
        status, _ = await self.refused("/push", origin="https://elsewhere.example")
        self.assertEqual(status, 403)

    async def test_none_of_them_is_there_when_they_are_off(self):
        # On an address that is not loopback they are off by default.
        for flags in (("--demo", "off"), ("--listen", "0.0.0.0:0")):
            with Server(*flags, admin="off", denied=self.denied) as server:
                for path in "/sink", "/push", "/headers", "/reject", "/page.css", "/broadcast.js":
                    status, _, _ = server.get(path, address=("127.0.0.1", server.port))
                    self.assertEqual(status, 404, (flags, path))
                for path in "/", "/broadcast":
                    status, _, _ = server.get(path, address=("127.0.0.1", server.port))
                    self.assertEqual(status, 426, (flags, path))
                for path in "/", "/echo", "/broadcast/topic?self=1":
                    async with connect(f"ws://127.0.0.1:{server.port}{path}", compression=None) as client:
                        await client.send("still there")
                        self.assertEqual(await client.recv(), "still there")

    async def test_they_are_there_on_every_address_where_that_is_asked_for(self):
        with Server("--listen", "0.0.0.0:0", "--demo", "on", admin="off", denied=self.denied) as server:
            for path, status in (("/headers", 200), ("/sink", 426), ("/", 200), ("/broadcast", 200)):
                self.assertEqual(server.get(path, address=("127.0.0.1", server.port))[0], status, path)
            # A server that listens for other machines has names of its own.
            name = {"Host": "node.example"}
            self.assertEqual(server.get("/headers", address=("127.0.0.1", server.port), headers=name)[0], 200)

    async def test_each_page_links_to_the_others(self):
        pages = ("/", "/broadcast")
        for page in pages:
            status, _, body = self.get(page)
            self.assertEqual(status, 200, page)
            links = re.findall(r'<a [^>]*href="([^"]*)"', body.decode())
            targets = {urllib.parse.urljoin(f"http://localhost{page}", link) for link in links}
            for other in pages:
                if other != page:
                    self.assertIn(f"http://localhost{other}", targets, page)


class EndpointsOnEpoll(Endpoints):
    denied = True


if __name__ == "__main__":
    unittest.main()
