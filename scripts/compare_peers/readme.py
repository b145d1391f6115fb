"""README's table and picture of the peers, made from the records, and the page of each record: never typed."""

import os
import statistics

import judge
import machine
import records
import tables
from catalogue import FLOOR, OURS, RAWS
from workloads import ROWS

README = os.path.join(machine.ROOT, "README.md")
BEGIN = "<!-- Made by scripts/compare-peers --readme from results/, do not edit. -->"
END = "<!-- End of what scripts/compare-peers made. -->"
SHOWN = (FLOOR, "uws", "bun")
NONE = "No run has been recorded yet; `scripts/compare-peers --quick` shows a first look at the machine at hand."


def block(every):
    """What stands between the marks; `every` is all records with their summaries."""
    if not every:
        return f"{BEGIN}\n{NONE}\n{END}"
    every = sorted(every, key=lambda pair: records.newest_row(pair[0])["started_at"])
    made = [record for record, _ in every]
    found = joined(every)
    parts = [table(found)]
    # The newest that shows more than a few rows.
    pictures = [os.path.join(folder_of(record), "peers.svg") for record in made if 2 * len(record.rows) >= len(found)]
    drawn = [picture for picture in pictures if os.path.exists(os.path.join(machine.ROOT, picture))]
    if drawn:
        parts.append(f"![What the rows cost with each server]({drawn[-1]})")
    parts.append(about(made, found))
    return "\n".join([BEGIN, "\n\n".join(parts), END])


def folder_of(record):
    return os.path.relpath(os.path.dirname(record.path), machine.ROOT)


def joined(every):
    """Row and summary, over the summaries of all days and machines."""
    by_row = {}
    for record, summaries in sorted(every, key=lambda pair: pair[0].day):
        for row, result in summaries:
            by_row.setdefault(row.name, {}).setdefault(record.day, []).append(result)
    found = [(row, judge.joined(row, list(by_row[row.name].values()))) for row in ROWS if row.name in by_row]
    return [(row, result) for row, result in found if result]


def table(found):
    lines = [
        f"| | echoring | {' | '.join(f'by {tables.TITLES[side]}' for side in SHOWN)} | by the best of all others |",
        "|---" * (len(SHOWN) + 3) + "|",
    ]
    for row, result in found:
        for name in row.shown:
            _, unit, scale = tables.VALUES[name]
            ours = result["sides"].get(OURS, {}).get(name)
            if not ours:
                continue
            cells = [tables.cell(result, side, name) for side in SHOWN]
            lines.append(
                f"| {tables.title(row, name)} | {tables.number(ours['median'], scale)} {unit} | {' | '.join(cells)} | {best(result, name)} |"
            )
    return "\n".join(lines)


def best(result, name):
    """The nearest of those that have no column, echoring's own drivers and raw servers apart."""
    others = [
        found for found in result["ratios"]
        if found["of"] == OURS and found["value"] == name and found["to"] not in (*SHOWN, *RAWS)
        and not found["to"].startswith(OURS)
    ]
    if not others:
        return "–"
    nearest = max(others, key=lambda found: found["median"])
    return f"{tables.cell(result, nearest['to'], name)} {tables.TITLES[nearest['to']]}"


def about(made, found):
    counts = {verdict: 0 for verdict in ("met", "missed", "undecided")}
    for _, result in found:
        for told in [*result["ratios"], *result["bounds"]]:
            if told["verdict"]:
                counts[told["verdict"]] += 1
    noise = [result["noise"] for _, result in found if result["noise"] is not None]
    told = [
        "What echoring takes, of the server's CPU per message unless the row says otherwise, and that by what the others take: "
        "below 1 it is less. ✓ the target is met, ✗ missed, ? undecided.",
        f"Of all targets {counts['met']} are met, {counts['missed']} missed and {counts['undecided']} undecided.",
    ]
    if noise:
        told.append(
            f"echoring beside itself reaches {100 * statistics.median(noise):.1f} % from 1 in the middle row, and up to "
            f"{100 * max(noise):.1f} %."
        )
    if len(made) > 1:
        told.append("Each ratio is of the last day that measured it, and of several machines from the one whose interval is the narrowest.")
    told += [origin(record) for record in made]
    return " ".join(told)


def origin(record):
    last = records.newest_row(record)
    page = os.path.relpath(record.page, machine.ROOT)
    return (
        f"Commit {last['commit'][:12]}, {last['environment']['cpu']}, Linux {last['environment']['kernel']}, "
        f"{last['started_at'][:10]}: [{page}]({page})."
    )


def read(path):
    with open(path) as file:
        return file.read()


def documents():
    """The documents that follow from the records: path, text as it is, and as it has to be."""
    text = read(README)
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"compare-peers: README.md lacks the lines {BEGIN!r} and {END!r}")
    every = [(record, tables.summaries(record)) for record in map(records.Record, records.all_folders())]
    yield README, text, before + block(every) + after
    for record, summaries in every:
        # A run that was killed has left none.
        yield record.page, read(record.page) if os.path.exists(record.page) else "", tables.page(record, summaries)


def write():
    for path, text, wanted in documents():
        if text != wanted:
            with open(path, "w") as file:
                file.write(wanted)


def outdated():
    """Documents that are not what the records say."""
    return [os.path.relpath(path, machine.ROOT) for path, text, wanted in documents() if text != wanted]
