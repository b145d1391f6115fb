"""The record of a comparison: rows with all their rounds, in one file that runs add to.

A row is measured until it has as many rounds as were asked for. Rounds of several runs are put together as long as what
is measured, how, and the machine are the same; else the row begins anew. Numbers lie in columns, a line for each server
of a round.
"""

import datetime
import glob
import json
import os

import machine
import pairs

SCHEMA = "echoring.peers/1"
DIGITS = 6
# Of a folder's name; the machine's stands behind it.
DATE = len("2000-01-01")
# What decides what a round measures: the servers, the generator, and how both are driven. Tables and documents do not.
MEASURED = (
    "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "bench", "scripts/pairs.py", "scripts/peers.py",
    "scripts/compare_peers/samples.py", "scripts/compare_peers/rounds.py",
)


class Record:
    """`rows` by name: each with `columns`, `rounds`, `commands`, `environment` and what else was told of it."""

    def __init__(self, folder):
        self.day = os.path.basename(folder)[:DATE]
        self.path = os.path.join(folder, "peers.json")
        self.page = os.path.join(folder, "peers.md")
        self.content = {"schema": SCHEMA, "peers": {}, "skipped": {}, "rows": {}, "known_bias": []}
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.content = json.load(file)

    @property
    def rows(self):
        return self.content["rows"]

    def begin(self, name, about, anew):
        """A row to add rounds to; what it has already stays if it was made in the same way."""
        row = self.rows.get(name)
        if not row or anew or not goes_on(row, about):
            row = self.rows[name] = {"started_at": now(), "columns": [], "rounds": [], "failed": {}, "commands": {}}
        row.update({key: value for key, value in about.items() if key != "commands"})
        row["commands"].update(about["commands"])
        return row

    def save(self):
        """Whole or not at all: a run may be ended at any moment."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".part", "w") as file:
            file.write(lines(self.content) + "\n")
        os.replace(self.path + ".part", self.path)


def commit():
    """The last one that changed what is measured."""
    return machine.last_commit_of(MEASURED)


def goes_on(row, about):
    """Whether rounds made as `about` says may be put to those of a row. A server that it has not had yet may join."""
    had = row["commands"]
    return made_of(row) == made_of(about) and all(had.get(n, c) == c for n, c in about["commands"].items())


def made_of(row):
    """What rounds have to have in common to be put together, the commands of their servers aside. Old rows do not tell
    their warm-up: nothing is put to them."""
    about = row["environment"]
    return [row["commit"], row["load"], row["seconds"], row.get("warmup_seconds"), about["cpu"], about["kernel"]]


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def add(row, found):
    """Adds a round, `found` by side."""
    for sample in found.values():
        row["columns"] += [name for name in sample if name not in row["columns"]]
    row["rounds"].append({side: [short(sample.get(name)) for name in row["columns"]] for side, sample in found.items()})


def rounds_of(row):
    """The rounds with their values by name."""
    return [
        {side: dict(zip(row["columns"], numbers)) for side, numbers in found.items()} for found in row["rounds"]
    ]


def rounds_of_all(row, names):
    """Rounds that each of these has been in, those that failed apart."""
    return min(sum(name in found for found in row["rounds"]) for name in names if name not in row["failed"])


def short(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def lines(value, indent=""):
    """JSON in which what holds nothing but numbers and words is one line."""
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)):
        return text
    items = value.values() if isinstance(value, dict) else value
    flat = not any(isinstance(item, (dict, list)) for item in items)
    if flat and (isinstance(value, list) or len(text) < 120):
        return text
    deeper = indent + " "
    if isinstance(value, dict):
        items = [f"{deeper}{json.dumps(key)}: {lines(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + lines(item, deeper) for item in value) + f"\n{indent}]"


def all_folders():
    """Those in results/ that have a record, by date."""
    return sorted(os.path.dirname(path) for path in glob.glob(os.path.join(machine.ROOT, "results", "*", "peers.json")))


def newest_row(record):
    return max(record.rows.values(), key=lambda row: row["started_at"])


def folder_to_go_on_in():
    """Of the newest record of this machine if it has a row of this commit, so that a run may pass midnight; else today's."""
    today = machine.results_folder()
    name = os.path.basename(today)[DATE:]
    last = max(all_folders(), default="")
    if last.endswith(name) and commit() in {row["commit"] for row in Record(last).rows.values()}:
        return last
    return today


def environment(options):
    about = pairs.environment(options)
    # The row has its own.
    del about["load_average_before"], about["commit"]
    return {**about, "go": machine.first_line("go", "version"), "g++": machine.first_line("g++", "--version")}
