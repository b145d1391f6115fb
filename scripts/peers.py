"""Builds uWebSockets' programs for the scripts that compare with them.

The crate `libuwebsockets-sys` contains uWebSockets. cargo fetches its sources and checks their digest; this machine's C and C++
compilers build the programs of bench/peers against them. Nothing is installed outside of target/peers. Only the standard library is
needed.
"""

import glob
import os
import shutil
import subprocess

import machine

PACKAGE, VERSION = "libuwebsockets-sys", "0.0.10"
FOLDER = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(machine.ROOT, "target")), "peers")
# The flags of its makefile, without TLS, which no script measures, and without compression unless requested.
OPTIMISATION = ["-O3", "-flto"]
C_FLAGS = ["-std=c11", "-DLIBUS_NO_SSL"]
CPP_FLAGS = ["-std=c++20", "-DLIBUS_NO_SSL"]


def run(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{done.stdout[-2000:]}")


def sources():
    """Returns the folder of the package's sources. Fetches them if they are missing."""
    found = os.path.join(FOLDER, "vendor", PACKAGE, "uWebSockets")
    if os.path.isdir(found):
        return found
    scratch = os.path.join(FOLDER, "fetch")
    os.makedirs(os.path.join(scratch, "src"), exist_ok=True)
    with open(os.path.join(scratch, "Cargo.toml"), "w") as manifest:
        # A workspace of its own, because it is inside another package.
        manifest.write(
            '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n\n'
            f'[dependencies]\n{PACKAGE} = "={VERSION}"\n'
        )
    with open(os.path.join(scratch, "src", "lib.rs"), "w"):
        pass
    vendor = os.path.join(FOLDER, "vendor")
    run("cargo", "vendor", "--quiet", vendor, cwd=scratch)
    return found


def uwebsockets(name, compression=False):
    """Builds bench/peers/NAME.cpp, with zlib if `compression`. Returns the path of the program."""
    program = os.path.join(machine.ROOT, "bench", "peers", f"{name}.cpp")
    binary = os.path.join(FOLDER, f"{name}_deflate" if compression else name)
    if os.path.exists(binary) and os.path.getmtime(binary) > os.path.getmtime(program):
        return binary
    include, objects = sources(), sockets()
    headers = [f"-I{os.path.join(include, 'src')}", f"-I{os.path.join(include, 'uSockets', 'src')}"]
    zlib = ["-lz"] if compression else ["-DUWS_NO_ZLIB"]
    run("g++", *OPTIMISATION, *CPP_FLAGS, *headers, program, *objects, *zlib, "-o", binary)
    return binary


def load_test():
    """Builds uWebSockets' load generator, unchanged. Returns the path of the program."""
    binary = os.path.join(FOLDER, "load_test")
    if not os.path.exists(binary):
        include, objects = sources(), sockets()
        program = os.path.join(include, "benchmarks", "load_test.c")
        headers = f"-I{os.path.join(include, 'uSockets', 'src')}"
        run("gcc", *OPTIMISATION, *C_FLAGS, headers, program, *objects, "-o", binary)
    return binary


def sockets():
    """Compiles uSockets, the event loop of both. Returns its object files."""
    for compiler in ("gcc", "g++"):
        if not shutil.which(compiler):
            raise SystemExit(f"{compiler} is missing: apt-get install g++")
    folder = os.path.join(sources(), "uSockets", "src")
    objects = os.path.join(FOLDER, "objects")
    os.makedirs(objects, exist_ok=True)
    files = glob.glob(os.path.join(folder, "*.c")) + [os.path.join(folder, "eventing", "epoll_kqueue.c")]
    run("gcc", *OPTIMISATION, *C_FLAGS, f"-I{folder}", "-c", *sorted(files), cwd=objects)
    return sorted(glob.glob(os.path.join(objects, "*.o")))


def describe():
    """The version for records."""
    return f"uWebSockets of the crate {PACKAGE} {VERSION}, {machine.first_line('g++', '--version')}"
