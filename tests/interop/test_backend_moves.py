"""Connections of back ends move to other shards and to a successor: neither the client nor the back end notices."""

import contextlib
import json
import threading
import time
import unittest
from http.client import HTTPException

from harness import PATIENCE_S, request, wait_until
from test_backends import Case, by_event, closed, connect, echo, tables
from websockets.exceptions import ConnectionClosed

# A server that keeps a connection does not end, and fails the test.
FLAGS = ("--drain", "1h", "--rebalance", "off")
TEXT = {"Content-Type": "text/plain"}


def said(event):
    """The texts of an event, or its kind."""
    if event["event"] != "message":
        return [event["event"]]
    return [message["text"] for message in event.get("messages", [event])]


class Told:
    """What a back end was told of each connection, by its id."""

    def __init__(self, service):
        self.service, self.paths, self.codes, self.by_id = service, {}, {}, {}

    def read(self, count):
        for _ in range(count):
            self.add(self.service.event())
        return self

    def until_disconnected(self, count):
        while len(self.codes) < count:
            self.add(self.service.event())
        return self

    def add(self, event):
        name = event["connection"]
        self.by_id.setdefault(name, []).extend(said(event))
        self.paths[event["path"]] = name
        if event["event"] == "disconnect":
            assert name not in self.codes, f"two ends of {name}"
            self.codes[name] = event["code"]

    def of(self, path):
        return self.by_id[self.paths[path]]


class Actions:
    """Answers with what a message asks for."""

    def __call__(self, event):
        if event["event"] != "message":
            return 204, None
        word, _, rest = event["text"].partition(" ")
        answers = {
            "join": {"subscribe": [rest], "messages": [{"text": f"joined {rest}"}]},
            "say": {"publish": [{"topic": "room", "text": rest}]},
            "leave": {"unsubscribe": [rest], "messages": [{"text": f"left {rest}"}]},
            "bye": {"messages": [{"text": "last"}], "close": {"code": 4001, "reason": "was told to"}},
        }
        return 200, answers[word]


class OnUring(Case):
    SECONDS = 40

    def first(self, config, *flags):
        return self.serve(config, *FLAGS, *flags)

    def successor(self, old, config, *flags):
        """A server that takes over."""
        addresses = {"listen": f"{old.host}:{old.port}", "admin": f"127.0.0.1:{old.admin[1]}"}
        return self.serve(config, *FLAGS, "--takeover", *flags, **addresses)

    def upgrade(self, old, config, *flags):
        """A server that takes over. The old one ends, because all its connections have moved."""
        new = self.successor(old, config, *flags)
        self.assertEqual(old.wait(), 0)
        return new

    def open(self, server, path, **options):
        client = connect(server.url(path), **options)
        self.addCleanup(client.close)
        return client

    def post(self, server, name, text):
        return request(server.admin, "POST", f"/connections/{name}", text.encode(), TEXT)[0]

    def shards(self, server):
        """The shards of the connections, by id."""
        listed = json.loads(server.get("/connections?limit=200")[2])["connections"]
        return {one["id"]: one["shard"] for one in listed}

    def assert_echoes(self, client, *texts):
        for text in texts:
            client.send(text)
        self.assertEqual([client.recv(PATIENCE_S) for _ in texts], list(texts))

    def test_idle_connections_are_known_by_their_ids_through_upgrades(self):
        service = self.service(by_event(connect=lambda event: (200, {"identity": event["query"]}), message=echo))
        config, told = tables(service.url), Told(service)
        server = self.first(config)
        clients = [self.open(server, f"/chat/{number}?user{number}") for number in range(8)]
        names = [told.read(1).paths[f"/chat/{number}"] for number in range(8)]
        for round in range(3):
            server = self.upgrade(server, config)
            self.assertEqual(sorted(self.shards(server)), sorted(names))
            for number, (client, name) in enumerate(zip(clients, names)):
                self.assert_echoes(client, f"{round}")
                self.assertEqual(self.post(server, name, "by id"), 200)
                self.assertEqual(request(server.admin, "POST", f"/identities/user{number}", b"by name", TEXT)[0], 200)
                self.assertEqual([client.recv(PATIENCE_S) for _ in range(2)], ["by id", "by name"])
        trace = json.dumps({"connection": names[0], "seconds": 1}).encode()
        self.assertEqual(request(server.admin, "POST", "/trace", trace)[0], 200)
        # One is closed by its id, the others by their clients.
        self.assertEqual(server.get(f"/connections/{names[0]}", "DELETE")[0], 200)
        self.assertEqual(closed(clients[0])[0], 4010)
        clients[1].close(4002, "done")
        told.until_disconnected(2)
        self.assertEqual((told.codes[names[0]], told.codes[names[1]]), (4010, 4002))
        for name in names[:2]:
            self.assertIn(self.post(server, name, "late"), (404, 410))
        self.assertEqual(self.post(server, names[2], "still"), 200)
        for client in clients[2:]:
            client.close(4003)
        told.until_disconnected(8)
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertTrue(service.seen.empty())
        for number in range(8):
            self.assertEqual(told.of(f"/chat/{number}"), ["connect", "0", "1", "2", "disconnect"])
        self.assertEqual(len(told.by_id), 8)

    def test_an_id_names_its_connection_all_the_time(self):
        service = self.service()
        config, over, statuses, taken = tables(service.url), threading.Event(), set(), []
        server = self.first(config)
        client = self.open(server, "/chat/a")
        name = service.event("connect")["connection"]

        def push():
            number = 0
            while not over.is_set():
                number += 1
                # While the admin address changes hands, a request may be lost.
                with contextlib.suppress(OSError, HTTPException):
                    status = self.post(server, name, str(number))
                    statuses.add(status)
                    taken.extend([str(number)] * (status == 200))

        pushing = threading.Thread(target=push)
        pushing.start()
        for _ in range(3):
            server = self.upgrade(server, config)
            time.sleep(0.2)
        over.set()
        pushing.join(PATIENCE_S)
        self.assertLessEqual(statuses, {200, 429, 503}, "it is always there")
        self.assertEqual(self.post(server, name, "end"), 200)
        heard = list(iter(lambda: client.recv(PATIENCE_S), "end"))
        self.assertEqual([text for text in heard if text in set(taken)], taken)
        self.assertEqual(heard, sorted(set(heard), key=int))

    def test_messages_in_flight_are_answered_before_the_connection_moves(self):
        for count, batch in ((1, 1), (2, 1), (50, 1), (50, 4)):
            with self.subTest(count=count, batch=batch):
                go_on = threading.Event()

                def slowly(event):
                    assert go_on.wait(PATIENCE_S)
                    return 200, {"messages": event.get("messages", [{"text": event.get("text")}])}

                service = self.service(by_event(message=slowly))
                config = tables(service.url, batch=batch, timeout="'60s'")
                server, told = self.first(config), Told(service)
                client = self.open(server, "/chat/a")
                texts = [str(number) for number in range(count)]
                client.send(texts[0])
                told.read(2)
                for text in texts[1:]:
                    client.send(text)
                new = self.successor(server, config)
                wait_until(lambda: json.loads(new.get("/stats")[2]) is not None, "it serves")
                time.sleep(0.5)
                self.assertIsNone(server.process.poll(), "it waits for the back end")
                go_on.set()
                self.assertEqual([client.recv(PATIENCE_S) for _ in texts], texts)
                self.assertEqual(server.wait(), 0)
                self.assert_echoes(client, "after", "the move")
                client.close(4000, "done")
                told.until_disconnected(1)
                self.assertEqual(told.of("/chat/a"), ["connect", *texts, "after", "the move", "disconnect"])
                self.assertEqual(list(told.codes.values()), [4000])

    def test_clients_that_send_all_the_time_notice_nothing(self):
        def slowly(event):
            time.sleep(0.002 * (len(event["path"]) % 5))
            return 200, {"messages": event["messages"]}

        service = self.service(by_event(message=slowly))
        config = tables(service.url, batch=3)
        server, over, sent = self.first(config), threading.Event(), {}

        def talk(path, client):
            number = 0
            while not over.is_set():
                texts = [str(number + more) for more in range(1 + number % 7)]
                for text in texts:
                    client.send(text)
                assert [client.recv(PATIENCE_S) for _ in texts] == texts
                number += len(texts)
            client.close(4000, "done")
            sent[path] = number

        paths = ["/chat/" + "x" * (number + 1) for number in range(8)]
        talking = [threading.Thread(target=talk, args=(path, self.open(server, path))) for path in paths]
        for thread in talking:
            thread.start()
        for _ in range(3):
            server = self.upgrade(server, config)
            time.sleep(0.2)
        over.set()
        for thread in talking:
            thread.join(PATIENCE_S)
        self.assertEqual(sorted(sent), sorted(paths), "all are there to the end")
        told = Told(service).until_disconnected(len(paths))
        for path, number in sent.items():
            self.assertEqual(told.of(path), ["connect", *map(str, range(number)), "disconnect"])
        self.assertEqual((set(told.codes.values()), len(told.by_id)), ({4000}, len(paths)))
        self.assertTrue(service.seen.empty())

    def test_answers_act_where_the_connection_is(self):
        service = self.service(Actions())
        config, told = tables(service.url), Told(service)
        server = self.first(config)
        first, second = (self.open(server, f"/chat/{name}") for name in "ab")
        for client in (first, second):
            client.send("join room")
            self.assertEqual(client.recv(PATIENCE_S), "joined room")
        for round in range(2):
            # In flight: they are published before the connections move.
            first.send(f"say {round} before")
            server = self.upgrade(server, config)
            second.send(f"say {round} behind")
            for text in (f"{round} before", f"{round} behind"):
                self.assertEqual([client.recv(PATIENCE_S) for client in (first, second)], [text] * 2)
            first.send("leave room")
            self.assertEqual(first.recv(PATIENCE_S), "left room")
            second.send(f"say {round} alone")
            self.assertEqual(second.recv(PATIENCE_S), f"{round} alone")
            first.send("join room")
            self.assertEqual(first.recv(PATIENCE_S), "joined room")
        first.send("bye")
        self.assertEqual((first.recv(PATIENCE_S), closed(first)), ("last", (4001, "was told to")))
        second.close()
        told.until_disconnected(2)
        self.assertEqual(told.codes, {told.paths["/chat/a"]: 4001, told.paths["/chat/b"]: 1000})

    def test_a_connection_that_an_answer_closes_ends_once(self):
        begun, go_on = threading.Event(), threading.Event()

        def slowly(event):
            begun.set()
            assert go_on.wait(PATIENCE_S)
            return 200, {"close": {"code": 4001, "reason": "enough"}}

        service = self.service(by_event(message=slowly))
        config, told = tables(service.url, timeout="'60s'"), Told(service)
        server = self.first(config)
        client = self.open(server, "/chat/a")
        client.send("0")
        self.assertTrue(begun.wait(PATIENCE_S))
        self.successor(server, config)
        time.sleep(0.2)
        go_on.set()
        self.assertEqual(closed(client), (4001, "enough"))
        self.assertEqual(server.wait(), 0)
        told.until_disconnected(1)
        self.assertEqual((told.of("/chat/a"), service.seen.empty()), (["connect", "0", "disconnect"], True))

    def test_a_back_end_that_hangs_holds_nothing_up_for_longer_than_its_time(self):
        service = self.service(by_event(message=lambda event: time.sleep(3) or (204, None)))
        config, told = tables(service.url, timeout="'1s'"), Told(service)
        server = self.first(config)
        client, other = (self.open(server, f"/chat/{name}") for name in "ab")
        client.send("0")
        told.read(3)
        self.upgrade(server, config)
        self.assertEqual(closed(client)[0], 1014)
        other.close(4000)
        told.until_disconnected(2)
        self.assertEqual(told.codes, {told.paths["/chat/a"]: 1014, told.paths["/chat/b"]: 4000})

    def test_a_connection_stays_with_a_server_that_has_its_back_end(self):
        service, of_other = self.service(by_event(message=echo)), self.service()
        told = Told(service)
        old = self.first(tables(service.url))
        client = self.open(old, "/chat/a")
        name = told.read(1).paths["/chat/a"]
        new = self.successor(old, tables(of_other.url, path="/other"))

        def staying():
            return 'echoring_predecessor_connections{reason="handler"} 1\n' in new.get("/metrics")[2].decode()

        wait_until(staying, "it is counted")
        self.assert_echoes(client, "still")
        self.assertEqual((self.post(new, name, "by id"), client.recv(PATIENCE_S)), (200, "by id"))
        client.close(4000)
        self.assertEqual(old.wait(), 0)
        told.until_disconnected(1)
        self.assertEqual(told.of("/chat/a"), ["connect", "still", "disconnect"])
        self.assertTrue(service.seen.empty() and of_other.seen.empty())

    def test_one_that_is_refused_goes_on_and_ends_once(self):
        service = self.service(by_event(message=echo))
        config, told = tables(service.url), Told(service)
        old = self.first(config)
        clients = [self.open(old, f"/chat/{number}") for number in range(24)]
        new = self.successor(old, config, "--max-connections", "8")
        refused = 'echoring_predecessor_connections{reason="refused"} '

        def counted():
            lines = new.get("/metrics")[2].decode().splitlines()
            return any(line.startswith(refused) and line != refused + "0" for line in lines)

        wait_until(counted, "those that stay are told")
        for client in clients:
            self.assert_echoes(client, "still")
        for name in told.read(48).by_id:
            self.assertEqual(self.post(new, name, "by id"), 200)
        for client in clients:
            self.assertEqual(client.recv(PATIENCE_S), "by id")
            client.close(4000)
        self.assertEqual(old.wait(), 0)
        told.until_disconnected(24)
        self.assertEqual(set(map(tuple, told.by_id.values())), {("connect", "still", "disconnect")})
        self.assertTrue(service.seen.empty())

    def test_idle_connections_move_between_shards(self):
        def slowly(event):
            time.sleep(0.3 if event["text"] == "slow" else 0)
            return echo(event)

        service = self.service(by_event(message=slowly))
        server, told = self.first(tables(service.url)), Told(service)
        clients = {}
        for number in range(24):
            client = self.open(server, f"/chat/{number}")
            clients[told.read(1).paths[f"/chat/{number}"]] = client
        moved = set()
        # Those of one shard leave, and some of the other's move there.
        for round in range(3):
            before = self.shards(server)
            self.assertEqual(set(before), set(clients))
            left = before[next(iter(clients))] ^ 1
            for name in [name for name, shard in before.items() if shard == left]:
                clients.pop(name).close(4000)
            wait_until(lambda: len(self.shards(server)) == len(clients), "they are closed")
            # Some await their back end, and stay.
            busy = list(clients.values())[::2]
            for client in busy:
                client.send("slow")
            status, _, answer = server.get("/rebalance", "POST")
            self.assertEqual(status, 200, answer)
            for client in busy:
                self.assertEqual(client.recv(PATIENCE_S), "slow")
            after = wait_until(lambda: (found := self.shards(server)) and len(found) == len(clients) and found, "all have arrived")
            now = {name for name in after if after[name] != before[name]}
            self.assertEqual(len(now), json.loads(answer)["moved"])
            moved |= now
            for name, client in clients.items():
                self.assert_echoes(client, f"{round}", "more")
                self.assertEqual((self.post(server, name, "by id"), client.recv(PATIENCE_S)), (200, "by id"))
        self.assertGreater(len(moved), 0)
        for client in clients.values():
            client.close(4000)
        told.until_disconnected(24)
        self.assertEqual((set(told.codes.values()), len(told.by_id)), ({4000}, 24))
        for texts in told.by_id.values():
            self.assertEqual((texts[0], texts[-1]), ("connect", "disconnect"))
            sent = [text for text in texts[1:-1] if text != "slow"]
            self.assertEqual(sent, [text for round in range(len(sent) // 2) for text in (f"{round}", "more")])
        self.assertGreater(sum(texts.count("slow") for texts in told.by_id.values()), 0)

    def test_one_with_another_table_than_its_shards_moves_to_a_successor_only(self):
        one, other = self.service(by_event(message=echo)), self.service(by_event(message=(200, {"messages": [{"text": "other"}]})))
        server, told = self.first(tables(one.url)), Told(one)
        clients = [self.open(server, f"/chat/{number}") for number in range(8)]
        told.read(8)
        with open(server.config, "w") as file:
            file.write(tables(other.url))
        self.assertEqual(server.get("/reload", "POST")[0], 200)
        shards = self.shards(server)
        for name in [name for name, shard in shards.items() if shard == 0]:
            self.assertEqual(server.get(f"/connections/{name}", "DELETE")[0], 200)
        self.assertEqual(json.loads(server.get("/rebalance", "POST")[2])["moved"], 0)
        kept = [client for client in clients if self.is_open(client)]
        self.assertEqual(len(kept), sum(shard == 1 for shard in shards.values()))
        for client in kept:
            self.assert_echoes(client, "still")
        self.upgrade(server, tables(other.url))
        for client in kept:
            client.send("hi")
            self.assertEqual(client.recv(PATIENCE_S), "other")

    @staticmethod
    def is_open(client):
        with contextlib.suppress(ConnectionClosed):
            return client.ping().wait(PATIENCE_S)
        return False


class OnEpoll(OnUring):
    denied = True


if __name__ == "__main__":
    unittest.main()
