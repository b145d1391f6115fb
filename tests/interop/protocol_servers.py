"""Starts the servers of applications that `protocols` has: the load generator speaks their protocols."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import programs
from harness import PATIENCE_S, refusing_port, wait_until

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "protocols")
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"
ACTION_CABLE = "/usr/share/rubygems-integration/all/gems"
# RabbitMQ takes a few seconds on a quiet machine.
START_S_MAX = 120


def missing():
    """The missing package of each server that is not installed, by its function's name."""
    lacks = {}
    npm = {
        "json_rpc": "rpc-websockets",
        "graphql_ws": "graphql-ws",
        "socket_io": "socket.io",
        "wamp": "fox-wamp",
        "phoenix": "ws",
        "signalr": "ws",
    }
    for server, package in npm.items():
        if not os.path.isdir(os.path.join(programs.NODE_MODULES, package)):
            lacks[server] = f"npm's {package}"
    if shutil.which("mosquitto") is None:
        lacks["mqtt"] = "mosquitto"
    if not os.path.exists(RABBITMQ):
        lacks["stomp"] = "rabbitmq-server"
    if shutil.which("puma") is None or not any("actioncable" in name for name in _listed(ACTION_CABLE)):
        lacks["action_cable"] = "ruby-actioncable, ruby-railties and puma"
    return lacks


def _listed(directory):
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(directory)
    return []


@contextlib.contextmanager
def _node(name, path):
    with programs.Peer([programs.NODE, os.path.join(HERE, name)]) as peer:
        yield peer.url + path


json_rpc = functools.partial(_node, "json_rpc.mjs", "/")
graphql_ws = functools.partial(_node, "graphql_ws.mjs", "/graphql")
socket_io = functools.partial(_node, "socket_io.mjs", "/socket.io/?EIO=4&transport=websocket")
wamp = functools.partial(_node, "wamp.mjs", "/ws")
phoenix = functools.partial(_node, "phoenix.mjs", "/socket/websocket?vsn=2.0.0")
signalr = functools.partial(_node, "signalr.mjs", "/hub")


@contextlib.contextmanager
def _command(command, port, **settings):
    """Runs a server that cannot tell its port, until the end of the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **settings
        )
        try:
            _await_listener(process, port, log)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _await_listener(process, port, log):
    """Waits until a server listens that does not tell when it does."""

    def is_listening():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except OSError:
            assert process.poll() is None, said()
            return False
        return True

    def said():
        log.seek(0)
        return f"{process.args} does not listen: {log.read().decode()}"

    wait_until(is_listening, said, START_S_MAX)


@contextlib.contextmanager
def mqtt():
    """Debian's mosquitto, which speaks MQTT 3.1.1 and 5."""
    with refusing_port() as port, tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "mosquitto.conf")
        lines = [
            f"listener {port} 127.0.0.1",
            "socket_domain ipv4",
            "protocol websockets",
            # With WebSocket listeners alone, version 2.0.11 ends.
            f"listener 0 {directory}/socket",
            "user root" if os.geteuid() == 0 else "",
            "allow_anonymous true",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "log_dest stdout",
        ]
        with open(path, "w") as file:
            file.write("\n".join(lines) + "\n")
        with _command(["mosquitto", "-c", path], port):
            yield f"ws://127.0.0.1:{port}/mqtt"


@contextlib.contextmanager
def stomp():
    """Debian's RabbitMQ with its plugin for STOMP over WebSocket."""
    with (
        refusing_port() as port,
        # It looks whether all addresses have this port, before it listens at one.
        refusing_port(address="0.0.0.0") as distribution,
        refusing_port() as mapper,
        tempfile.TemporaryDirectory() as directory,
    ):
        files = {
            "enabled_plugins": "[rabbitmq_web_stomp].\n",
            "rabbitmq.conf": "\n".join(
                [
                    "listeners.tcp = none",
                    "stomp.listeners.tcp = none",
                    "web_stomp.tcp.ip = 127.0.0.1",
                    f"web_stomp.tcp.port = {port}",
                    "web_stomp.ws_frame = text",
                    "",
                ]
            ),
        }
        for name, content in files.items():
            with open(os.path.join(directory, name), "w") as file:
                file.write(content)
        environment = os.environ | {
            "HOME": directory,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"test{os.getpid()}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": os.path.join(directory, "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(directory, "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": os.path.join(directory, "data"),
            "RABBITMQ_LOG_BASE": os.path.join(directory, "log"),
        }
        try:
            with _command([RABBITMQ], port, env=environment):
                yield f"ws://127.0.0.1:{port}/ws"
        finally:
            # The mapper of Erlang's names is a daemon of its own.
            subprocess.run(["epmd", "-port", str(mapper), "-kill"], capture_output=True)


@contextlib.contextmanager
def action_cable():
    """Debian's Action Cable on puma."""
    configuration = os.path.join(HERE, "action_cable.ru")
    with refusing_port() as port:
        with _command(["puma", "--bind", f"tcp://127.0.0.1:{port}", "--threads", "1:4", configuration], port):
            yield f"ws://127.0.0.1:{port}/cable"
