"""The alert rules: each is shown firing and silent on the series of a real server, scraped every 15 seconds.

A new rule needs a line in `CASES`. promtool replays what the server exposes in virtual time: first as it is, then with the changes of
the case. A change of a series that the server does not expose from its start is an error, because Prometheus would miss its first
events. A real Prometheus at 15 seconds shows three of the rules on events that really happen.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import unittest

from harness import Raw, Server, frame, refusing_port, text_file, wait_until
from test_metrics import MISSING, documented_metrics, PROMETHEUS, PROMTOOL, RULES, Prometheus, metrics, run_promtool

SCRAPE_S = 15
# Scrapes of the server as it is, before the changes: ten minutes.
QUIET = 40
# Labels that a scrape configuration adds. Rules must keep them.
ADDED = {"job": "echoring", "instance": "a:9002", "pod": "edge-7"}
DAY_S = 86_400


def at(value):
    """The series has this value from now on."""
    return lambda before, scrapes: f"{value:.15g}+0x{scrapes}"


def burst(count):
    """The counter grows once, between two scrapes."""
    return lambda before, scrapes: f"{before + count:.15g}+0x{scrapes}"


def per_s(rate):
    """The counter grows from now on."""
    return lambda before, scrapes: f"{before + SCRAPE_S * rate:.15g}+{SCRAPE_S * rate:.15g}x{scrapes}"


class Case:
    """Changes to the series of a server that make an alert fire, and changes close to them that do not. Keys are selectors of series.

    The server is started with `flags`; where it takes others for the alert to be silent, with `silent_flags`. `peers` are series that
    only a node of a cluster exposes.
    """

    def __init__(self, fires, silent=None, flags=(), silent_flags=None, peers=None):
        self.fires, self.silent, self.peers = fires, silent or {}, peers or {}
        self.flags, self.silent_flags = flags, flags if silent_flags is None else silent_flags


TLS = ("--tls-cert", "{folder}/cert.pem", "--tls-key", "{folder}/key.pem")
KEY_SET = ("--auth-jwks", "{folder}/jwks.json")
OUTCOME, CLOSED = "echoring_handshakes_total", "echoring_closes_total"
TLS_DONE = 'echoring_tls_handshakes_total{kind="full"}'
MEMORY = 'echoring_budget_used_bytes{budget="memory"}'
# The upper bounds of the buckets above 1/16 s.
SLOW = r'echoring_tick_seconds_bucket{le=~"0\.125|0\.25|0\.5|\d+\.0|\+Inf"}'
FAST = 'echoring_tick_seconds_bucket{le=~".*"}'

CALLS = ("--config", "{folder}/calls.toml")
CALLS_FILE = """
[[backends]]
path = "/chat/{room}"
url = "http://127.0.0.1:9/"
secret = "a secret of at least twenty-four bytes"

[[webhooks]]
url = "http://127.0.0.1:9/"
secret_file = "FOLDER/secret"
events = ["member_joined"]
"""
BACKEND_EVENTS = 'echoring_backend_events_total{event="message",result="RESULT"}'
WEBHOOK_FAILED = "echoring_webhook_requests_failed_total"
WEBHOOK_DELIVERED = "echoring_webhook_events_delivered_total"

KEY_SET_AGE, KEY_SET_FAILURES = "echoring_key_set_age_seconds", "echoring_key_set_failures_total"
KEY_SET_READ_AT = "echoring_key_set_last_success_timestamp_seconds"

LINK_AGE = 'echoring_cluster_link_unacknowledged_age_seconds{peer="b"}'
CONNECTED = "echoring_cluster_connected"
OPEN, STREAM_FAILURES = "echoring_cluster_open", "echoring_cluster_stream_failures_total"
MOVES, SEGMENTS = "echoring_connection_moves_total", "echoring_tcp_sampled_segments_total"
DIFFER, OTHER_KEY = 'echoring_cluster_settings_differ{peer="b"}', 'echoring_cluster_key_differs{peer="b"}'

CASES = {
    "EchoringDown": Case({"up": at(0)}),
    "EchoringSilentShards": Case({"echoring_silent_shards": at(1)}),
    "EchoringShardSaturated": Case(
        {'echoring_shard_busy_seconds_total{shard="1"}': per_s(0.9)},
        {'echoring_shard_busy_seconds_total{shard="1"}': per_s(0.6)},
    ),
    "EchoringSlowTicks": Case({SLOW: per_s(100)}, {FAST: per_s(100)}),
    "EchoringShardStalls": Case({'echoring_shard_stalls_total{shard="1"}': burst(1)}),
    "EchoringConnectionsNearLimit": Case(
        {'echoring_connections{shard="0"}': at(480), 'echoring_connections{shard="1"}': at(440)},
        {'echoring_connections{shard="0"}': at(480), 'echoring_connections{shard="1"}': at(400)},
    ),
    "EchoringTopicsNearLimit": Case({"echoring_topics": at(95)}, {"echoring_topics": at(85)}),
    "EchoringMemoryNearBudget": Case({MEMORY: at(60 << 20)}, {MEMORY: at(50 << 20)}),
    "EchoringClosedForMemory": Case(
        {CLOSED + '{code="1006",cause="over-share"}': burst(105)}, {CLOSED + '{code="1006",cause="gone"}': burst(105)}
    ),
    "EchoringDeliveriesDroppedForMemory": Case(
        {'echoring_deliveries_dropped_total{reason="memory"}': burst(3)},
        {'echoring_deliveries_dropped_total{reason="disconnect"}': burst(3)},
    ),
    "EchoringHistoriesEvicted": Case({'echoring_histories_evicted_total{shard="1"}': burst(1)}),
    "EchoringSlowConsumers": Case(
        {CLOSED + '{code="3008",cause="local"}': per_s(2)}, {CLOSED + '{code="4008",cause="local"}': burst(105)}
    ),
    "EchoringRefusedHandshakes": Case(
        {OUTCOME + '{outcome="refused"}': per_s(1), OUTCOME + '{outcome="opened"}': per_s(2)},
        {OUTCOME + '{outcome="refused"}': per_s(1), OUTCOME + '{outcome="opened"}': per_s(9)},
    ),
    "EchoringTlsFailures": Case(
        {'echoring_tls_failures_total{fault="tls-handshake"}': per_s(1), TLS_DONE: per_s(2)},
        {'echoring_tls_failures_total{fault="tls-handshake"}': per_s(1), TLS_DONE: per_s(20)},
    ),
    "EchoringAcceptFailures": Case({"echoring_accept_failures_total": burst(1)}),
    "EchoringHandlerFailures": Case({"echoring_handler_failures_total": burst(1)}),
    "EchoringPredecessorCut": Case({"echoring_predecessor_connections_cut_total": burst(1)}),
    "EchoringTakeoverFailed": Case({"echoring_takeovers_failed_total": burst(1)}),
    "EchoringMovesRefused": Case({MOVES + '{result="refused"}': burst(1)}, {MOVES + '{result="left"}': burst(100)}),
    "EchoringShardsUneven": Case(
        {'echoring_connections{shard="0"}': at(3100), 'echoring_connections{shard="1"}': at(0)},
        {'echoring_connections{shard="0"}': at(3100), 'echoring_connections{shard="1"}': at(1100)},
    ),
    "EchoringLivesEndEarly": Case(
        {CLOSED + '{code="1001",cause="idle"}': per_s(20), 'echoring_connections{shard="0"}': at(2000)},
        {CLOSED + '{code="1001",cause="idle"}': per_s(10), 'echoring_connections{shard="0"}': at(2000)},
    ),
    "EchoringRetransmissions": Case(
        {SEGMENTS + '{kind="retransmitted"}': per_s(6), SEGMENTS + '{kind="sent"}': per_s(100)},
        {SEGMENTS + '{kind="retransmitted"}': per_s(4), SEGMENTS + '{kind="sent"}': per_s(100)},
    ),
    "EchoringAdminGuesses": Case(
        {'echoring_admin_refusals_total{reason="unauthorized"}': burst(30)},
        {'echoring_admin_refusals_total{reason="unauthorized"}': burst(10)},
    ),
    "EchoringDurableTopicsFail": Case({STREAM_FAILURES: per_s(0.2)}, {STREAM_FAILURES: burst(1)}, peers={STREAM_FAILURES: 0}),
    "EchoringClusterNotOpen": Case({OPEN: at(0)}, peers={OPEN: 1}),
    "EchoringDescriptorsNearLimit": Case(
        {"process_open_fds": at(950), "process_max_fds": at(1000)},
        {"process_open_fds": at(850), "process_max_fds": at(1000)},
    ),
    "EchoringLogRecordsDropped": Case(
        {'echoring_log_records_lost_total{reason="dropped"}': burst(1)},
        {'echoring_log_records_lost_total{reason="rate_limited"}': burst(100)},
    ),
    "EchoringAccessLogRecordsDropped": Case(
        {'echoring_access_log_records_total{result="dropped"}': burst(1)},
        {'echoring_access_log_records_total{result="written"}': burst(100)},
    ),
    "EchoringBackendFails": Case(
        {BACKEND_EVENTS.replace("RESULT", "rejected"): burst(1)},
        {BACKEND_EVENTS.replace("RESULT", "refused"): burst(100)},
        flags=CALLS,
    ),
    "EchoringBackendQueueNearLimit": Case(
        {"echoring_backend_queued_bytes": at(14 << 20)}, {"echoring_backend_queued_bytes": at(12 << 20)}, flags=CALLS
    ),
    "EchoringWebhookReceiverDown": Case(
        {WEBHOOK_FAILED: per_s(1 / 60)}, {WEBHOOK_FAILED: per_s(1 / 60), WEBHOOK_DELIVERED: per_s(1 / 60)}, flags=CALLS
    ),
    "EchoringWebhookQueueNearLimit": Case(
        {"echoring_webhook_queue_bytes": at(3600 << 10)}, {"echoring_webhook_queue_bytes": at(3 << 20)}, flags=CALLS
    ),
    "EchoringWebhookEventsLost": Case(
        {'echoring_webhook_events_lost_total{cause="expired"}': burst(1)},
        {},
        flags=CALLS,
    ),
    "EchoringAuthenticationUnavailable": Case(
        {'echoring_authentication_refusals_total{reason="unavailable"}': burst(1)},
        {'echoring_authentication_refusals_total{reason="expired"}': burst(100)},
    ),
    "EchoringKeySetMissing": Case({KEY_SET_READ_AT: at(0)}, {KEY_SET_READ_AT: at(1)}, flags=KEY_SET),
    # A key set that is read once an hour may be as old. One that failed once is read a second later.
    "EchoringKeySetStale": Case(
        {KEY_SET_AGE: at(1000), KEY_SET_FAILURES: per_s(1 / 60)}, {KEY_SET_AGE: at(1000)}, flags=KEY_SET
    ),
    # Virtual time begins in 1970.
    "EchoringCertificateExpires": Case(
        {"echoring_tls_certificate_expiry_timestamp_seconds": at(6 * DAY_S)},
        {"echoring_tls_certificate_expiry_timestamp_seconds": at(8 * DAY_S)},
        flags=TLS,
    ),
    "EchoringReloadRefused": Case({"echoring_last_reload_refused": at(1)}),
    "EchoringBans": Case({"echoring_bans_total": burst(20)}, {"echoring_bans_total": burst(5)}),
    "EchoringClusterDisconnected": Case({CONNECTED: at(0)}, peers={CONNECTED: 1}),
    "EchoringClusterLinkBehind": Case({LINK_AGE: at(7.5)}, {LINK_AGE: at(4.9)}, peers={LINK_AGE: 0.003}),
    "EchoringClusterSettingsDiffer": Case({DIFFER: at(1)}, peers={DIFFER: 0, OTHER_KEY: 0}),
    "EchoringDegraded": Case({}, flags=("--driver", "epoll"), silent_flags=()),
}


def rules():
    """The rules as Prometheus reads them: alert, expression, the seconds of `for`, and a file that has only this rule."""
    with open(RULES, encoding="utf-8") as file:
        head, *texts = re.split(r"- alert: ", file.read())
    for text in texts:
        pending = re.search(r"^ +for: (\d+)m$", text, re.MULTILINE)
        expression = re.search(r"expr:(.*?)\n +(?:for|labels):", text, re.DOTALL)[1]
        yield text.split("\n")[0], expression, 60 * int(pending[1]) if pending else 0, f"{head}- alert: {text}"


def labels_of(text):
    """The labels of a series or of a selector, as pairs of their value and whether it is a pattern."""
    found = re.findall(r'(\w+)(=~?)"((?:[^"\\]|\\.)*)"', text)
    return {name: (value, operator == "=~") for name, operator, value in found}


def fits(selector, series):
    name, _, labels = selector.partition("{")
    own_name, _, own = series.partition("{")
    own = labels_of(own)

    def has(label, wanted, is_pattern):
        value = own.get(label, ("", False))[0]
        return re.fullmatch(wanted, value) if is_pattern else value == wanted

    return name == own_name and all(has(label, *wanted) for label, wanted in labels_of(labels).items())


def scraped(flags):
    """What Prometheus has of a server that has just been started: `up`, and its series."""
    with tempfile.TemporaryDirectory(prefix="echoring-") as folder:
        if flags == TLS:
            make_certificate(folder)
        if flags == KEY_SET:
            with open(os.path.join(folder, "jwks.json"), "w", encoding="utf-8") as file:
                json.dump({"keys": [{"kty": "oct", "alg": "HS256", "k": "A" * 43}]}, file)
        if flags == CALLS:
            with open(os.path.join(folder, "secret"), "w", encoding="utf-8") as file:
                file.write("a secret of at least twenty-four bytes")
            with open(os.path.join(folder, "calls.toml"), "w", encoding="utf-8") as file:
                file.write(CALLS_FILE.replace("FOLDER", folder))
        flags = [flag.format(folder=folder) for flag in flags]
        limits = ["--max-connections", "1000", "--max-topics", "100", "--memory-budget", "64MiB"]
        with Server("--shards", "2", *limits, *flags) as server:
            page = metrics(server)[1].decode()
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {"up": 1.0, **{series: float(value) for series, _, value in lines}}


def make_certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "30", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def replay(alert, expression, wait_s, series, changes, fires):
    """A unit test of promtool. A rate needs five minutes, or ten, to show what it is; a burst must show at once."""
    is_gradual = any("+0x" not in change(0, 1) for change in changes.values())
    settle_s = wait_s + (660 if is_gradual else 2 * SCRAPE_S)
    scrapes = settle_s // SCRAPE_S + 1
    inputs, changed = [], set()
    for name, value in series.items():
        if not re.search(rf"\b{re.escape(name.partition('{')[0])}\b", expression):
            continue
        matching = [selector for selector in changes if fits(selector, name)]
        changed.update(matching)
        then = changes[matching[0]](value, scrapes) if matching else f"{value:.15g}+0x{scrapes}"
        added = [f'{label}="{text}"' for label, text in ADDED.items()]
        own = name.partition("{")[2].rstrip("}")
        labels = ",".join([own, *added] if own else added)
        inputs.append({"series": f"{name.partition('{')[0]}{{{labels}}}", "values": f"{value:.15g}+0x{QUIET - 1} {then}"})
    missing = set(changes) - changed
    assert not missing, f"{alert}: a server does not expose {missing} from its start"
    firing = f'group by (alertname, pod) (ALERTS{{alertname="{alert}", alertstate="firing"}})'
    sample = {"labels": f'{{alertname="{alert}", pod="{ADDED["pod"]}"}}', "value": 1}
    changed_s = QUIET * SCRAPE_S
    moments = [(changed_s - SCRAPE_S, fires and not changes), (changed_s + settle_s, fires)]
    checks = [
        {"expr": firing, "eval_time": f"{moment}s", "exp_samples": [sample] if is_firing else []}
        for moment, is_firing in moments
    ]
    name = f"{alert} {'fires' if fires else 'is silent'}"
    return {"name": name, "interval": f"{SCRAPE_S}s", "input_series": inputs, "promql_expr_test": checks}


@unittest.skipUnless(PROMTOOL, MISSING)
class Rules(unittest.TestCase):
    """The rules in virtual time."""

    @classmethod
    def setUpClass(cls):
        every = {flags for case in CASES.values() for flags in (case.flags, case.silent_flags)}
        cls.pages = {flags: scraped(flags) for flags in every}

    def test_the_rules_are_valid(self):
        checked = run_promtool("check", "rules", RULES)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_every_rule_has_a_case(self):
        self.assertEqual({alert for alert, *_ in rules()}, set(CASES))

    def test_every_counter_of_failures_and_losses_occurs_in_a_rule(self):
        bad = re.compile("fail(ed|ures)|lost|rejected")
        by_name = {name for name in documented_metrics() if name.endswith("_total") and bad.search(name)}
        labelled = re.compile(rf'^(echoring_\w+_total)\{{.*="(?:{bad.pattern})"')
        by_label = {found[1] for page in self.pages.values() for series in page if (found := labelled.search(series))}
        self.assertLessEqual({"echoring_webhook_events_lost_total", "echoring_takeovers_failed_total"}, by_name)
        self.assertIn("echoring_backend_events_total", by_label)
        read = set(re.findall(r"echoring_\w+", " ".join(expression for _, expression, *_ in rules())))
        self.assertEqual((by_name | by_label) - read, set())

    def test_every_rule_fires_and_is_silent(self):
        for alert, expression, wait_s, text in rules():
            case = CASES[alert]
            tests = []
            for changes, flags, fires in [(case.fires, case.flags, True), (case.silent, case.silent_flags, False)]:
                series = {**self.pages[flags], **case.peers}
                tests.append(replay(alert, expression, wait_s, series, changes, fires))
            with self.subTest(alert=alert), text_file(text, ".rules.yml") as file:
                self.replay(file, tests)

    def replay(self, rules, tests):
        # JSON is YAML.
        with text_file(json.dumps({"rule_files": [rules], "evaluation_interval": f"{SCRAPE_S}s", "tests": tests}), ".yml") as file:
            tested = run_promtool("test", "rules", file)
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)


@unittest.skipUnless(PROMETHEUS, MISSING)
class Bursts(unittest.TestCase):
    """Events that happen once, between two scrapes of a real Prometheus."""

    SECONDS = 45
    # Two scrapes and an evaluation, with time for a slow machine.
    patience_s = 4 * SCRAPE_S

    def test_the_first_events_of_a_server_are_not_missed(self):
        with contextlib.ExitStack() as stack:
            short = stack.enter_context(Server("--shards", "1", "--memory-budget", "16MiB"))
            unlogged = stack.enter_context(Server("--access-log", "/dev/full"))
            port = stack.enter_context(refusing_port())
            undecided = stack.enter_context(Server("--auth-hook", f"http://127.0.0.1:{port}/"))
            targets = ["{}:{}".format(*server.admin) for server in (short, unlogged, undecided)]
            prometheus = stack.enter_context(Prometheus(targets, scrape_s=SCRAPE_S))
            scrapes = 'min(count_over_time(echoring_uptime_seconds[10m])) >= 2 and count(up == 1) == 3'
            wait_until(lambda: prometheus.query(scrapes), "two scrapes of each", self.patience_s)
            self.exhaust(short)
            with Raw(unlogged) as peer:
                peer.upgrade("/nowhere")
                peer.read_end()
            with Raw(undecided) as peer:
                peer.send(self.request_with_a_token())
                self.assertEqual(peer.read_head()[0], 503)
            for alert, target in zip(
                ("EchoringClosedForMemory", "EchoringAccessLogRecordsDropped", "EchoringAuthenticationUnavailable"),
                targets,
            ):
                firing = f'ALERTS{{alertname="{alert}",alertstate="firing",instance="{target}"}}'
                wait_until(lambda: prometheus.query(firing), firing, self.patience_s)
            unlogged.wait_for_log("the access log has lost records.*No space left")

    @staticmethod
    def request_with_a_token():
        fields = ["Host: localhost", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        fields += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Authorization: Bearer anything"]
        return "\r\n".join(["GET /echo HTTP/1.1", *fields, "", ""]).encode()

    def exhaust(self, server):
        """Has peers that do not read fill the memory, until connections are closed for it."""
        peers = [Raw(server).open() for _ in range(105)]
        message = frame(2, bytes(60_000))
        for peer in peers:
            # The server stops reading from who does not read.
            peer.socket.setblocking(False)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    peer.socket.send(message)

        def closed():
            causes = server.stats()["node"]["causes"]
            return causes.get("over-share", 0) + causes.get("out-of-memory", 0)

        wait_until(closed, "connections closed for memory")
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    unittest.main()
