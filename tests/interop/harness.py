"""Starts and stops the program for the tests, and has a minimal WebSocket client that can send invalid bytes.

Tests wait for an event: the line on stdout that the server prints when it accepts connections, a line of a log, a message, the end of
a process. Only `wait_until` looks again and again, for states that nothing tells of.
"""

import asyncio
import base64
import contextlib
import ctypes
import http.client
import json
import os
import queue
import random
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

BINARY = os.environ.get("ECHORING", os.path.join(os.getcwd(), "target", "debug", "echoring"))

# Longer than any deadline of the server that a test waits for, so that reaching it means a hang and not a slow machine.
PATIENCE_S = 60
# `DRAIN_TIMEOUT` of the servers: one that ends earlier has waited for nobody.
DRAIN_S_MAX = 8
# Between two looks of `wait_until`.
LOOK_EVERY_S = 0.02

# Incompressible bytes, the same in every run.
noise = random.Random(20).randbytes


def deny_io_uring():
    """Makes io_uring_setup, _enter and _register fail with EPERM, as container runtimes do.

    The three system call numbers are the same on all architectures with Linux's common numbers.
    """
    deny(425, 427)


def deny(first, last):
    """Makes the system calls of these numbers fail with EPERM. Runs between fork and exec of the server."""
    BPF_LD_W_ABS, BPF_JGE_K, BPF_JGT_K, BPF_RET_K = 0x20, 0x35, 0x25, 0x06
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, EPERM = 0x7FFF0000, 0x00050000, 1
    program = [
        (BPF_LD_W_ABS, 0, 0, 0),  # seccomp_data.nr
        (BPF_JGE_K, 0, 2, first),
        (BPF_JGT_K, 1, 0, last),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | EPERM),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    filter = Program(len(program), ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def wait_until(condition, what, patience_s=PATIENCE_S):
    """Waits for a state that nothing tells of: calls `condition` until it returns something true, and returns that.

    `what` names the state, or is a function that does.
    """
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        _check(deadline, what)
        time.sleep(LOOK_EVERY_S)
    return found


async def wait_until_async(condition, what, patience_s=PATIENCE_S):
    """The same for a condition that is awaited."""
    deadline = time.monotonic() + patience_s
    while not (found := await condition()):
        _check(deadline, what)
        await asyncio.sleep(LOOK_EVERY_S)
    return found


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    """Tests on an event loop without asyncio's debug mode, in which each message takes several times the CPU."""

    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)


def _check(deadline, what):
    if time.monotonic() > deadline:
        raise AssertionError(f"waited too long: {what() if callable(what) else what}")


class Log:
    """Collects the lines of a process as they arrive, so that the process never waits for a reader."""

    def __init__(self, stream):
        self.lines = []
        # Those that no call of `wait_for` has returned.
        self._unmatched = []
        self._queue = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream):
        for line in stream:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, pattern):
        """Waits for a line that matches `pattern`, and that no earlier call has returned. Returns the match.

        The order of two calls is not that of the lines: threads of a process write theirs in any order.
        """
        for index, line in enumerate(self._unmatched):
            if match := re.search(pattern, line):
                del self._unmatched[index]
                return match
        while True:
            try:
                line = self._queue.get(timeout=PATIENCE_S)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"the log has no {pattern!r}:\n{''.join(self.lines)}")
            if match := re.search(pattern, line):
                return match
            self._unmatched.append(line)

    def join(self):
        self._reader.join(PATIENCE_S)


class Program:
    """Runs a program for the duration of the block, and reads its stderr."""

    def __init__(self, *command, stdout=subprocess.DEVNULL, **options):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, **options
        )
        self.stderr = Log(self.process.stderr)

    def wait(self):
        code = self.process.wait(PATIENCE_S)
        self.stderr.join()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def first_line(process):
    """The first line that a process prints, or none."""
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    return process.stdout.readline() if ready else ""


def request(address, method, path, body=None, headers=None):
    """Sends an HTTP request. Returns status, headers and body of the response."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=PATIENCE_S)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


class Server(Program):
    """Runs `echoring serve` on free ports for the duration of the block."""

    def __init__(self, *flags, admin="127.0.0.1:0", listen="127.0.0.1:0", **options):
        match = self._start("serve", "--listen", listen, "--admin", admin, *flags, **options)
        self.host, self.port = match[1].strip("[]"), int(match[2])
        self.driver, self.shards, self.pid = match[3], int(match[4]), int(match[5])
        self.admin = None if admin == "off" else self._admin_address()

    def _start(self, *words, denied=False, before=None):
        """Starts the program. Returns the match of its first line: host, port, driver, number of shards, and process id."""
        super().__init__(BINARY, *words, stdout=subprocess.PIPE, preexec_fn=before or (deny_io_uring if denied else None))
        self.log = self.stderr.lines
        self.listening = first_line(self.process)
        match = re.fullmatch(
            r"listening wss?://([0-9.]+|\[[0-9a-f:]+\]):(\d+) driver=(\w+) shards=(\d+) pid=(\d+)\n", self.listening
        )
        if not match:
            self.__exit__()
            raise AssertionError(f"no listening line but {self.listening!r}\n{''.join(self.log)}")
        return match

    def wait_for_log(self, pattern):
        return self.stderr.wait_for(pattern)

    def _admin_address(self):
        match = self.wait_for_log(r"admin address http://[0-9.]+:(\d+)")
        return ("127.0.0.1", int(match[1]))

    def url(self, path):
        return f"ws://{self.host}:{self.port}{path}"

    def get(self, path, method="GET", address=None, headers=None):
        """Sends an HTTP request, by default to the admin address. Returns status, headers and body."""
        return request(address or self.admin, method, path, headers=headers)

    def call(self, method, **parameters):
        """The reply to a command of Centrifugo's HTTP API."""
        headers = {"Content-Type": "application/json"}
        status, _, body = request(self.admin, "POST", f"/api/{method}", json.dumps(parameters), headers)
        assert status == 200, (status, body)
        return json.loads(body)

    def stats(self):
        status, _, body = self.get("/stats")
        assert status == 200, (status, body)
        return json.loads(body)

    def terminate(self, signal_number=signal.SIGTERM):
        self.process.send_signal(signal_number)


@contextlib.contextmanager
def refusing_port(port=0, address="127.0.0.1"):
    """A port that refuses connections: a socket is bound to it, and does not listen.

    The kernel gives it to nobody who asks for any port. Who asks for this one may listen there, with SO_REUSEADDR as servers set it.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def text_file(text, suffix=".toml", mode=0o600):
    """The path of a file with this text."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
        file.write(text)
        file.flush()
        os.chmod(file.name, mode)
        yield file.name


@contextlib.contextmanager
def text_files(**texts):
    """The paths of files with these texts in one directory, in their order. The text of `name_toml` is in `name.toml`."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name.replace("_", ".")) for name in texts]
        for path, text in zip(paths, texts.values()):
            with open(path, "w") as file:
                file.write(text)
        yield paths


def token_file(text, mode=0o600):
    """A file with a token, as `--admin-token-file` takes it."""
    return text_file(text, "", mode)


def quote(number):
    """A value that resembles those of the numbers before."""
    return {"n": number, "symbol": "ECHO", "bid": 100 + number * 7919 % 997, "venue": "XETR", "state": "open"}


def frame(opcode, payload=b"", *, mask=b"\x37\xfa\x21\x3d"):
    """A complete frame of a client. `mask=None` leaves it unmasked."""
    first = 0x80 | opcode
    length = len(payload)
    bit = 0 if mask is None else 0x80
    if length < 126:
        head = struct.pack("!BB", first, bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    if mask is None:
        return head + payload
    return head + mask + masked(payload, mask)


def masked(payload, key):
    """The payload, masked or unmasked with this key. As one number, because a loop over its bytes takes a hundred times as long."""
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(len(payload), "little")


def threads_of(pid, name):
    """The ids of the threads of a process whose names begin with `name`."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as file:
            if file.read().startswith(name):
                yield int(thread)


@contextlib.contextmanager
def stopped(thread):
    """Stops one thread of another process, as a stuck system call would."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 0x4206, 0x4207, 0x40000000
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, thread, None, None)


@contextlib.contextmanager
def suspended(process):
    """Stops a child with all its threads. The signal alone does not: they go on until one of them has met it."""
    process.send_signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class Raw:
    """A TCP connection that sends arbitrary bytes, valid or not."""

    def __init__(self, server):
        self.socket = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
        # Its first bytes are removed without a copy of the others.
        self.buffer = bytearray()

    def send(self, data):
        self.socket.sendall(data)

    def read_exactly(self, count):
        while len(self.buffer) < count:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"ended after {self.buffer!r}")
            self.buffer += data
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def read_head(self):
        """Reads a response. Returns its status and headers, with names in lower case."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"ended after {self.buffer!r}")
            self.buffer += data
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        return int(lines[0].split(" ")[1]), headers

    def upgrade(self, path="/echo", extensions=None):
        """Sends an upgrade request that offers `extensions`. Returns status and headers of the response."""
        headers = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(noise(16)).decode(),
        }
        if extensions is not None:
            headers["Sec-WebSocket-Extensions"] = extensions
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        self.send(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        return self.read_head()

    def open(self, path="/echo"):
        status, _ = self.upgrade(path)
        assert status == 101, status
        return self

    def read_frame(self):
        """Reads the next frame. Returns its first byte and its payload."""
        first, second = self.read_exactly(2)
        assert second < 0x80, "a server must not mask"
        length = second
        if length == 126:
            (length,) = struct.unpack("!H", self.read_exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read_exactly(8))
        return first, self.read_exactly(length)

    def read_close(self):
        """Reads a Close frame and the end of the connection. Returns the code.

        Skips fragments of a message that failed later, which may have been echoed before.
        """
        first, payload = self.read_frame()
        while first & 0x08 == 0:
            first, payload = self.read_frame()
        assert first == 0x88, (hex(first), payload)
        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        # The peer answers with a Close frame, as the standard requires.
        try:
            self.send(frame(8, payload[:2]))
        except OSError:
            pass
        self.read_end()
        return code

    def read_end(self):
        """Reads to the end of the connection. A reset counts as the end."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
