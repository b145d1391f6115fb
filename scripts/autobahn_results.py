"""Writes records of Autobahn|Testsuite to `results/` and generates the conformance table in docs from them.

A part of `scripts/autobahn`.
"""

import datetime
import glob
import json
import os

import generated
import machine

ROOT = machine.ROOT
EXPECTED = os.path.join(ROOT, "tests", "autobahn", "expected.json")
PAGE = os.path.join(ROOT, "docs", "explanation", "conformance.md")
BEGIN = "<!-- table: made by scripts/autobahn table from results/, do not edit. -->"
END = "<!-- table: end of the part that scripts/autobahn table made. -->"

CATEGORIES = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits, up to 16 MiB",
    "10": "automatic fragmentation",
    "12": "compression of various payloads",
    "13": "compression with various parameters",
}

KNOWN_BIAS = [
    "The suite of 2014 checks the behaviour of RFC 6455 and RFC 7692 towards well-formed peers and common protocol errors; it does "
    "not cover handshakes, deadlines or floods.",
    "Durations are those of the suite, in Python, with two of its processes at once; they do not measure speed.",
]


def expectations():
    """Expected `behavior` and `behaviorClose` of each case, in the suite's order."""
    with open(EXPECTED) as file:
        return {case: tuple(pair) for case, pair in json.load(file).items()}


def order(case):
    return [int(number) for number in case.split(".")]


def environment(suite, echoring):
    return {
        **machine.origin(),
        "echoring": machine.first_line(echoring, "--version"),
        "rustc": machine.first_line("rustc", "--version"),
        "build": os.path.basename(os.path.dirname(echoring)),
        "suite": suite.describe(),
    }


def write(run, about):
    """Writes the record of a full run. Returns its path."""
    started = datetime.datetime.fromtimestamp(run.started, datetime.timezone.utc)
    folder = machine.results_folder(started.date())
    record = {
        "schema": "echoring.autobahn/1",
        "role": run.role,
        "driver": run.driver,
        "scenario": run.scenario,
        "started_at": started.isoformat(timespec="seconds"),
        "elapsed_s": round(run.elapsed_s),
        "environment": about,
        "known_bias": KNOWN_BIAS,
        "passed": run.passed,
        "failed": run.failed,
        "case_fields": ["behavior", "behaviorClose", "remoteCloseCode", "duration_ms"],
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items()]
    cases = [f"  {json.dumps(case)}: {json.dumps(fields(run.results[case]))}" for case in sorted(run.results, key=order)]
    path = os.path.join(folder, f"autobahn-{run.role}-{run.driver}.json")
    with open(path, "w") as file:
        # One line per case, so that a diff of two records is readable.
        file.write("{\n" + ",\n".join(lines + [' "cases": {\n' + ",\n".join(cases) + "\n }"]) + "\n}\n")
    return os.path.relpath(path, ROOT)


def fields(result):
    return [result["behavior"], result["behaviorClose"], result["remoteCloseCode"], result["duration"]]


def latest_records():
    """The newest record of each role and driver, with its path."""
    latest = {}
    for path in glob.glob(os.path.join(ROOT, "results", "*", "autobahn-*.json")):
        with open(path) as file:
            record = json.load(file)
        key = (record["role"], record["driver"])
        if key not in latest or latest[key][0]["started_at"] < record["started_at"]:
            latest[key] = (record, os.path.relpath(path, ROOT))
    return latest


def table():
    """The conformance table, as Markdown."""
    expected = expectations()
    latest = latest_records()
    order_of_columns = [(role, driver) for driver in ("uring", "epoll") for role in ("server", "client")]
    order_of_columns += [(role, runtime) for runtime in ("tokio", "tokio-uring") for role in ("aio-server", "aio-client")]
    columns = [key for key in order_of_columns if key in latest]
    if not columns:
        return "No run has been recorded yet."
    rows = []
    for category, title in [*CATEGORIES.items(), ("", "")]:
        cases = [case for case in expected if category in ("", case.split(".")[0])]
        rows.append([f"{category}.*" if category else "all", title, *(cell(latest[key][0], cases) for key in columns)])
    lines = [machine.table(["cases", "", *(f"{role}, {driver}" for role, driver in columns)], rows), ""]
    for key in columns:
        record, path = latest[key]
        about = record["environment"]
        changes = " with uncommitted changes" if about.get("uncommitted_changes") or about["commit"].endswith("+") else ""
        lines.append(
            f"- {key[0]}, {key[1]}: commit {about['commit'][:12]}{changes}, Linux {about['kernel']}, {about['cpu']}, "
            f"{record['started_at'][:10]}: [{path}](../../{path})"
        )
    return "\n".join(lines)


def cell(record, cases):
    expected = expectations()
    passed = sum(tuple(record["cases"].get(case, ())[:2]) == expected[case] for case in cases)
    return f"{passed} of {len(cases)}"


def update_page(check=False):
    """Returns whether the page had another table."""
    return generated.update(PAGE, BEGIN, END, f"\n{table()}\n", check)
