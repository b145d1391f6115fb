"""nginx with nchan as a peer for broadcasts: each path is a topic, whose messages go to all who asked for it.

    nchan.py FOLDER     prints `listening ws://127.0.0.1:PORT ... pid=PID` of its worker; FOLDER is for its files

The port is the kernel's choice: nginx takes a listening socket that it is handed as it does when it replaces itself. One
worker, below a master that does nothing (without one nchan crashes), and no store of messages.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

# What ten thousand who come at once need.
BACKLOG = 4096
START_S_MAX = 10
CONFIGURATION = """
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/{port}.pid;
error_log stderr crit;
load_module modules/ngx_nchan_module.so;
events {{
    worker_connections 16384;
}}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 512m;
    server {{
        listen 127.0.0.1:{port} backlog={backlog};
        location / {{
            nchan_pubsub websocket;
            nchan_channel_id $uri;
            nchan_store_messages off;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 0;
        }}
    }}
}}
"""


def main():
    folder = os.path.abspath(sys.argv[1])
    os.makedirs(folder, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    path = os.path.join(folder, f"{port}.conf")
    with open(path, "w") as file:
        file.write(CONFIGURATION.format(folder=folder, port=port, backlog=BACKLOG))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    master = subprocess.Popen(
        [program, "-p", "/usr/share/nginx", "-c", path], pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL,
        env=os.environ | {"NGINX": f"{listener.fileno()};"},
    )
    signal.signal(signal.SIGTERM, lambda *_: master.terminate())
    worker = worker_of(master)
    listener.close()
    print(f"listening ws://127.0.0.1:{port} driver=epoll shards=1 pid={worker}", flush=True)
    master.wait()


def worker_of(master):
    """The process below the master, as soon as there is one."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and master.poll() is None:
        with open(f"/proc/{master.pid}/task/{master.pid}/children") as file:
            if children := file.read().split():
                return children[0]
        time.sleep(0.01)
    sys.exit("nchan.py: nginx did not start")


main()
