"""Streams the tokens of a language model to browsers, through the topics of echoring. Needs only Python's standard library.

    echoring serve --config examples/token_stream/echoring.toml
    python3 examples/token_stream/backend.py
    # then open http://127.0.0.1:8000/

Every answer has a topic. All answers share one connection to the admin address: while a request is under way, the tokens that come
meanwhile are collected, and the next request has all of them. docs/guide/token-streams.md explains it.
"""

import argparse
import http.client
import http.server
import json
import pathlib
import queue
import secrets
import threading
import time

PAGE = pathlib.Path(__file__).with_name("page.html")
PROMPT_BYTES_MAX = 16 * 1024
# Lines of a request; echoring takes 10,000.
BATCH_MAX = 5_000
# Answers that pages can open again.
ANSWERS_MAX = 1_000
# Between two attempts to publish.
RETRY_S = 0.2
# Refusals after which the same message may be accepted.
PASSING = {"busy", "draining", "ended", "out-of-memory", "rate-limited", "timeout", "too-many-topics", "uncertain", "unreachable"}


def fake_model(prompt):
    """Stands for a language model: yields the tokens of its answer."""
    words = prompt.split() or ["nothing"]
    yield f"You asked about {len(words)} words.\n"
    for number in range(200):
        time.sleep(0.03)
        yield words[number % len(words)] + (".\n" if number % 12 == 11 else " ")


class Answer:
    """The answer to a prompt: the text that was published, and its position in the topic."""

    def __init__(self):
        self.id = secrets.token_urlsafe(16)
        self.topic = f"answers/{self.id}"
        self.text, self.epoch, self.offset, self.end = "", None, 0, None
        self.is_stopped = threading.Event()
        self.lock = threading.Lock()

    def published(self, message, result):
        with self.lock:
            self.text += message.get("text", "")
            self.end = message.get("end", self.end)
            self.epoch, self.offset = result["epoch"], result["offset"]

    def state(self):
        """For pages that have no position, or whose position is no longer in the history."""
        with self.lock:
            return {"topic": self.topic, "text": self.text, "epoch": self.epoch, "offset": self.offset, "end": self.end}


class Publisher(threading.Thread):
    """Publishes the tokens of all answers over one connection."""

    def __init__(self, host, port, token=None):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(host, port, timeout=15)
        self.headers = {"Content-Type": "application/x-ndjson"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        self.waiting = queue.Queue(BATCH_MAX)

    def publish(self, answer, message):
        """Waits while too many messages do."""
        self.waiting.put((answer, message))

    def run(self):
        while True:
            lines = self.collect()
            while lines:
                lines = self.send(lines)
                if lines:
                    time.sleep(RETRY_S)

    def collect(self):
        """What waits: for each answer one message with all its tokens, in order."""
        messages = {}
        item = self.waiting.get()
        while item:
            answer, message = item
            before = messages.setdefault(answer, {})
            messages[answer] = before | message | {"text": before.get("text", "") + message.get("text", "")}
            try:
                item = self.waiting.get_nowait()
            except queue.Empty:
                item = None
        # A key makes each line safe to repeat.
        return [(answer, message, secrets.token_hex(8)) for answer, message in messages.items()]

    def send(self, lines):
        """Publishes lines. Returns those that are to be sent again, in order."""
        body = "".join(
            json.dumps({"topic": answer.topic, "data": message, "idempotency_key": key}) + "\n"
            for answer, message, key in lines
        )
        try:
            self.connection.request("POST", "/broadcast", body.encode(), self.headers)
            response = self.connection.getresponse()
            results = [json.loads(line) for line in response.read().splitlines()]
            if response.status in (401, 403):
                print(f"echoring does not let this program publish: {response.status}", flush=True)
                return lines
        except (OSError, http.client.HTTPException, ValueError):
            # Perhaps they are published: the keys keep them from being published twice.
            self.connection.close()
            return lines
        again = []
        for number, (answer, message, key) in enumerate(lines):
            # Lines without an answer were not read.
            result = results[number] if number < len(results) else {"error": {"code": "timeout"}}
            if "error" not in result:
                answer.published(message, result)
            elif result["error"]["code"] in PASSING:
                again.append((answer, message, key))
            else:
                print(f"{answer.topic} has lost a message: {result['error']}", flush=True)
                answer.is_stopped.set()
        return again


class Backend(http.server.ThreadingHTTPServer):
    """The page, and the requests that it makes."""

    daemon_threads = True

    def __init__(self, address, publisher, echoring, model=fake_model):
        super().__init__(address, Requests)
        self.publisher, self.echoring, self.model = publisher, echoring, model
        # By their ids, the oldest first. A real back end has a database.
        self.answers = {}

    def ask(self, prompt):
        answer = Answer()
        self.answers[answer.id] = answer
        while len(self.answers) > ANSWERS_MAX:
            self.answers.pop(next(iter(self.answers)))
        threading.Thread(target=self.generate, args=(answer, prompt), daemon=True).start()
        return answer

    def generate(self, answer, prompt):
        end = "complete"
        try:
            for token in self.model(prompt):
                if answer.is_stopped.is_set():
                    end = "stopped"
                    break
                self.publisher.publish(answer, {"text": token})
        except Exception as error:  # The page must get an end marker, whatever the model raises.
            print(f"the model failed: {error}", flush=True)
            end = "failed"
        self.publisher.publish(answer, {"end": end})


class Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            page = PAGE.read_text(encoding="utf-8").replace("%ECHORING%", self.server.echoring)
            return self.reply(200, page, "text/html; charset=utf-8")
        return self.with_answer("/answers/", lambda answer: self.reply(200, json.dumps(answer.state())))

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), PROMPT_BYTES_MAX))
        if self.path == "/ask":
            answer = self.server.ask(body.decode(errors="replace"))
            return self.reply(200, json.dumps({"id": answer.id}))
        return self.with_answer("/stop/", self.stop)

    def stop(self, answer):
        answer.is_stopped.set()
        self.reply(200, "{}")

    def with_answer(self, prefix, use):
        answer = self.server.answers.get(self.path.removeprefix(prefix)) if self.path.startswith(prefix) else None
        return use(answer) if answer else self.reply(404, "{}")

    def reply(self, status, body, content_type="application/json"):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--echoring", default="127.0.0.1:9001", help="where pages connect")
    parser.add_argument("--admin", default="127.0.0.1:9002", help="where tokens are published")
    parser.add_argument("--admin-token-file", type=pathlib.Path)
    options = parser.parse_args()
    host, port = options.admin.rsplit(":", 1)
    token = options.admin_token_file.read_text().strip() if options.admin_token_file else None
    publisher = Publisher(host, int(port), token)
    publisher.start()
    backend = Backend(("127.0.0.1", options.port), publisher, options.echoring)
    print(f"listening on http://127.0.0.1:{backend.server_port}/", flush=True)
    backend.serve_forever()


if __name__ == "__main__":
    main()
