"""Which part of the product each module tests, so that a change runs only the modules that it can break.

A part is a folder of `src`, or a path from the root of the repository: a folder, or the beginning of file names. A module names the
parts that it tests, not all that the program consists of: nearly everything depends on `proto` and `runtime`, and only modules that test
framing or connections name them. `test_parts` keeps the table complete.
"""

import ast
import functools
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

PARTS = {
    "test_agents": "load src/cli/bench",
    "test_alerts": "admin packaging/prometheus",
    "test_auth": "auth src/server/auth src/broker/gate",
    "test_backend_moves": "auth src/server/service src/server/handlers src/server/handover src/admin/connections",
    "test_backends": "auth src/server/service examples/backends src/cli/serve/backends.rs",
    "test_bench_monitoring": "load src/cli/bench packaging/grafana",
    "test_bench_network": "load runtime",
    "test_bench_opening": "load src/cli/bench",
    "test_bench_pings": "load",
    "test_bench_targets": "load src/cli/bench",
    "test_bench_timestamps": "load src/cli/bench runtime",
    "test_bench_until": "load src/cli/bench src/cli/results",
    "test_broadcast": "broker server topics runtime",
    "test_browser": "src/server/pages",
    "test_capacity": "load src/cli/bench scripts/knee_server.py",
    "test_centrifuge": "src/wire/centrifuge src/server/service",
    "test_centrifuge_browser": "src/wire/centrifuge",
    "test_centrifuge_hooks": "src/wire/centrifuge src/server/commands/outside",
    "test_centrifuge_info": "src/wire/centrifuge auth src/broker/broadcast",
    "test_centrifuge_named_hooks": "src/wire/centrifuge auth src/cli/serve/hooks",
    "test_centrifuge_refresh": "src/wire/centrifuge auth src/broker/broadcast",
    "test_centrifuge_server_subscriptions": "src/wire/centrifuge",
    "test_centrifuge_tokens": "src/wire/centrifuge auth docs/reference/centrifuge.md",
    "test_centrifugo_api": "src/wire/centrifuge src/server/commands admin",
    "test_centrifugo_publications": "src/wire/centrifuge admin topics",
    "test_centrifugo_streams": "src/wire/centrifuge src/server/service src/broker/broadcast",
    "test_chat": "examples/chat",
    "test_clients": "proto runtime src/server/endpoints",
    "test_cluster": "cluster src/server/cluster src/broker/node_mail src/cli/admin/cluster.rs",
    "test_cluster_api": "cluster src/server/cluster src/server/commands src/broker/node_mail",
    "test_cluster_faults": "cluster src/server/cluster src/broker/node_mail",
    "test_cluster_presence": "cluster src/server/cluster src/broker/node_mail",
    "test_cluster_steps": "cluster src/server/cluster",
    "test_compare_peers": "scripts/compare-peers scripts/compare_peers",
    "test_compare_tools": "scripts/compare-tools scripts/compare_tools scripts/compare_peers/install.py bench/peers/quote.toml",
    "test_compression": "broker proto runtime server",
    "test_connect": "client src/cli/connect",
    "test_control": "admin broker server runtime src/cli/serve src/cli/common/start_error.rs",
    "test_docs": "scripts/docs",
    "test_documents": "README.md docs/guide docs/reference results/peers.md results/performance-log.md src/server/pages/client",
    "test_durable_topics": "cluster topics src/server/cluster src/broker/node_mail",
    "test_echo": "server proto runtime",
    "test_echoring_js": "src/server/pages src/broker/v1 src/wire/v1 docs/guide/clients.md",
    "test_endpoints": "src/server/endpoints runtime",
    "test_event_streams": "src/wire/event_stream.rs topics",
    "test_examples": "examples/ async client",
    "test_frameworks": "examples/frameworks async docs/guide/frameworks.md",
    "test_freshness": "broker runtime topics src/admin/metrics",
    "test_github_action": "packaging/github-action load",
    "test_golden": "src/cli/logging admin broker server runtime tests/golden",
    "test_haproxy": "src/server/node/listeners src/runtime/admission",
    "test_ids": "src/broker/broadcast/ids.rs src/server/service src/server/handover auth src/admin/connections",
    "test_import": "src/cli/serve/import tests/program/import src/cli/serve/topics",
    "test_logs": "src/cli/logging admin broker server",
    "test_messages": "admin server src/broker/broadcast src/wire/v1 src/wire/event_stream.rs src/wire/centrifuge",
    "test_metrics": "admin src/runtime/stats packaging/prometheus packaging/grafana docs/reference/metrics.md",
    "test_million": "scripts/million src/server/node/host.rs src/cli/bench/agents",
    "test_moving": "runtime broker src/server/handover src/server/service src/wire/centrifuge src/wire/event_stream.rs",
    "test_nats_permissions": "src/cluster/nats docs/reference/cluster.md",
    "test_nginx": "docs/guide/behind-nginx.md src/server/node/listeners",
    "test_observing": "admin topics broker runtime src/server/service",
    "test_operator_page": "src/server/pages admin",
    "test_parts": "tests/interop/parts.py",
    "test_protocol_files": "load src/cli/common/file src/cli/bench",
    "test_protocols": "load",
    "test_proxy": "proxy src/cli/proxy.rs",
    "test_publishing": "topics src/server/commands admin src/broker/publications.rs",
    "test_report": "src/cli/results/report load",
    "test_retention": "topics broker src/server/handover",
    "test_samples": "load",
    "test_servers": "client async proto",
    "test_sessions": "load src/cli/bench",
    "test_shares": "auth src/server/service src/runtime/admission",
    "test_tls": "auth src/async/tls src/runtime/shard/tls src/server/node/listeners",
    "test_token_streams": "examples/token_stream admin topics src/wire/v1",
    "test_top": "src/cli/admin/top",
    "test_tornado": "proto",
    "test_traces": "src/runtime/traces",
    "test_v1": "src/broker/v1 topics",
    "test_watch": "src/server/pages src/broker/v1",
    "test_webhooks": "auth topics src/broker/broadcast src/server/service src/cli/serve/webhooks.rs",
}


def path_of(part):
    """A part with a slash or a dot is a path from the root already."""
    return part if "/" in part or "." in part else f"src/{part}/"


def of(module):
    """The paths of what a module tests."""
    return [path_of(part) for part in PARTS[module].split()]


@functools.cache
def imports(module):
    """The files of this directory that one of them imports, also through others."""
    with open(os.path.join(HERE, f"{module}.py"), encoding="utf-8") as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    own = {name for name in names if name and os.path.exists(os.path.join(HERE, f"{name}.py"))}
    return own.union(*(imports(name) for name in own))


def broken_by(paths):
    """The modules that a change of these files or folders can break: their parts, what they import, and they themselves."""
    here = os.path.relpath(HERE, ROOT)
    chosen = []
    for module in PARTS:
        files = [f"{here}/{name}.py" for name in (module, *imports(module))]
        if any(path.startswith(part) or part.startswith(path) for path in paths for part in (*of(module), *files)):
            chosen.append(module)
    return chosen


def changed():
    """The files that differ from where this branch left main. `scripts/test --quick` takes them from this program's output."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)

    base = git("merge-base", "HEAD", "main").stdout.strip() or "HEAD"
    told = git("diff", "--name-only", base).stdout + git("ls-files", "--others", "--exclude-standard").stdout
    return sorted(set(told.split("\n")) - {""})


if __name__ == "__main__":
    print("\n".join(changed()))
