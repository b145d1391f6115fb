"""PyPI's `centrifuge-python`, unmodified, as the client. `test_centrifuge.py` describes the lines of its input and output."""

import asyncio
import base64
import json
import sys

import centrifuge

settings = json.loads(sys.argv[1])


def say(**line):
    print(json.dumps(line), flush=True)


def pack(data):
    """Only clients of protobuf have bytes."""
    return base64.b64decode(data["bytes"]) if isinstance(data, dict) and "bytes" in data else data


def unpack(data):
    return {"bytes": base64.b64encode(data).decode()} if isinstance(data, bytes) else data


def info_of(info):
    about = {"conn_info": info.conn_info, "chan_info": info.chan_info}
    return {"user": info.user, "client": info.client, **{name: unpack(data) for name, data in about.items() if data}}


def publication_of(publication):
    author = {"info": info_of(publication.info)} if publication.info else {}
    return {"data": unpack(publication.data), "offset": publication.offset, **author}


def failure_of(error):
    return {"code": getattr(error, "code", None), "message": getattr(error, "message", str(error))}


def subscribed(context):
    """What subscriptions of clients and those of the server have in common."""
    position = context.stream_position
    return {
        "wasRecovering": context.was_recovering,
        "recovered": context.recovered,
        "recoverable": context.recoverable,
        "position": position and {"offset": position.offset, "epoch": position.epoch},
        "data": unpack(context.data),
    }


class ClientEvents(centrifuge.ClientEventHandler):
    async def on_connecting(self, context):
        say(event="connecting", code=context.code, reason=context.reason)

    async def on_connected(self, context):
        say(event="connected", client=context.client, data=unpack(context.data))

    async def on_disconnected(self, context):
        # The library also calls this before it reconnects.
        lasting = client.state == centrifuge.ClientState.DISCONNECTED
        say(event="disconnected" if lasting else "connecting", code=context.code, reason=context.reason)

    async def on_error(self, context):
        say(event="error", **failure_of(context.error))

    async def on_subscribed(self, context):
        say(event="server subscribed", channel=context.channel, **subscribed(context))

    async def on_unsubscribed(self, context):
        say(event="server unsubscribed", channel=context.channel)

    async def on_publication(self, context):
        say(event="server publication", channel=context.channel, **publication_of(context.pub))


class SubscriptionEvents(centrifuge.SubscriptionEventHandler):
    def __init__(self, channel):
        self.channel = channel

    def tell(self, event, **more):
        say(event=event, channel=self.channel, **more)

    async def on_subscribing(self, context):
        self.tell("subscribing", code=context.code, reason=context.reason)

    async def on_subscribed(self, context):
        self.tell("subscribed", positioned=context.positioned, **subscribed(context))

    async def on_unsubscribed(self, context):
        self.tell("unsubscribed", code=context.code, reason=context.reason)

    async def on_publication(self, context):
        self.tell("publication", **publication_of(context.pub))

    async def on_join(self, context):
        self.tell("join", **info_of(context.info))

    async def on_leave(self, context):
        self.tell("leave", **info_of(context.info))

    async def on_error(self, context):
        self.tell("subscription error", **failure_of(context.error))


async def next_token():
    say(event="token")
    if not tokens:
        raise centrifuge.UnauthorizedError
    return tokens.pop(0)


class Actions:
    async def connect(self):
        await client.connect()

    async def disconnect(self):
        await client.disconnect()

    async def subscribe(self, channel, recoverable=False, join_leave=False, delta=None, tokens=()):
        own_tokens = list(tokens)

        async def next_token(_):
            say(event="subscription token", channel=channel)
            if not own_tokens:
                raise centrifuge.UnauthorizedError
            return own_tokens.pop(0)

        subscription = client.new_subscription(
            channel,
            events=SubscriptionEvents(channel),
            recoverable=recoverable,
            join_leave=join_leave,
            delta=delta and centrifuge.DeltaType(delta),
            token=own_tokens.pop(0) if own_tokens else "",
            get_token=next_token if tokens else None,
            min_resubscribe_delay=0.05,
            max_resubscribe_delay=0.5,
        )
        await subscription.subscribe()

    async def unsubscribe(self, channel):
        await client.get_subscription(channel).unsubscribe()

    async def publish(self, channel, data):
        await client.publish(channel, pack(data))

    async def history(self, channel, limit=0, since=None, reverse=False):
        since = since and centrifuge.StreamPosition(**since)
        result = await client.history(channel, limit=limit, since=since, reverse=reverse)
        return {
            "publications": [publication_of(publication) for publication in result.publications],
            "position": {"offset": result.offset, "epoch": result.epoch},
        }

    async def presence(self, channel):
        return [info_of(info) for info in (await client.presence(channel)).clients.values()]

    async def presence_stats(self, channel):
        stats = await client.presence_stats(channel)
        return {"clients": stats.num_clients, "users": stats.num_users}

    async def rpc(self, method, data):
        return unpack((await client.rpc(method, pack(data))).data)


async def act(id, action, **parameters):
    try:
        say(answer=id, result=await getattr(Actions(), action)(**parameters))
    except Exception as error:
        say(answer=id, error=failure_of(error))


async def main():
    global client, tokens
    tokens = list(settings["tokens"])
    client = centrifuge.Client(
        settings["url"],
        events=ClientEvents(),
        token=tokens.pop(0) if tokens else "",
        get_token=next_token if settings["tokens"] else None,
        use_protobuf=settings["protobuf"],
        timeout=settings["timeout_ms"] / 1000,
        min_reconnect_delay=0.05,
        max_reconnect_delay=0.5,
    )
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # Not awaited one by one: a client does several things at a time.
    running = set()
    async for line in reader:
        task = asyncio.create_task(act(**json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
