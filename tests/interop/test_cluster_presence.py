"""Member lists of several nodes: every subscriber sees who is there, wherever the others are, and whatever becomes of nodes."""

import asyncio
import contextlib
import json
import signal
import time

import programs
from harness import PATIENCE_S, text_file, wait_until_async
from test_centrifuge import PATH, Client
from test_cluster import InACluster, Session, asynchronous

# Some for each node to own.
ROOMS = [f"rooms.{number}" for number in range(8)]
CONFIGURATION = """
[[topics]]
pattern = "rooms.*"
presence = "everybody"
"""
# In which every subscriber must know that a node was killed, with the times of the tests and with those of the defaults: 5 s, and as much
# again for a machine that is busy elsewhere.
TOLD_WITHIN_S = 10
# Sessions that move together, and how often.
MOVING = 12
MOVES = 3
# In which a false notice would arrive.
QUIET_S = 2


async def members(session, room):
    """The count and the members, page by page."""
    count, clients, after = None, [], {}
    while True:
        number = await session.request("presence", topic=room, limit=2, **after)
        page = await session.next("members", "error", id=number)
        assert page["type"] == "members", page
        count, clients = page["count"], clients + page["clients"]
        if "next" not in page:
            assert "unlisted" not in page, page
            return count, clients
        after = {"after": page["next"]}


def in_order(ids):
    return sorted(ids, key=lambda id: int(id, 16))


async def until_members(session, room, expected, seconds=PATIENCE_S):
    async def are_told():
        return await members(session, room) == (len(expected), in_order(expected))

    await wait_until_async(are_told, f"{expected} in {room}", seconds)


async def notices(session, count, room):
    return [await session.next("presence", topic=room) for _ in range(count)]


def close(node, session):
    """Closes a session, as an operator does."""
    address = "{}:{}".format(*session.socket.local_address)
    connections = json.loads(node.get("/connections?topic=rooms.0")[2])["connections"]
    [id] = [each["id"] for each in connections if each["address"] == address]
    status, _, answer = node.get(f"/connections/{id}", "DELETE")
    assert status == 200, answer


def told_members(clients, events, room):
    """The members as a client knows them that follows the documentation, and knew `clients`."""
    clients = set(clients)
    for event in events:
        if event.get("topic") != room:
            continue
        match event["type"], event.get("event"):
            case "presence", "join":
                clients.add(event["client"])
            case "presence", "leave":
                clients.discard(event["client"])
            case "members", _ if "id" not in event:
                if "after" not in event:
                    clients.clear()
                clients.update(event["clients"])
    return clients


async def quiet(session):
    """Nothing about members is told for a while."""
    try:
        event = await asyncio.wait_for(session.next("presence"), QUIET_S)
    except TimeoutError:
        return
    raise AssertionError(event)


class Presence(InACluster):
    def setUp(self):
        super().setUp()
        self.flags = ("--config", self.enterContext(text_file(CONFIGURATION)))

    def nodes(self, *names):
        return self.start(*names, flags=self.flags)

    async def gather(self, *sessions):
        """All sessions subscribe to all rooms, one after the other, and hear of each other. Returns their ids."""
        ids = []
        for session in sessions:
            clients = {(await session.subscribe(room))["client"] for room in ROOMS}
            self.assertEqual(len(clients), 1, "a client has one id")
            ids.append(clients.pop())
            for room in ROOMS:
                for listening in sessions[: len(ids)]:
                    await listening.next("presence", topic=room, event="join", client=ids[-1])
        self.assertEqual(len(set(ids)), len(sessions))
        for room in ROOMS:
            for session in sessions:
                await until_members(session, room, ids)
        return ids

    def call(self, node, method, **parameters):
        return node.call(method, **parameters)["result"]

    @asynchronous
    async def test_joins_and_leaves_are_told_at_every_node_in_one_order(self):
        nodes = self.nodes("a", "b", "c")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two, Session(nodes[2]) as three:
            for room in ROOMS:
                ids = []
                for count, session in enumerate((one, two, three), 1):
                    begun = await session.subscribe(room)
                    self.assertEqual(begun["count"], count, begun)
                    ids.append(begun["client"])
                    for listening in (one, two, three)[:count]:
                        [joined] = await notices(listening, 1, room)
                        self.assertEqual((joined["event"], joined["client"]), ("join", ids[-1]))
                        self.assertEqual(joined["count"], count)
                for session in (one, two, three):
                    self.assertEqual(await members(session, room), (3, in_order(ids)))
                for node in nodes:
                    _, _, report = node.get(f"/topics/{room}")
                    self.assertEqual(json.loads(report)["members"], 3)
                    _, _, report = node.get(f"/cluster/topics?prefix={room}")
                    [topic] = json.loads(report)["topics"]
                    self.assertEqual((topic["members"], topic["subscribers"]), (3, 3))
                    present = self.call(node, "presence", channel=room)["presence"]
                    self.assertEqual(set(present), set(ids))
                    stats = self.call(node, "presence_stats", channel=room)
                    self.assertEqual(stats, {"num_clients": 3, "num_users": 1})
                await two.request("unsubscribe", topic=room)
                for listening in (one, three):
                    [left] = await notices(listening, 1, room)
                    self.assertEqual((left["event"], left["client"], left["count"]), ("leave", ids[1], 2))

    @asynchronous
    async def test_of_many_at_once_all_nodes_tell_the_same(self):
        nodes = self.nodes("a", "b")
        room = ROOMS[0]
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            ids = [(await session.subscribe(room))["client"] for session in (one, two)]
            for session in (one, two):
                while (await session.next("presence", topic=room))["count"] < 2:
                    pass
            guests = [Session(node) for node in nodes for _ in range(30)]
            may_leave = asyncio.Event()

            async def visit(guest):
                async with guest:
                    await guest.subscribe(room)
                    # Nodes mention nobody who joins and leaves between two tellings.
                    await may_leave.wait()

            visits = asyncio.gather(*(visit(guest) for guest in guests))
            for count in (2 + len(guests), 2):
                told = []
                for session in (one, two):
                    events = await notices(session, len(guests), room)
                    told.append([(event["event"], event["client"], event["count"]) for event in events])
                self.assertEqual(told[0], told[1], "one order")
                self.assertEqual(told[0][-1][2], count)
                may_leave.set()
            await visits
            for session in (one, two):
                await until_members(session, room, ids)

    @asynchronous
    async def test_members_of_a_node_that_is_killed_are_gone_soon(self):
        nodes = self.nodes("a", "b", "c")
        async with Session(nodes[2]) as lost, Session(nodes[0]) as one, Session(nodes[1]) as two:
            gone, *ids = await self.gather(lost, one, two)
            nodes[2].terminate(signal.SIGKILL)
            killed_at = time.monotonic()
            moved = 0
            for room in ROOMS:
                for session in (one, two):
                    event = await session.next("presence", "unsubscribed", topic=room)
                    if event["type"] == "unsubscribed":
                        # The node had owned it.
                        moved += 1
                        await session.subscribe(room)
                    else:
                        told = (event["event"], event["client"], event["count"])
                        self.assertEqual(told, ("leave", gone, 2))
            for room in ROOMS:
                for session in (one, two):
                    await until_members(session, room, ids, TOLD_WITHIN_S - (time.monotonic() - killed_at))
            self.assertLess(moved, 2 * len(ROOMS), "others own some")

    @asynchronous
    async def test_a_change_of_owners_tells_of_nobody_who_stays(self):
        nodes = self.nodes("a", "b")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            ids = await self.gather(one, two)
            third = self.one("c", *self.flags)
            third.await_members("a", "b")
            await asyncio.gather(quiet(one), quiet(two))
            await asyncio.to_thread(third.terminate)
            self.assertEqual(await asyncio.to_thread(third.wait), 0)
            await asyncio.gather(quiet(one), quiet(two))
            for room in ROOMS:
                for session in (one, two):
                    await until_members(session, room, ids)

    @asynchronous
    async def test_nobody_notices_that_members_move_to_another_process(self):
        nodes = self.start("a", "b", flags=("--drain", "1h", *self.flags))
        async with Session(nodes[1]) as one:
            async with Session(nodes[0]) as moving:
                moved, own = await self.gather(moving, one)
                for _ in range(2):
                    old, nodes[0] = nodes[0], await asyncio.to_thread(nodes[0].successor)
                    self.addCleanup(nodes[0].__exit__)
                    self.assertEqual(await asyncio.to_thread(old.wait), 0)
                for session in (one, moving):
                    await quiet(session)
                    for room in ROOMS:
                        await until_members(session, room, [moved, own])
                async with Session(nodes[0]) as late:
                    ids = {(await late.subscribe(room))["client"] for room in ROOMS}
                    for room in ROOMS:
                        for session in (one, moving, late):
                            await until_members(session, room, [moved, own, *ids])
                    for room in ROOMS:
                        for session in (one, moving):
                            [joined] = await notices(session, 1, room)
                            self.assertEqual((joined["event"], joined["count"]), ("join", 3))
                for room in ROOMS:
                    [left] = await notices(one, 1, room)
                    self.assertEqual((left["event"], {left["client"]}, left["count"]), ("leave", ids, 2))
            for room in ROOMS:
                [left] = await notices(one, 1, room)
                self.assertEqual((left["event"], left["client"], left["count"]), ("leave", moved, 1))

    @asynchronous
    async def test_who_comes_and_goes_elsewhere_during_a_move_is_known_afterwards(self):
        flags = ("--drain", "1h", *self.flags)
        nodes = self.start("a", "b", flags=flags)
        async with contextlib.AsyncExitStack() as open_until_here:
            moving = [await open_until_here.enter_async_context(Session(nodes[0])) for _ in range(MOVING)]
            for session in moving:
                for room in ROOMS:
                    await session.subscribe(room)
            began = {room: (await members(moving[0], room))[1] for room in ROOMS}
            for _ in range(MOVES):
                self.stopping = False
                guests = [asyncio.create_task(self.come_and_go(nodes[1], room)) for room in ROOMS]
                old, nodes[0] = nodes[0], await asyncio.to_thread(nodes[0].successor)
                self.addCleanup(nodes[0].__exit__)
                self.assertEqual(await asyncio.to_thread(old.wait), 0)
                self.stopping = True
                await asyncio.gather(*guests)
                for session in moving:
                    for room in ROOMS:
                        await until_members(session, room, began[room])
                        known = lambda room=room, session=session: told_members(began[room], session.events, room)

                        async def is_known():
                            # Earlier events come before the answer.
                            await members(session, room)
                            return known() == set(began[room])

                        await wait_until_async(is_known, lambda: f"{known() ^ set(began[room])} in {room}", TOLD_WITHIN_S)

    async def come_and_go(self, node, room):
        """Another client each time: one that returns would repair what was missed of it."""
        while not self.stopping:
            async with Session(node) as guest:
                await guest.subscribe(room)

    @asynchronous
    async def test_of_a_process_that_was_taken_over_are_gone_with_it_and_no_others(self):
        flags, tls = self.tls()
        for ends in ("drains", "is killed"):
            nodes = self.start("a", "b", flags=("--drain", "1h", *flags, *self.flags))
            async with contextlib.AsyncExitStack() as open_until_here:
                sessions = [Session(nodes[number], tls) for number in (0, 0, 1)]
                leaving, late, one = [await open_until_here.enter_async_context(session) for session in sessions]
                gone, own = await self.gather(leaving, one)
                successor = await asyncio.to_thread(nodes[0].successor)
                self.addCleanup(successor.__exit__)
                back = await open_until_here.enter_async_context(Session(nodes[0], tls))
                # One joins at each process.
                ids = [gone, own]
                for joining, others in ((late, (leaving, one)), (back, (leaving, one, late))):
                    [joined] = {(await joining.subscribe(room))["client"] for room in ROOMS}
                    ids.append(joined)
                    for room in ROOMS:
                        for session in (*others, joining):
                            await session.next("presence", topic=room, event="join", client=joined, count=len(ids))
                if ends == "is killed":
                    nodes[0].terminate(signal.SIGKILL)
                else:
                    # A drain would close them at times of its own.
                    for session in (leaving, late):
                        await asyncio.to_thread(close, successor, session)
                await asyncio.to_thread(nodes[0].wait)
                for room in ROOMS:
                    for session in (one, back):
                        left = await notices(session, 2, room)
                        self.assertEqual({(event["event"], event["client"]) for event in left}, {("leave", ids[0]), ("leave", ids[2])}, ends)
                        self.assertEqual([event["count"] for event in left], [3, 2])
                        await until_members(session, room, [own, ids[3]])
                await quiet(one)
            await asyncio.to_thread(successor.terminate)
            await asyncio.to_thread(nodes[1].terminate)
            await asyncio.to_thread(successor.wait)
            await asyncio.to_thread(nodes[1].wait)

    @asynchronous
    async def test_a_member_that_moves_between_shards_is_neither_seen_to_leave_nor_to_join(self):
        config = "[topic_defaults]\nhistory_messages = 0\n" + CONFIGURATION
        flags = ("--config", self.enterContext(text_file(config)), "--rebalance", "off")
        node, other = self.start("a", "b", flags=flags)
        counts = lambda: [shard["connections"] for shard in node.stats()["shards"]]

        async def settled(connections):
            async def is_so():
                return sum(counts()) == connections

            await wait_until_async(is_so, lambda: f"{connections} connections: {counts()}")

        async with contextlib.AsyncExitStack() as open_until_here:
            witness = await open_until_here.enter_async_context(Session(other))
            for room in ROOMS:
                own = (await witness.subscribe(room))["client"]
                await witness.next("presence", topic=room, event="join", client=own)
            # All at one shard.
            moving = []
            while counts()[0] < 6 or counts()[1] > 0:
                session, before = Session(node), counts()
                await session.__aenter__()
                await settled(sum(before) + 1)
                if counts()[0] > before[0]:
                    open_until_here.push_async_exit(session)
                    moving.append(session)
                else:
                    await session.__aexit__()
                    await settled(sum(before))
            # Each room has few, so that the shard that they leave has none.
            for number, session in enumerate(moving):
                for room in ROOMS[number % len(ROOMS) :: 6]:
                    own = (await session.subscribe(room))["client"]
                    for listening in (witness, session):
                        await listening.next("presence", topic=room, event="join", client=own)
            publishing = asyncio.create_task(self.publish_until_stopped(other))
            status, _, answer = await asyncio.to_thread(node.get, "/rebalance", "POST")
            self.assertEqual((status, json.loads(answer)), (200, {"moved": 3, "connections": [3, 3], "predecessor": 0}))
            await quiet(witness)
            self.stopping = True
            published = await publishing
            for number, session in enumerate(moving):
                for room in ROOMS[number % len(ROOMS) :: 6]:
                    texts = [message["text"] for message in await session.messages(room, len(published))]
                    self.assertEqual(texts, published)
                self.assertEqual([event for event in session.events if event["type"] != "message"], [])
                await session.publish(ROOMS[number], "from a member")
                await witness.next("message", topic=ROOMS[number], text="from a member")

    async def publish_until_stopped(self, node):
        self.stopping, published = False, []
        while not self.stopping:
            published.append(f"number {len(published)}")
            for room in ROOMS:
                status, answer = await asyncio.to_thread(node.publish, room, published[-1])
                self.assertEqual(status, 200, answer)
        return published

    @asynchronous
    async def test_changes_while_the_backbone_is_away_are_told_when_it_is_back(self):
        nodes = self.nodes("a", "b")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two, Session(nodes[1]) as three:
            ids = await self.gather(one, two, three)
            self.nats.stop()
            for room in ROOMS:
                await two.request("unsubscribe", topic=room)
                await two.next("unsubscribed", topic=room)
            # Longer than it takes to count as dead.
            await asyncio.sleep(QUIET_S)
            for room in ROOMS:
                self.assertIn(ids[1], (await members(one, room))[1])
            self.nats.start()
            for room in ROOMS:
                for session in (one, three):
                    [left] = await notices(session, 1, room)
                    self.assertEqual((left["event"], left["client"], left["count"]), ("leave", ids[1], 2))
            await asyncio.gather(quiet(one), quiet(three))

    def test_sdks_of_centrifuge_see_each_other_at_different_nodes(self):
        nodes = self.nodes("a", "b")
        clients = [
            Client(programs.python("centrifuge_sdk.py"), node.url(PATH), protobuf)
            for node, protobuf in zip(nodes, (False, True))
        ]
        for client in clients:
            self.addCleanup(client.close)
        one, other = clients
        first, second = one.connect(), other.connect()
        for room in ROOMS:
            one.subscribe(room, join_leave=True)
            self.assertEqual(one.next("join", channel=room)["client"], first)
            other.subscribe(room, join_leave=True)
            for client in clients:
                self.assertEqual(client.next("join", channel=room)["client"], second)
                present = client.do("presence", channel=room)
                self.assertEqual({info["client"] for info in present}, {first, second})
                self.assertEqual(client.do("presence_stats", channel=room), {"clients": 2, "users": 1})
            other.do("unsubscribe", channel=room)
            self.assertEqual(one.next("leave", channel=room)["client"], second)
