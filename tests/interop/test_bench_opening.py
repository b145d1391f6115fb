"""The upgrade requests of the load generator: header fields, data, several servers, names and certificates."""

import asyncio
import collections
import contextlib
import json
import os
import ssl
import subprocess
import tempfile
import unittest

import trustme
from async_server import AsyncServer
from harness import BINARY, PATIENCE_S
from websockets.asyncio.server import serve, unix_serve


class EchoServer(AsyncServer):
    """Echoes messages, and keeps the upgrade requests, within the block."""

    def __init__(self, tls=None, path=None):
        super().__init__()
        self.requests = []
        self.messages = collections.Counter()
        self.names = []
        self.subjects = []
        self.tls, self.path = tls, path

    async def listen(self):
        if self.path is not None:
            return unix_serve(self._echo, self.path, ping_interval=None)
        first = lambda _, offered: offered[0] if offered else None  # noqa: E731
        return serve(self._echo, "127.0.0.1", 0, ssl=self.tls, select_subprotocol=first, ping_interval=None)

    async def _echo(self, connection):
        self.requests.append(connection.request)
        if self.tls is not None:
            self.subjects.append(connection.transport.get_extra_info("peercert"))
        async for message in connection:
            self.messages[message] += 1
            await connection.send(message)


def bench(*words, code=0, environment=None):
    """Runs `bench` for a short time. Returns its record, or stderr if it fails."""
    # A busy machine is no matter here.
    flags = ["-d", "200ms", "--warmup", "0s", "--allow-saturated", "--json", "-"]
    done = subprocess.run(
        [BINARY, "bench", *words, *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)["runs"][0] if code == 0 else done.stderr


class UpgradeRequests(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.server = stack.enter_context(EchoServer())
        self.url = f"ws://127.0.0.1:{self.server.port}"
        self.directory = stack.enter_context(tempfile.TemporaryDirectory())

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_fields_are_sent(self):
        record = bench(
            self.url + "/chat?x=1",
            *("-c", "3", "--header", "Authorization: Bearer ${TOKEN}", "-H", "X-Number: {{connection}}"),
            *("--cookie", "a=1", "--cookie", "b={{random.hex(8)}}", "--origin", "https://app.example"),
            *("--subprotocol", "a", "--subprotocol", "b"),
            environment={"TOKEN": "se{{cret"},
        )
        self.assertEqual(len(self.server.requests), 3)
        for request in self.server.requests:
            self.assertEqual(request.path, "/chat?x=1")
            self.assertEqual(request.headers["Authorization"], "Bearer se{{cret")
            self.assertRegex(request.headers["Cookie"], r"^a=1; b=[0-9a-f]{8}$")
            self.assertEqual(request.headers["Origin"], "https://app.example")
            self.assertEqual(request.headers["Sec-WebSocket-Protocol"], "a, b")
        numbers = sorted(request.headers["X-Number"] for request in self.server.requests)
        self.assertEqual(numbers, ["0", "1", "2"])
        self.assertEqual(len({request.headers["Cookie"] for request in self.server.requests}), 3)
        # Values may be secrets.
        self.assertEqual(record["config"]["headers"], ["Authorization", "X-Number", "Cookie"])
        self.assertNotIn("cret", json.dumps(record))

    def test_user_and_password_are_sent_and_not_told(self):
        record = bench(f"ws://al%40ice:p%3Aw@127.0.0.1:{self.server.port}/", "-c", "1")
        # al@ice:p:w
        self.assertEqual(self.server.requests[0].headers["Authorization"], "Basic YWxAaWNlOnA6dw==")
        self.assertEqual(record["target"], self.url + "/")
        url = f"ws://u:${{SECRET}}@127.0.0.1:{self.server.port}/?token=${{SECRET}}"
        record = bench(url, "-c", "1", environment={"SECRET": "hush"})
        self.assertEqual(self.server.requests[1].path, "/?token=hush")
        self.assertNotIn("hush", json.dumps(record))

    def test_the_host_field_can_be_another(self):
        bench(self.url, "-c", "1", "--header", "Host: api.example")
        self.assertEqual(self.server.requests[0].headers["Host"], "api.example")

    def test_a_name_is_resolved_to_an_address(self):
        port = self.server.port
        bench(f"ws://api.example:{port}/", "-c", "1", "--resolve", f"api.example:{port}:127.0.0.1")
        self.assertEqual(self.server.requests[0].headers["Host"], f"api.example:{port}")
        self.assertIn("--resolve", bench(f"ws://api.invalid:{port}/", code=3))

    def test_each_connection_has_a_row(self):
        rows = "token,room\n" + "".join(f"t{number},\"room {number}\"\n" for number in range(5))
        path = self.file("users.csv", rows)
        bench(
            self.url + "/{{data.room}}?row={{row}}",
            *("-c", "7", "--rate", "100", "--data", path, "--header", "X-Token: {{data.token}}"),
            *("--message", '{"token":"{{data.token}}","n":{{seq}},"r":"{{random.hex(4)}}","t":{{now_ms}}}'),
        )
        expected = collections.Counter((f"t{number % 5}", f"/room%20{number % 5}?row={number % 5}") for number in range(7))
        seen = collections.Counter((request.headers["X-Token"], request.path) for request in self.server.requests)
        self.assertEqual(seen, expected)
        messages = [json.loads(message) for message in self.server.messages]
        self.assertEqual({message["token"] for message in messages}, {f"t{number}" for number in range(5)})
        self.assertTrue(all(len(message["r"]) == 4 and message["t"] > 1.7e12 for message in messages))
        self.assertGreater(max(message["n"] for message in messages), 0)

    def test_rows_are_taken_once_or_shuffled(self):
        path = self.file("users.jsonl", "".join(json.dumps({"id": number}) + "\n" for number in range(50)))
        data = ("--data", path, "--header", "X-Id: {{data.id}}")
        self.assertIn("--data-order", bench(self.url, "-c", "51", *data, "--data-order", "once", code=2))
        for order in ("once", "shuffled"):
            self.server.requests.clear()
            bench(self.url, "-c", "50", *data, "--data-order", order)
            ids = [int(request.headers["X-Id"]) for request in self.server.requests]
            self.assertEqual(sorted(ids), list(range(50)))

    def test_connections_that_come_and_go_take_further_rows(self):
        path = self.file("users.jsonl", "".join(json.dumps({"id": number}) + "\n" for number in range(6)))
        # A place for each connection: those that are due while a machine is busy would not be opened otherwise.
        flags = ("--mode", "connect", "--rate", "50", "-c", "10", "--data", path, "--header", "X-Id: {{data.id}}")
        bench(self.url, *flags)
        ids = [int(request.headers["X-Id"]) for request in self.server.requests]
        self.assertEqual(sorted(ids), sorted(number % 6 for number in range(10)))
        self.server.requests.clear()
        told = bench(self.url, *flags, "--data-order", "once", code=1)
        self.assertEqual(len(self.server.requests), 6)
        self.assertIn("4 × no row of --data left", told)

    def test_several_servers_take_their_shares(self):
        with EchoServer() as other:
            record = bench(self.url + "/a", f"ws://127.0.0.1:{other.port}/b", "--weights", "3,1", "-c", "20")
            self.assertEqual((len(self.server.requests), len(other.requests)), (15, 5))
            self.assertEqual({request.path for request in self.server.requests}, {"/a"})
            self.assertEqual({request.path for request in other.requests}, {"/b"})
            self.assertEqual(record["target"], f"{self.url}/a, ws://127.0.0.1:{other.port}/b")

    def test_what_is_wrong_is_told_in_one_line(self):
        path = self.file("users.csv", "token\nx\n")
        for words, told in (
            (("--header", "X"), "--header: expected NAME: VALUE"),
            (("--header", "Upgrade: x"), "Upgrade"),
            (("--header", "X: {{data.token}}"), "--data FILE"),
            (("--data", path, "--header", "X: {{data.name}}"), "the columns of the data are token"),
            (("--header", "X: ${NOT_SET}"), "NOT_SET is not set"),
            (("--header", "X: {{nonsense}}"), "{{nonsense}}: expected"),
            (("--cookie", "a"), "--cookie: expected NAME=VALUE"),
            (("--subprotocol", "a b"), "not a token"),
            (("--data", path + ".no"), "cannot be read"),
            (("--weights", "1,2"), "2 weights for 1 URLs"),
            (("--weights", "0"), "numbers from 1"),
            (("--resolve", "a:b"), "HOST:PORT:ADDR"),
            (("--sni", "x"), "only for wss://"),
            (("--message", "{{payload}}", "--mode", "broadcast"), "has no topics"),
            (("--protocol", "nonsense"), "is neither a file nor one of action-cable"),
            (("--protocol", "json-rpc", "--param", "x=y"), "there is no parameter x; known: equals, method"),
            (("--try",), "only with --protocol"),
        ):
            with self.subTest(words):
                line = bench(self.url, *words, code=2)
                self.assertIn(told, line)


class Certificates(unittest.TestCase):
    def test_names_and_client_certificates(self):
        authority, clients = trustme.CA(), trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("inner.example").configure_cert(context)
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
        own = clients.issue_cert("client@example.org")
        with tempfile.TemporaryDirectory() as directory, EchoServer(tls=context) as server:
            names = ["ca.pem", "client.pem", "client.key"]
            ca, certificate, key = (os.path.join(directory, name) for name in names)
            authority.cert_pem.write_to_path(ca)
            own.private_key_and_cert_chain_pem.write_to_path(certificate)
            own.private_key_pem.write_to_path(key)
            context.sni_callback = lambda _socket, name, _context: server.names.append(name)
            url = f"wss://127.0.0.1:{server.port}"
            words = (url, "-c", "2", "--ca-file", ca, "--sni", "inner.example")
            bench(*words, "--tls-cert", certificate, "--tls-key", key)
            self.assertEqual(set(server.names), {"inner.example"})
            subjects = [dict(part for names in found["subject"] for part in names) for found in server.subjects]
            self.assertEqual(len(subjects), 2)
            self.assertTrue(all(found["subjectAltName"] == (("email", "client@example.org"),) for found in server.subjects))
            self.assertIn("no connection", bench(*words, code=3))
            told = bench(url, "--ca-file", ca, "--tls-cert", certificate, "--tls-key", key, code=3)
            self.assertIn("invalid peer certificate", told)
            self.assertIn("client.key", bench(*words, "--tls-cert", certificate, "--tls-key", key + ".key", code=3))


class Proxy(AsyncServer):
    """A proxy for HTTP's CONNECT and for SOCKS5, within the block. It answers as `how` says, and keeps what it was asked for."""

    def __init__(self, how="well"):
        super().__init__()
        self.how, self.asked = how, []

    async def listen(self):
        return await asyncio.start_server(self._handle, "127.0.0.1", 0)

    async def _handle(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            target = await (self._socks(reader, writer) if first == b"\x05" else self._http(reader, writer))
            if target is not None:
                far_reader, far_writer = await asyncio.open_connection(*target)
                await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        writer.close()

    async def _copy(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _slowly(self, writer, data):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def _http(self, reader, writer):
        head = (b"C" + await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        if self.how == "silent":
            await reader.read()
        if self.how == "garbage":
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            return await writer.drain()
        if self.how == "password" and "Proxy-Authorization: Basic dTpwQHc=" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            return await writer.drain()
        await self._slowly(writer, b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        host, port = head.split()[1].rsplit(":", 1)
        return ("127.0.0.1" if host == "inner.example" else host), int(port)

    async def _socks(self, reader, writer):
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        if self.how == "password":
            if 2 not in methods:
                writer.write(b"\x05\xff")
                return await writer.drain()
            writer.write(b"\x05\x02")
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            accepted = (user, password) == (b"u", b"p@w")
            writer.write(b"\x01\x00" if accepted else b"\x01\x01")
            if not accepted:
                return await writer.drain()
        else:
            writer.write(b"\x05\x00")
        kind = (await reader.readexactly(4))[3]
        host = (
            ".".join(map(str, await reader.readexactly(4)))
            if kind == 1
            else (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        )
        port = int.from_bytes(await reader.readexactly(2))
        self.asked.append(f"{host}:{port}")
        if self.how == "refused":
            writer.write(b"\x05\x05\x00\x01\0\0\0\0\0\0")
            return await writer.drain()
        await self._slowly(writer, b"\x05\x00\x00\x01\0\0\0\0\0\0")
        return ("127.0.0.1" if host == "inner.example" else host), port


class Routes(unittest.TestCase):
    def test_a_unix_socket_is_connected_to(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "socket")
            for driver in ("auto", "epoll"):
                with EchoServer(path=path) as server:
                    words = ("ws://app.example/echo", "--unix-socket", path, "-c", "5", "--driver", driver)
                    record = bench(*words, "--rate", "100")
                    self.assertEqual(record["response_ns"]["count"], 20)
                    self.assertEqual({request.headers["Host"] for request in server.requests}, {"app.example"})
            self.assertIn("1 × ", bench(*words[:3], "-c", "1", code=3))

    def test_connections_go_through_proxies(self):
        with EchoServer() as server:
            for scheme in ("http", "socks5"):
                for driver in ("auto", "epoll"):
                    with self.subTest(scheme=scheme, driver=driver), Proxy() as proxy:
                        url = f"ws://inner.example:{server.port}/echo"
                        proxied = ("--proxy", f"{scheme}://127.0.0.1:{proxy.port}")
                        record = bench(url, *proxied, "-c", "5", "--rate", "100", "--driver", driver)
                        self.assertEqual(record["response_ns"]["count"], 20)
                        self.assertEqual(len(proxy.asked), 5)
                        self.assertTrue(all(f"inner.example:{server.port}" in asked for asked in proxy.asked))

    def test_credentials_are_sent_to_proxies(self):
        with EchoServer() as server, Proxy("password") as proxy:
            for scheme in ("http", "socks5"):
                url = f"ws://127.0.0.1:{server.port}/"
                bench(url, "-c", "1", "--proxy", f"{scheme}://u:p%40w@127.0.0.1:{proxy.port}")
                for credentials, told in (("", {"http": "407", "socks5": "no authentication method"}), ("u:x@", {"http": "407", "socks5": "refused the user name"})):
                    wrong = bench(url, "-c", "2", "--proxy", f"{scheme}://{credentials}127.0.0.1:{proxy.port}", code=3)
                    self.assertIn(f"2 × the proxy", wrong)
                    self.assertIn(told[scheme], wrong)

    def test_refusals_of_proxies_are_told(self):
        url = "ws://127.0.0.1:1/"
        for how, scheme, told in (
            ("refused", "socks5", "connection refused (SOCKS5 reply 5)"),
            ("garbage", "http", "the proxy's response is not HTTP"),
            ("silent", "http", "handshake timeout"),
        ):
            with self.subTest(how), Proxy(how) as proxy:
                timeout = ("--connect-timeout", "300ms") if how == "silent" else ()
                wrong = bench(url, "-c", "1", *timeout, "--proxy", f"{scheme}://127.0.0.1:{proxy.port}", code=3)
                self.assertIn(told, wrong)

    def test_the_environment_names_a_proxy(self):
        with EchoServer() as server, Proxy() as proxy:
            environment = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": ""}
            bench(f"ws://inner.example:{server.port}/", "-c", "1", "--proxy", "env", environment=environment)
            self.assertEqual(len(proxy.asked), 1)

    def test_tls_is_spoken_through_a_proxy(self):
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("inner.example").configure_cert(context)
        with tempfile.TemporaryDirectory() as directory, EchoServer(tls=context) as server:
            ca = os.path.join(directory, "ca.pem")
            authority.cert_pem.write_to_path(ca)
            for scheme in ("http", "socks5"):
                with Proxy() as proxy:
                    words = ("--ca-file", ca, "--proxy", f"{scheme}://127.0.0.1:{proxy.port}")
                    record = bench(f"wss://inner.example:{server.port}/", "-c", "3", *words)
                    self.assertEqual(record["tls"]["handshakes"], 3)


if __name__ == "__main__":
    unittest.main()
