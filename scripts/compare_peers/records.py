"""The record of a comparison: rows with all their rounds, in one file that runs add to.

A row is measured until it has the requested number of rounds. Rounds of several runs are joined if the measured code, the settings
and the machine are the same; otherwise the row starts again. Numbers are in columns, one line for each server of a round.
"""

import glob
import json
import os

import machine
import pairs

SCHEMA = "echoring.peers/1"
DIGITS = 6
# Length of the date in a folder's name; the machine's name follows.
DATE = len("2000-01-01")
# Paths that affect a measurement: the servers, the generator, and the code that runs both. Tables and documents do not.
MEASURED = (
    "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "bench", "scripts/pairs.py",
    "scripts/compare_peers/samples.py", "scripts/compare_peers/rounds.py",
)


class Record:
    """`rows` by name, each with `columns`, `rounds`, `commands`, `environment` and other facts."""

    def __init__(self, folder, name="peers"):
        self.day = os.path.basename(folder)[:DATE]
        self.path, self.page = (os.path.join(folder, f"{name}.{ending}") for ending in ("json", "md"))
        self.content = {"schema": SCHEMA, "peers": {}, "skipped": {}, "rows": {}, "known_bias": []}
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.content = json.load(file)

    @property
    def rows(self):
        return self.content["rows"]

    def begin(self, name, about, anew):
        """Returns a row to add rounds to. Keeps its rounds if they were measured in the same way."""
        row = self.rows.get(name)
        if not row or anew or not goes_on(row, about):
            row = self.rows[name] = {"started_at": machine.now(), "columns": [], "rounds": [], "failed": {}, "commands": {}}
        row.update({key: value for key, value in about.items() if key != "commands"})
        row["commands"].update(about["commands"])
        return row

    def save(self):
        """Writes the file atomically, because a run may be ended at any moment."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".part", "w") as file:
            file.write(lines(self.content) + "\n")
        os.replace(self.path + ".part", self.path)


def commit():
    """The last commit that affects a measurement."""
    return machine.last_commit_of(MEASURED)


def goes_on(row, about):
    """Whether rounds of a run described by `about` may be added to a row. New servers may join."""
    had = row["commands"]
    return made_of(row) == made_of(about) and all(had.get(n, c) == c for n, c in about["commands"].items())


def made_of(row):
    """The facts that joined rounds must share, besides the commands of their servers. Old rows lack the warm-up, so nothing is added
    to them."""
    about = row["environment"]
    return [row["commit"], row["load"], row["seconds"], row.get("warmup_seconds"), about["cpu"], about["kernel"]]


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
    """The number of rounds that each of these servers took part in, except servers that failed."""
    return min(sum(name in found for found in row["rounds"]) for name in names if name not in row["failed"])


def short(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def lines(value, indent=""):
    """JSON in which a list or small object without nested values is one line."""
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


def all_folders(name="peers"):
    """Folders in results/ that have a record, by date."""
    return sorted(os.path.dirname(path) for path in glob.glob(os.path.join(machine.ROOT, "results", "*", f"{name}.json")))


def newest_row(record):
    return max(record.rows.values(), key=lambda row: row["started_at"])


def folder_to_go_on_in(name):
    """The folder of this machine's newest record if it has a row of this commit, so that a run may pass midnight; else today's."""
    today = machine.results_folder()
    last = max(all_folders(name), default="")
    if last.endswith(os.path.basename(today)[DATE:]):
        record = Record(last, name)
        if record.content["schema"] == SCHEMA and commit() in {row["commit"] for row in record.rows.values()}:
            return last
    return today


def environment(options):
    about = pairs.environment(options)
    # Each row has these itself.
    del about["load_average_before"], about["commit"]
    return {**about, "go": machine.first_line("go", "version"), "g++": machine.first_line("g++", "--version")}
