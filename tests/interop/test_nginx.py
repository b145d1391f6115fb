"""`docs/guide/behind-nginx.md`: its configuration with a real nginx, and the effect of removing each line."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest

import matrix
import programs
import trustme
from harness import PATIENCE_S, AsyncTest, Log, Server, refusing_port
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

GUIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "guide", "behind-nginx.md")
NAME = "ws.example"
# Debian installs it in a folder that only root has in PATH.
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
LISTEN = ("listen 80;", "listen 443 ssl http2;")
UPSTREAM = "server 127.0.0.1:9001;"


def guide():
    """The configurations of the guide, in order: the outermost level, one server, several servers, their location."""
    with open(GUIDE, encoding="utf-8") as file:
        return re.findall(r"```nginx\n(.*?)```", file.read(), re.DOTALL)


def replaced(text, old, new):
    """Replaces `old`, which must occur exactly once, so that a test changes what the guide says."""
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the guide"
    return text.replace(old, new)


class Authority:
    """A certificate authority, with a certificate for `NAME` and the loopback address."""

    def __init__(self, directory):
        authority = trustme.CA()
        server = authority.issue_cert(NAME, "127.0.0.1")
        self.roots = os.path.join(directory, "roots.pem")
        self.chain = os.path.join(directory, "chain.pem")
        self.key = os.path.join(directory, "key.pem")
        authority.cert_pem.write_to_path(self.roots)
        server.private_key_pem.write_to_path(self.key)
        for blob in server.cert_chain_pems:
            blob.write_to_path(self.chain, append=True)
        self.context = ssl.create_default_context(cafile=self.roots)


class Nginx:
    """Runs nginx with a configuration of the guide for the duration of the block.

    It inherits its listening sockets, as from a predecessor, so that the kernel chooses the ports. They accept connections
    before nginx has started.
    """

    def __init__(self, main, http, workers=1):
        directory = tempfile.TemporaryDirectory(prefix="nginx-")
        self.directory = directory.name
        # Its workers run as an unprivileged user.
        os.chmod(self.directory, 0o755)
        self.authority = Authority(self.directory)
        sockets = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in LISTEN]
        self.plain_port, self.port = (one.getsockname()[1] for one in sockets)
        for line, one in zip(LISTEN, sockets):
            # One connection may wake several workers.
            one.setblocking(False)
            address = f"listen 127.0.0.1:{one.getsockname()[1]}"
            http = replaced(http, line, re.sub(r"listen \d+", address, line))
        http = replaced(http, f"/etc/ssl/certs/{NAME}.pem", self.authority.chain)
        http = replaced(http, f"/etc/ssl/private/{NAME}.key", self.authority.key)
        temporary = [f"{kind}_temp_path {self.directory}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")]
        temporary.append(f"client_body_temp_path {self.directory}/body;")
        own = f"daemon off; pid {self.directory}/pid; error_log stderr notice; worker_processes {workers};"
        configuration = os.path.join(self.directory, "nginx.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(f"{own}\n{main}\nhttp {{\naccess_log off;\n{' '.join(temporary)}\n{http}}}\n")
        descriptors = [one.fileno() for one in sockets]
        self.process = subprocess.Popen(
            [PROGRAM, "-p", self.directory, "-c", configuration, "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NGINX": "".join(f"{descriptor};" for descriptor in descriptors)},
            pass_fds=descriptors,
        )
        self.log = Log(self.process.stderr)
        self.cleanup = contextlib.ExitStack()
        self.cleanup.callback(directory.cleanup)
        self.cleanup.callback(self._end)
        for one in sockets:
            one.close()
        self.log.wait_for("start worker process ")

    def _end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self.log.join()
        self.process.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cleanup.close()

    def connect(self, path="/echo", *, name=NAME, **options):
        """Connects with the certificate's name as host. `name` may contain the port that a page would see."""
        options = {"ssl": self.authority.context, "server_hostname": NAME, "max_size": None} | options
        return connect(f"wss://{name}{path}", host="127.0.0.1", port=self.port, proxy=None, **options)

    def get(self, path, port=None):
        """Status and head of a plain request."""
        with contextlib.ExitStack() as sockets:
            one = sockets.enter_context(socket.create_connection(("127.0.0.1", port or self.port), PATIENCE_S))
            if port is None:
                one = sockets.enter_context(self.authority.context.wrap_socket(one, server_hostname=NAME))
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := one.recv(65536):
                answer += data
        head = answer.split(b"\r\n\r\n", 1)[0].decode("latin-1")
        return int(head.split(" ")[1]), head


@unittest.skipIf(PROGRAM is None, "nginx is not installed")
class BehindNginx(AsyncTest):
    """nginx before one server whose flags of `serve` match the guide."""

    @classmethod
    def setUpClass(cls):
        flags = ("--max-message", str(matrix.MIB), "--compress", "on", "--subprotocol", "chat")
        cls.server = Server(*flags, "--allow-host", NAME, "--subprotocol", "superchat")
        cls.addClassCleanup(cls.server.__exit__)
        cls.main, cls.http, cls.several, cls.topics = guide()

    def nginx(self, *changes, ports=None, main=None, **options):
        """nginx with the guide's configuration, in which each change replaces one text by another."""
        http = self.http
        for old, new in changes:
            http = replaced(http, old, new)
        # The address occurs twice if there are two groups of servers.
        for old, new in {9001: self.server.port, **(ports or {})}.items():
            http = http.replace(f"server 127.0.0.1:{old};", f"server 127.0.0.1:{new};")
        nginx = Nginx(main or self.main, http, **options)
        self.addCleanup(nginx.__exit__)
        return nginx

    async def check_echo(self, client):
        await client.send("through nginx")
        self.assertEqual(await client.recv(), "through nginx")

    async def refusal(self, nginx, **options):
        """Status and body of a refusal."""
        with self.assertRaises(InvalidStatus) as refused:
            await nginx.connect(**options)
        response = refused.exception.response
        return response.status_code, response.body.decode()


class WithTheGuidesConfiguration(BehindNginx):
    def check_all(self, command):
        nginx = self.nginx()
        roots = {"SSL_CERT_FILE": nginx.authority.roots, "NODE_EXTRA_CA_CERTS": nginx.authority.roots}
        names = [check["name"] for check in matrix.OURS]
        # Not every client accepts this.
        names.remove("subprotocol of the client only")
        checks = matrix.checks(names, compress=True, compressed=True)
        url = f"wss://127.0.0.1:{nginx.port}"
        outcome = matrix.run(command, url, checks, env=programs.environment() | roots)
        self.assertEqual({name: problem for name, problem in outcome.items() if problem}, {})

    def test_python_does_through_tls_all_that_it_does_without(self):
        self.check_all(programs.python("websockets_client.py"))

    @unittest.skipIf("ws" in programs.missing(), "npm's ws is not installed")
    def test_node_does_through_tls_all_that_it_does_without(self):
        self.check_all(programs.node("ws_client.mjs"))

    async def test_a_page_of_the_same_host_may_connect_and_no_other(self):
        nginx = self.nginx()
        for name in (NAME, f"{NAME}:8443"):
            async with nginx.connect(name=name, origin=f"https://{name}") as client:
                await self.check_echo(client)
        status, body = await self.refusal(nginx, origin="https://elsewhere.example")
        self.assertEqual(status, 403)
        self.assertIn("allow its origin", body)

    async def test_plain_requests_pass_and_those_without_tls_are_sent_there(self):
        nginx = self.nginx()
        status, _ = await asyncio.to_thread(nginx.get, "/healthz")
        self.assertEqual(status, 200)
        status, head = await asyncio.to_thread(nginx.get, "/echo?a=b", nginx.plain_port)
        self.assertEqual(status, 301)
        self.assertIn(f"\r\nLocation: https://{NAME}/echo?a=b", head)

    async def test_what_the_server_is_told_of_the_client_is_not_the_clients_to_say(self):
        with socket.create_server(("127.0.0.1", 0)) as upstream:
            upstream.settimeout(PATIENCE_S)
            nginx = self.nginx((UPSTREAM, f"server 127.0.0.1:{upstream.getsockname()[1]};"))
            forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
            client = asyncio.create_task(self.refusal(nginx, additional_headers=forged))
            accepted, _ = await asyncio.to_thread(upstream.accept)
            with accepted:
                accepted.settimeout(PATIENCE_S)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await asyncio.to_thread(accepted.recv, 65536)
            lines = head.decode("latin-1").split("\r\n")
            self.assertEqual(lines[0], "GET /echo HTTP/1.1")
            for wanted in (
                f"Host: {NAME}",
                "Upgrade: websocket",
                "Connection: upgrade",
                "X-Forwarded-For: 127.0.0.1",
                "X-Forwarded-Proto: https",
            ):
                self.assertIn(wanted, lines)
            self.assertNotIn("192.0.2.1", head.decode("latin-1"))
            # A server that closes the connection instead of answering.
            self.assertEqual((await client)[0], 502)

    async def test_a_draining_server_tells_1001_through_nginx(self):
        with Server("--allow-host", NAME) as server:
            nginx = self.nginx((UPSTREAM, f"server 127.0.0.1:{server.port};"))
            async with nginx.connect() as client:
                await self.check_echo(client)
                server.terminate()
                with self.assertRaises(ConnectionClosed) as closed:
                    await client.recv()
                self.assertEqual(closed.exception.rcvd.code, 1001)
            self.assertEqual(await asyncio.to_thread(server.wait), 0)

    async def test_a_server_may_listen_on_a_path_that_nginx_may_write_to(self):
        with tempfile.TemporaryDirectory(prefix="echoring-") as directory:
            os.chmod(directory, 0o755)
            path = os.path.join(directory, "socket")
            with Server("--listen", f"unix:{path}", "--allow-host", NAME) as server:
                self.assertRegex(server.process.stdout.readline(), "^listening ws\\+unix:")
                nginx = self.nginx((UPSTREAM, f"server unix:{path};"))
                if os.getuid() == 0:
                    # Its workers run as another user then.
                    os.chmod(path, 0o644)
                    status, _ = await self.refusal(nginx)
                    self.assertEqual(status, 502)
                os.chmod(path, 0o666)
                async with nginx.connect() as client:
                    await self.check_echo(client)

    async def test_a_reload_cuts_nobody(self):
        nginx = self.nginx()
        async with nginx.connect() as before:
            await self.check_echo(before)
            nginx.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(nginx.log.wait_for, "gracefully shutting down")
            await self.check_echo(before)
            async with nginx.connect() as after:
                await self.check_echo(after)
            await self.check_echo(before)

    async def test_a_reload_with_a_short_patience_cuts_what_is_left(self):
        main = replaced(self.main, "worker_shutdown_timeout 1h;", "worker_shutdown_timeout 1s;")
        nginx = self.nginx(main=main)
        async with nginx.connect() as client:
            await self.check_echo(client)
            nginx.process.send_signal(signal.SIGHUP)
            with self.assertRaises(ConnectionClosed) as closed:
                await client.recv()
            self.assertIsNone(closed.exception.rcvd)


class WithoutALine(BehindNginx):
    """The failures if a line of the guide is missing or different."""

    async def check_refused(self, change, status, *words):
        found, body = await self.refusal(self.nginx(change))
        self.assertEqual(found, status, body)
        for word in words:
            self.assertIn(word, body)

    async def test_http_1_0_is_refused_with_the_cure(self):
        await self.check_refused(("proxy_http_version 1.1;", ""), 505, "proxy_http_version 1.1")

    async def test_a_missing_upgrade_is_refused_with_the_cure(self):
        cure = "proxy_set_header Upgrade $http_upgrade"
        await self.check_refused((f"{cure};", ""), 400, "Upgrade header missing", cure)

    async def test_a_missing_connection_is_refused_with_the_cure(self):
        line = "proxy_set_header Connection $connection_upgrade;"
        await self.check_refused((line, ""), 400, "does not list upgrade", "proxy_set_header Connection upgrade")

    async def test_connection_upgrade_for_all_requests_works_too(self):
        nginx = self.nginx(("Connection $connection_upgrade;", "Connection upgrade;"))
        async with nginx.connect() as client:
            await self.check_echo(client)
        status, _ = await asyncio.to_thread(nginx.get, "/")
        self.assertEqual(status, 200)

    async def test_without_the_host_pages_are_refused(self):
        nginx = self.nginx(("proxy_set_header Host $http_host;", ""))
        status, _ = await self.refusal(nginx, origin=f"https://{NAME}")
        self.assertEqual(status, 403)

    async def test_names_that_are_not_listed_are_refused_with_the_cure(self):
        status, body = await self.refusal(self.nginx(), name="other.example")
        self.assertEqual(status, 403)
        self.assertIn("allow the name", body)

    async def test_without_the_hosts_port_pages_of_other_ports_are_refused(self):
        nginx = self.nginx(("proxy_set_header Host $http_host;", "proxy_set_header Host $host;"))
        async with nginx.connect(origin=f"https://{NAME}") as client:
            await self.check_echo(client)
        name = f"{NAME}:8443"
        status, _ = await self.refusal(nginx, name=name, origin=f"https://{name}")
        self.assertEqual(status, 403)

    async def test_silence_beyond_the_read_timeout_ends_without_a_close_frame(self):
        nginx = self.nginx(("proxy_read_timeout 60s;", "proxy_read_timeout 3s;"))
        async with nginx.connect(ping_interval=None) as client:
            await self.check_echo(client)
            with self.assertRaises(ConnectionClosed) as closed:
                await client.recv()
            self.assertIsNone(closed.exception.rcvd)

    async def silence(self, nginx):
        """Returns when nginx has ended a connection on which nobody sent anything, opened now."""
        async with nginx.connect(ping_interval=None) as silent:
            with self.assertRaises(ConnectionClosed):
                await silent.recv()

    async def test_what_only_the_client_sends_breaks_the_silence_too(self):
        """A client that is alone in a topic can send without receiving."""
        nginx = self.nginx(("proxy_read_timeout 60s;", "proxy_read_timeout 3s;"))
        async with nginx.connect("/broadcast/alone", ping_interval=None) as client:
            async with asyncio.TaskGroup() as tasks:
                silence = tasks.create_task(self.silence(nginx))
                while not silence.done():
                    await client.send("hello?")
                    await asyncio.wait({silence}, timeout=0.1)
            await asyncio.wait_for(await client.ping(), PATIENCE_S)
            with self.assertRaises(ConnectionClosed) as closed:
                await client.recv()
            self.assertIsNone(closed.exception.rcvd)

    async def test_pings_break_the_silence(self):
        nginx = self.nginx(("proxy_read_timeout 60s;", "proxy_read_timeout 3s;"))
        async with nginx.connect("/ping-storm?rate=4", ping_interval=None) as client:
            received = asyncio.create_task(client.recv())
            await self.silence(nginx)
            await self.silence(nginx)
            self.assertFalse(received.done(), "a message, or the end")
            await client.send("through nginx")
            self.assertEqual(await received, "through nginx")

    async def test_one_address_opens_no_more_than_its_limit(self):
        nginx = self.nginx(("limit_conn per_address 100;", "limit_conn per_address 2;"))
        async with nginx.connect() as first, nginx.connect() as second:
            status, _ = await self.refusal(nginx)
            self.assertEqual(status, 503)
            await self.check_echo(first)
            await self.check_echo(second)

    async def test_a_connection_takes_two_of_a_workers(self):
        connections = 40
        main = replaced(self.main, "worker_connections 8192;", f"worker_connections {connections};")
        nginx = self.nginx(main=main)
        async with contextlib.AsyncExitStack() as clients:
            opened = 0
            with self.assertRaises(InvalidStatus) as refused:
                while True:
                    client = await clients.enter_async_context(nginx.connect())
                    await self.check_echo(client)
                    opened += 1
            self.assertEqual(refused.exception.response.status_code, 500)
            # Listening sockets, and sockets between its processes, count too.
            self.assertGreater(opened, connections // 2 - 5)
            self.assertLess(opened, connections // 2)


class WithSeveralServers(BehindNginx):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.second = Server("--allow-host", NAME)
        cls.addClassCleanup(cls.second.__exit__)

    def both(self, second):
        """The guide's configuration for two servers, with the location."""
        one = re.search(r"upstream echoring \{.*?\n\}\n", self.http, re.DOTALL)[0]
        here = "    location / {"
        changes = [(one, self.several), (here, f"{self.topics}\n{here}")]
        return self.nginx(*changes, ports={9003: second}, workers=2)

    def connections(self):
        return [server.stats()["node"]["connections"] for server in (self.server, self.second)]

    async def test_connections_spread_and_a_topic_is_in_one_place(self):
        nginx = self.both(self.second.port)
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(10):
                await clients.enter_async_context(nginx.connect())
            self.assertEqual([count > 0 for count in self.connections()], [True, True])
            before = self.connections()
            for number in range(20):
                path = f"/broadcast/topic-{number}"
                one = await clients.enter_async_context(nginx.connect(path))
                other = await clients.enter_async_context(nginx.connect(path))
                await one.send(path)
                self.assertEqual(await asyncio.wait_for(other.recv(), PATIENCE_S), path)
            grown = [after - earlier for earlier, after in zip(before, self.connections())]
            self.assertEqual(sum(grown), 40)
            self.assertEqual([count > 0 for count in grown], [True, True])

    async def test_who_comes_when_a_server_is_gone_is_served_by_the_next(self):
        nginx = self.both(self.enterContext(refusing_port()))
        for number in range(10):
            async with nginx.connect() as client, nginx.connect(f"/broadcast/{number}?self=1") as topic:
                await self.check_echo(client)
                await self.check_echo(topic)
