"""Broadcast, with the `websockets` library as the clients."""

import asyncio
import contextlib

from harness import PATIENCE_S, AsyncTest, Raw, Server, frame
from websockets.asyncio.client import connect


class Broadcast(AsyncTest):
    denied = False

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--shards", "2", denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.clients = contextlib.AsyncExitStack()
        await self.clients.__aenter__()
        self.addAsyncCleanup(self.clients.aclose)

    async def join(self, path):
        client = connect(self.server.url(path), compression=None, open_timeout=PATIENCE_S)
        return await self.clients.enter_async_context(client)

    async def receive(self, client):
        return await asyncio.wait_for(client.recv(), PATIENCE_S)

    async def test_every_other_subscriber_gets_every_message_with_its_type(self):
        subscribers = [await self.join("/broadcast/all") for _ in range(20)]
        publisher = await self.join("/broadcast/all")
        await publisher.send("to all")
        await publisher.send(b"\x00\x01")
        for subscriber in subscribers:
            self.assertEqual(await self.receive(subscriber), "to all")
            self.assertEqual(await self.receive(subscriber), b"\x00\x01")

    async def test_the_publisher_hears_itself_only_when_it_asks_to(self):
        silent = await self.join("/broadcast/own")
        hearing = await self.join("/broadcast/own?self=1")
        await hearing.send("mine")
        self.assertEqual(await self.receive(hearing), "mine")
        self.assertEqual(await self.receive(silent), "mine")
        await silent.send("not mine")
        self.assertEqual(await self.receive(hearing), "not mine")
        # If the server had sent `silent` its own message, it would have come before this one.
        await hearing.send("last")
        self.assertEqual(await self.receive(silent), "last")

    async def test_a_subscriber_hears_what_is_published_once_its_handshake_is_done(self):
        publisher = await self.join("/broadcast/early")
        for i in range(40):
            subscriber = await self.join("/broadcast/early")
            await publisher.send(str(i))
            self.assertEqual(await self.receive(subscriber), str(i))
            await subscriber.close()

    async def test_a_publishers_messages_arrive_in_order_and_once(self):
        subscribers = [await self.join("/broadcast/order") for _ in range(5)]
        publishers = [await self.join("/broadcast/order") for _ in range(3)]
        each = 200

        async def publish(name, client):
            for i in range(each):
                await client.send(f"{name}:{i}")

        async def drain(client, count):
            return [await self.receive(client) for _ in range(count)]

        reading = [asyncio.create_task(drain(client, each * len(publishers))) for client in subscribers]
        reading += [asyncio.create_task(drain(client, each * (len(publishers) - 1))) for client in publishers]
        await asyncio.gather(*(publish(name, client) for name, client in zip("abc", publishers)))
        heard = await asyncio.gather(*reading)
        for messages in heard:
            for name in "abc":
                own = [message for message in messages if message.startswith(name)]
                self.assertIn(own, ([], [f"{name}:{i}" for i in range(each)]))
        # All subscribers that receive all messages see one order.
        for messages in heard[: len(subscribers)]:
            self.assertEqual(messages, heard[0])

    async def test_topics_do_not_mix_and_their_names_may_be_encoded(self):
        here = await self.join("/broadcast/sm%C3%B8r%20br%C3%B8d")
        elsewhere = await self.join("/broadcast/smør")
        same = await self.join("/broadcast/sm%c3%b8r%20br%c3%b8d")
        await same.send("found")
        self.assertEqual(await self.receive(here), "found")
        other = await self.join("/broadcast/sm%C3%B8r")
        await other.send("apart")
        self.assertEqual(await self.receive(elsewhere), "apart")

    async def test_a_fragmented_message_is_broadcast_whole(self):
        subscriber = await self.join("/broadcast/fragments")
        publisher = await self.join("/broadcast/fragments")
        await publisher.send(["first ", "second ", "third"])
        await publisher.send([b"\x01" * 30000, b"\x02" * 30000])
        self.assertEqual(await self.receive(subscriber), "first second third")
        self.assertEqual(await self.receive(subscriber), b"\x01" * 30000 + b"\x02" * 30000)

    async def test_those_who_leave_are_not_missed(self):
        staying = await self.join("/broadcast/leave")
        publisher = await self.join("/broadcast/leave")
        for i in range(10):
            leaving = await self.join("/broadcast/leave")
            if i % 2:
                await leaving.close()
            else:
                leaving.transport.abort()
            await publisher.send(str(i))
            self.assertEqual(await self.receive(staying), str(i))


    async def test_a_subscriber_that_does_not_read_is_disconnected_with_4008_and_the_others_are_not(self):
        await asyncio.to_thread(self._slow_subscriber)

    def _slow_subscriber(self):
        message = b"x" * 60_000
        with (
            Raw(self.server).open("/broadcast/slow") as slow,
            Raw(self.server).open("/broadcast/slow") as quick,
            Raw(self.server).open("/broadcast/slow") as publisher,
        ):
            # Far more than the socket buffers and a topic's log hold together.
            published = frame(2, message)
            dropped = lambda: self.server.stats()["node"]["deliveries"]["dropped"]["disconnect"]
            before = dropped()
            # The Close frame waits only so long for one who does not read.
            for _ in range(200):
                publisher.send(published)
                self.assertEqual(quick.read_frame(), (0x82, message))
                if dropped() > before:
                    break
            received = 0
            first, payload = slow.read_frame()
            while first == 0x82:
                self.assertEqual(payload, message, "what arrives is whole and in order")
                received += 1
                first, payload = slow.read_frame()
            self.assertEqual((first, payload[:2]), (0x88, (4008).to_bytes(2, "big")))
            self.assertLess(received, 200)
            # The topic continues for the subscribers that read.
            publisher.send(frame(1, b"still on"))
            self.assertEqual(quick.read_frame(), (0x81, b"still on"))

    async def test_publishers_that_flood_each_other_all_get_everything(self):
        # Less in total than a topic's log keeps, so that no subscriber is a slow consumer.
        members = [await self.join("/broadcast/flood") for _ in range(4)]
        each = 300

        async def take_part(name, client):
            async def publish():
                for i in range(each):
                    await client.send(f"{name}:{i}:" + "x" * 150)

            sending = asyncio.create_task(publish())
            heard = [(await self.receive(client)).rsplit(":", 1)[0] for _ in range(each * 3)]
            await sending
            return heard

        heard = await asyncio.gather(*(take_part(i, client) for i, client in enumerate(members)))
        for own, messages in enumerate(heard):
            for other in set(range(4)) - {own}:
                expected = [f"{other}:{i}" for i in range(each)]
                self.assertEqual([m for m in messages if m.startswith(f"{other}:")], expected)


class LargeBroadcasts(AsyncTest):
    denied = False

    async def test_a_message_larger_than_a_topic_keeps_arrives_whole(self):
        with Server("--max-message", "1MiB", "--shards", "2", denied=self.denied) as server:
            options = {"compression": None, "max_size": None, "open_timeout": PATIENCE_S}
            async with contextlib.AsyncExitStack() as clients:
                members = [
                    await clients.enter_async_context(connect(server.url("/broadcast/large"), **options))
                    for _ in range(4)
                ]
                for message in (b"\x07" * (1 << 20), "ü" * (1 << 19), "small"):
                    await members[0].send(message)
                    for member in members[1:]:
                        received = await asyncio.wait_for(member.recv(), PATIENCE_S)
                        self.assertEqual(received, message)

    def test_a_subscriber_may_lag_as_far_as_it_is_given(self):
        with Server("--queue-bytes", "16MiB", denied=self.denied) as server:
            with Raw(server).open("/broadcast/lag") as slow, Raw(server).open("/broadcast/lag") as publisher:
                message = b"x" * 60_000
                # Masked once, because masking takes time and a lag of a few seconds also disconnects.
                published = frame(2, message)
                for _ in range(150):
                    publisher.send(published)
                for _ in range(150):
                    self.assertEqual(slow.read_frame(), (0x82, message))


class LargeBroadcastsWithoutIoUring(LargeBroadcasts):
    denied = True


class BroadcastWithoutIoUring(Broadcast):
    denied = True
