"""Chat rooms behind echoring: clients have WebSockets, this application has requests. Needs Flask.

    export WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
    python3 examples/backends/flask/app.py --port 8000
    # in echoring.toml: [[backends]] with path = "/rooms/{room}", url = "http://127.0.0.1:8000/events" and the same secret
    # then: echoring connect 'ws://127.0.0.1:9001/rooms/lobby?name=alice'

A room is a topic. The answer to a connect subscribes the client; the answer to a message publishes it.
docs/guide/back-ends.md explains the requests.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import time
import urllib.parse
import urllib.request

from flask import Flask, abort, request
from werkzeug.serving import make_server

# A request that is older or newer is refused: it may be a copy of one that somebody has recorded.
TOLERANCE_S = 300

app = Flask(__name__)
# The names of clients, by their connections. More than one process of this application would keep them in a database.
names = {}


def key():
    secret = os.environ["WEBHOOK_SECRET"]
    return base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()


def verify():
    """Refuses a request that does not come from echoring, or not now. The signature is about the bytes, not about the JSON in them."""
    sent_at = request.headers.get("webhook-timestamp", "")
    if not sent_at.isascii() or not sent_at.isdigit() or abs(time.time() - int(sent_at)) > TOLERANCE_S:
        abort(401)
    signed = f"{request.headers.get('webhook-id')}.{sent_at}.".encode() + request.get_data()
    expected = "v1," + base64.b64encode(hmac.new(key(), signed, hashlib.sha256).digest()).decode()
    # There is a signature for each secret of the server.
    signatures = request.headers.get("webhook-signature", "").split()
    if not any(hmac.compare_digest(signature.encode(), expected.encode()) for signature in signatures):
        abort(401)


@app.post("/events")
def events():
    verify()
    event = request.get_json()
    return {"connect": connected, "message": said, "disconnect": left}[event["event"]](event)


def topic(event):
    return "rooms." + urllib.parse.unquote(event["path"].rsplit("/", 1)[-1])


def connected(event):
    asked = urllib.parse.parse_qs(event["query"]).get("name", [""])[0]
    name = event["identity"] or asked
    if not re.fullmatch(r"\w{1,32}", name):
        abort(403)
    names[event["connection"]] = name
    welcome = {"welcome": name, "connection": event["connection"]}
    return {
        "subscribe": [topic(event)],
        "messages": [{"text": json.dumps(welcome)}],
        "publish": [{"topic": topic(event), "text": json.dumps({"joined": name})}],
    }


def said(event):
    name = names.get(event["connection"])
    if name is None:
        # This application was started again, and does not know its clients any more. They come back.
        return {"close": {"code": 1012, "reason": "the application has restarted"}}
    if "text" not in event:
        return {"close": {"code": 1003, "reason": "only text is accepted"}}
    return {"publish": [{"topic": topic(event), "text": json.dumps({"from": name, "text": event["text"]})}]}


def left(event):
    """The connection is closed, so that the answer has no effect: what others are to know goes through the admin address."""
    name = names.pop(event["connection"], None)
    admin = os.environ.get("ECHORING_ADMIN")
    if name and admin:
        where = f"{admin}/topics/{urllib.parse.quote(topic(event), safe='')}"
        body = json.dumps({"left": name}).encode()
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("ECHORING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        urllib.request.urlopen(urllib.request.Request(where, body, headers), timeout=5).close()
    return "", 204


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8000)
    server = make_server("127.0.0.1", arguments.parse_args().port, app, threaded=True)
    print(f"listening {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
