"""A real HAProxy that sends the PROXY protocol: the server sees its clients, through TCP and through TLS."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest

import trustme
from harness import PATIENCE_S, AsyncTest, Log, Server
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

# Debian installs it in a folder that only root has in PATH.
PROGRAM = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
CLIENTS = ("127.0.0.77", "127.0.0.78")
CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen proxied
    bind fd@{descriptor}
    server echoring 127.0.0.1:{port} {option}
"""


@contextlib.contextmanager
def haproxy(port, option):
    """Runs HAProxy in front of `port` for the duration of the block. The kernel chooses the port that is returned."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="haproxy-"))
        # It accepts connections before HAProxy has started.
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        listening.setblocking(False)
        configuration = os.path.join(directory, "haproxy.cfg")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(descriptor=listening.fileno(), port=port, option=option))
        process = subprocess.Popen(
            [PROGRAM, "-db", "-f", configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listening.fileno()],
        )
        log = Log(process.stderr)
        try:
            yield listening.getsockname()[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
            log.join()
            process.stderr.close()


@unittest.skipIf(PROGRAM is None, "haproxy is not installed")
class BehindHaproxy(AsyncTest):
    FLAGS = ("--trusted-proxy", "127.0.0.1/32", "--proxy-protocol", "--max-connections-per-address", "1")

    async def check(self, option, server, scheme="ws", **options):
        """Each client has its own connection, and no second one."""
        with haproxy(server.port, option) as port:
            url = f"{scheme}://127.0.0.1:{port}/echo"
            async with contextlib.AsyncExitStack() as stack:
                for client in CLIENTS:
                    link = connect(url, local_addr=(client, 0), proxy=None, **options)
                    link = await stack.enter_async_context(link)
                    await link.send(client)
                    self.assertEqual(await link.recv(), client)
                # With TLS it is closed before the handshake.
                with self.assertRaises((InvalidStatus, OSError, EOFError)):
                    await connect(url, local_addr=(CLIENTS[0], 0), proxy=None, **options)
                status, _, body = server.get("/limits")
                report = json.loads(body)
                self.assertEqual((status, report["limited"]["connections_per_address"]), (200, 1))
                self.assertEqual([entry["address"] for entry in report["most_refused"]], [CLIENTS[0]])
                self.assertEqual(report["addresses"]["connected"], len(CLIENTS))
                self.assertEqual(server.stats()["node"]["proxy_headers"], len(CLIENTS) + 1)

    async def test_both_versions_name_the_clients(self):
        for driver in ("auto", "epoll"):
            for option in ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"):
                with self.subTest(driver=driver, option=option), Server("--driver", driver, *self.FLAGS) as server:
                    await self.check(option, server)

    async def test_a_header_in_front_of_tls_names_the_clients(self):
        with tempfile.TemporaryDirectory() as directory:
            authority = trustme.CA()
            issued = authority.issue_cert("127.0.0.1")
            chain, key = os.path.join(directory, "chain.pem"), os.path.join(directory, "key.pem")
            issued.private_key_pem.write_to_path(key)
            for blob in issued.cert_chain_pems:
                blob.write_to_path(chain, append=True)
            context = ssl.create_default_context()
            authority.configure_trust(context)
            with Server(*self.FLAGS, "--tls-cert", chain, "--tls-key", key) as server:
                await self.check("send-proxy-v2", server, "wss", ssl=context)

    async def test_health_checks_of_the_proxy_itself_are_served(self):
        with Server(*self.FLAGS) as server:
            option = "send-proxy-v2 check check-send-proxy inter 100ms"
            with haproxy(server.port, option) as port:
                for client in CLIENTS:
                    async with connect(f"ws://127.0.0.1:{port}/echo", local_addr=(client, 0), proxy=None) as link:
                        await link.send("checked")
                        self.assertEqual(await link.recv(), "checked")
            self.assertEqual(json.loads(server.get("/limits")[2])["limited"]["proxy_header"], 0)
