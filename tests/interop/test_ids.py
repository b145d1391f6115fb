"""The ids of connections and clients: nobody can guess them, and none is ever that of another connection."""

import contextlib
import json

from harness import PATIENCE_S, Server, request, text_file
from test_backends import Case, by_event, connect, echo, tables
from test_cluster import Nats, Node
from test_webhooks import RawClient

PRESENCE = "\n[[topics]]\npattern = '*'\npresence = 'everybody'\n"


def post(server, name, text):
    """The status of a message to the connection with this id."""
    status, _, _ = request(server.admin, "POST", f"/connections/{name}", text.encode(), {"Content-Type": "text/plain"})
    return status


class Ids(Case):
    SECONDS = 12

    def member(self, server):
        """A session that is a member of a topic, and the id of its client."""
        session = RawClient(server).open()
        self.addCleanup(session.close)
        return session, session.subscribe("t")["client"]

    def assert_leaves(self, session, client):
        """The session is told that this client leaves, and nobody else."""
        while (event := session.hear())["event"] == "join":
            self.assertNotEqual(event["client"], client)
        self.assertEqual((event["event"], event["client"]), ("leave", client))

    def test_an_id_of_an_earlier_process_names_nobody(self):
        service = self.service()
        config = tables(service.url)

        def opened(server):
            """Eight connections, with their ids."""
            clients = [connect(server.url("/chat/a")) for _ in range(8)]
            for client in clients:
                self.addCleanup(client.close)
            return clients, [service.event("connect")["connection"] for _ in clients]

        first = self.serve(config)
        _, late = opened(first)
        first.process.kill()
        first.wait()
        second = self.serve(config)
        clients, own = opened(second)
        self.assertEqual([post(second, name, "for another") for name in late], [404] * 8)
        self.assertEqual([post(second, name, "for this one") for name in own], [200] * 8)
        self.assertEqual([client.recv(PATIENCE_S) for client in clients], ["for this one"] * 8)
        for name in late:
            self.assertEqual(second.get(f"/connections/{name}", "DELETE")[0], 404)
            trace = json.dumps({"connection": name}).encode()
            self.assertEqual(request(second.admin, "POST", "/trace", trace)[0], 404)
        for client in clients:
            self.assertTrue(client.ping().wait(PATIENCE_S))

    def test_servers_with_one_back_end_share_no_id(self):
        service = self.service()
        servers = [self.serve(tables(service.url), "--node", name) for name in "ab"]
        with contextlib.ExitStack() as stack:
            for server in servers:
                for _ in range(8):
                    stack.enter_context(connect(server.url("/chat/a")))
            told = [service.event("connect") for _ in range(16)]
            self.assertEqual(len({event["connection"] for event in told}), 16)
            self.assertEqual(sorted(event["node"] for event in told), ["a"] * 8 + ["b"] * 8)
            for event in told:
                own, other = servers if event["node"] == "a" else reversed(servers)
                self.assertEqual((post(other, event["connection"], "x"), post(own, event["connection"], "x")), (404, 200))

    def test_nodes_share_no_id_and_tell_no_shard(self):
        nats = Nats()
        self.addCleanup(nats.close)
        service = self.service()
        with text_file(tables(service.url) + PRESENCE) as config:
            nodes = [Node(nats, name, "--config", config) for name in "ab"]
            for node in nodes:
                self.addCleanup(node.__exit__)
            for node, other in zip(nodes, "ba"):
                node.await_members(other)
            clients = [self.member(node)[1] for node in nodes for _ in range(32)]
            with contextlib.ExitStack() as stack:
                for node in nodes:
                    for _ in range(8):
                        stack.enter_context(connect(node.url("/chat/a")))
                connections = [service.event("connect")["connection"] for _ in range(16)]
        self.assert_unrelated(clients + connections)

    def test_ids_of_one_process_tell_no_shard(self):
        service = self.service()
        server = self.serve(tables(service.url) + PRESENCE)
        clients = [self.member(server)[1] for _ in range(48)]
        listed = json.loads(server.get("/connections?limit=100")[2])["connections"]
        self.assertEqual(len({connection["shard"] for connection in listed}), 2)
        self.assert_unrelated(clients + [connection["id"] for connection in listed])

    def assert_unrelated(self, ids):
        """No two ids are near each other, as those of neighbours are that are counted."""
        for id in ids:
            self.assertRegex(id, "^[1-9a-f][0-9a-f]{16,31}$")
        numbers = [int(id, 16) & (1 << 64) - 1 for id in ids]
        for at, one in enumerate(numbers):
            for other in numbers[:at]:
                # Of 64 random bits, fewer than 6 differ once in 10^11 pairs.
                self.assertGreaterEqual((one ^ other).bit_count(), 6, (hex(one), hex(other)))

    def test_a_predecessor_knows_its_connections_and_its_successor_others(self):
        service = self.service(by_event(message=echo))
        old = self.serve(tables(service.url) + PRESENCE, "--drain", "1h")
        witness, own = self.member(old)
        with connect(old.url("/chat/a")) as stays:
            before = service.event("connect")["connection"]
            addresses = {"listen": f"{old.host}:{old.port}", "admin": f"127.0.0.1:{old.admin[1]}"}
            # Without this back end the connection stays.
            new = self.serve(tables(service.url, path="/talk/{room}") + PRESENCE, "--drain", "1h", "--takeover", **addresses)
            with connect(new.url("/talk/a")) as comes:
                after = service.event("connect")["connection"]
                self.assertNotEqual(after, before)
                self.assertEqual((post(new, before, "stays"), post(new, after, "comes")), (200, 200))
                self.assertEqual((stays.recv(PATIENCE_S), comes.recv(PATIENCE_S)), ("stays", "comes"))
            # The session keeps its id, by which its leave is told, and no other client gets it.
            other, newer = self.member(new)
            self.assertNotEqual(newer, own)
            witness.close()
            self.assert_leaves(other, own)


class IdsWithoutIoUring(Ids):
    denied = True
