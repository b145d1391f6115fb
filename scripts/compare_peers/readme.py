"""Generates documents from the records: README's chart and small table, the big table in results/, each record's page."""

import os
import statistics

import chart
import generated
import judge
import machine
import records
import sets
import tables
from catalogue import AGAIN, AIO, AIO_WRITE, FLOOR, OURS, RAWS
from workloads import ROWS

README = os.path.join(machine.ROOT, "README.md")
PEERS = os.path.join(machine.ROOT, "results", "peers.md")
IMAGES = os.path.join(machine.ROOT, "docs", "images")
# Names of the generated parts: the chart and the small table of README, the big table of results/peers.md.
CHART, SMALL, BIG = "chart", "small table", "table"
SHOWN = (FLOOR, "uws", "bun")
# The rows of README, by name. All are from one record, so that the table has one machine, day and commit.
README_ROWS = (
    "echo-16x100", "echo-16x1000", "echo-1KiBx200", "echo-16KiBx50", "echo-1MiBx4", "echo-16x100-depth16",
    "broadcast-1000x64", "broadcast-10000x64", "topics-1000x10", "handshakes",
)
README_ROWS_MIN = 8
# The chart: its row and its servers.
CHART_ROW = "echo-16x100"
CHART_SIDES = (OURS, "uws", "bun", "fastwebsockets", "tokio-tungstenite", "gorilla", "ws")
# A comparison that is older than this many commits is not one of the program any more.
COMMITS_MAX = 300
NONE = "No run is recorded yet; `scripts/compare-peers --quick` measures this machine in under ten minutes."


def marks(part):
    return (
        f"<!-- {part}: made by scripts/compare-peers --readme from results/, do not edit. -->",
        f"<!-- {part}: end of the part that scripts/compare-peers made. -->",
    )


def marked(text, part, path, made):
    """The text of a document with `made` between the marks of a part."""
    return generated.replaced(text, path, *marks(part), f"\n{made}\n")


def headline(every):
    """The newest record that has nearly all rows of README, and the summaries of those rows; None if there is none."""
    for record, summaries in reversed(by_age(every)):
        rows = {row.name: (row, result) for row, result in summaries}
        found = [rows[name] for name in README_ROWS if name in rows]
        if len(found) >= README_ROWS_MIN:
            return record, found
    return None


def by_age(every):
    return sorted(every, key=lambda pair: records.newest_row(pair[0])["started_at"])


def small(every):
    """README's comparison."""
    if not (newest := headline(every)):
        return NONE
    record, found = newest
    noise = [result["noise"] for _, result in found if result["noise"] is not None]
    last = records.newest_row(record)
    return "\n".join([
        "Server CPU time per message (per delivery in broadcasts, per connection in handshakes), and echoring ÷ peer: below 1, "
        "echoring is cheaper.",
        "",
        table([(row.title, result, row.values[0]) for row, result in found], figure),
        "",
        f"Measured on {last['started_at'][:10]}, {last['environment']['cpu']}, one CPU for the server, Linux "
        f"{kernel(last)}, commit {last['commit'][:12]}. Noise (echoring against itself): {noise_of(noise)}. {elsewhere(every)}",
    ])


def elsewhere(every):
    """The range of one ratio over the records of all machines, in the row of the chart."""
    found = [
        told["median"] for _, summaries in every for row, result in summaries for told in result["ratios"]
        if (row.name, told["of"], told["to"], told["value"]) == (CHART_ROW, OURS, "uws", row.values[0])
        and judge.is_enough(row, told)
    ]
    if not found:
        return ""
    return (
        f"Machines differ: in the first row echoring ÷ {tables.TITLES['uws']} is {min(found):.2f} to {max(found):.2f} in the "
        f"{len(found)} records that have it."
    )


def figure(result, side, name):
    """A ratio without its verdict."""
    found = tables.of_ours(result, side, name)
    return f"{found['median']:.2f}" if found else "–"


def kernel(row):
    """The kernel's version without the suffix of the distribution."""
    return row["environment"]["kernel"].partition("-")[0]


def noise_of(noise):
    return f"{100 * statistics.median(noise):.1f} % in the median row, {100 * max(noise):.1f} % in the worst" if noise else "not measured"


def picture(every):
    """README's chart: the text between the marks, and the two images by their path."""
    newest = headline(every)
    rows = dict((row.name, (row, result)) for row, result in newest[1]) if newest else {}
    if CHART_ROW not in rows:
        return NONE, {}
    row, result = rows[CHART_ROW]
    bars, unit = bars_of(row, result, CHART_SIDES), tables.VALUES[row.values[0]][1]
    last = records.newest_row(newest[0])
    title, subtitle = f"Server CPU per message in {unit}, lower is better", f"{row.title} connections"
    note = f"{last['started_at'][:10]}, {last['environment']['cpu']}, one CPU, Linux {kernel(last)}"
    images = {
        os.path.join(IMAGES, f"peers-{scheme}.svg"): chart.bars(title, subtitle, note, bars, short, scheme)
        for scheme in chart.SCHEMES
    }
    told = ", ".join(f"{name} {short(value)}" for name, value, _ in bars)
    text = "\n".join([
        "<picture>",
        '<source media="(prefers-color-scheme: dark)" srcset="docs/images/peers-dark.svg">',
        f'<img src="docs/images/peers-light.svg" width="{chart.WIDTH}" alt="{title}; {subtitle}: {told}">',
        "</picture>",
    ])
    return text, images


def bars_of(row, result, sides):
    """Title, value and whether it is echoring's, the smallest first. The value of a server comes from its ratio to echoring within rounds,
    because not all servers took part in the same rounds, and rounds differ by more than servers do."""
    name = row.values[0]
    ours = result["sides"][OURS][name]["median"] / tables.VALUES[name][2]
    found = [
        (tables.TITLES[side], ours / ratio["median"], side == OURS) for side in sides
        if (ratio := {"median": 1.0} if side == OURS else tables.of_ours(result, side, name))
    ]
    return sorted(found, key=lambda bar: bar[1])


def panels(found):
    """A chart of each row of --quick with all servers, as one image; None if the record has no such row."""
    charts = []
    for row, result in found:
        if row.quick:
            what, unit, _ = tables.VALUES[row.values[0]]
            bars = bars_of(row, result, [side for side in result["sides"] if side != AGAIN])
            charts.append((row.title, f"{what}, {unit}", "lower is better", bars, tables.number, "light", 250))
    return chart.stacked(charts) if charts else None


def short(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def big(every):
    """The table of results/peers.md: each row from the last day that measured it."""
    if not every:
        return NONE
    every = by_age(every)
    made = [record for record, _ in every]
    found = joined(every)
    lines = [
        (tables.title(row, name), result, name) for row, result in found for name in row.shown
        if result["sides"].get(OURS, {}).get(name)
    ]
    parts = [summary(found), table(lines, tables.cell)]
    # The newest plot that has more than a few rows.
    pictures = [os.path.join(folder_of(record), "peers.svg") for record in made if 2 * len(record.rows) >= len(found)]
    drawn = [picture for picture in pictures if os.path.exists(os.path.join(machine.ROOT, picture))]
    if drawn:
        parts.append(f"![Value of each server in the rows of a quick look, lower is better]({beside(drawn[-1])})")
    parts.append("Records, oldest first:")
    parts.append("\n".join(f"- {origin(record)}" for record in made))
    return "\n\n".join(parts)


def beside(path):
    """A file of results/ as the big table links to it."""
    return os.path.relpath(os.path.join(machine.ROOT, path), os.path.dirname(PEERS))


def folder_of(record):
    return os.path.relpath(os.path.dirname(record.path), machine.ROOT)


def joined(every):
    """Each row with its summary over all days and machines."""
    by_row = {}
    for record, summaries in sorted(every, key=lambda pair: pair[0].day):
        for row, result in summaries:
            by_row.setdefault(row.name, {}).setdefault(record.day, []).append(result)
    found = [(row, judge.joined(row, list(by_row[row.name].values()))) for row in ROWS if row.name in by_row]
    return [(row, result) for row, result in found if result]


def table(lines, cell):
    """echoring beside the peers that have a column. `lines` are titles, results, and names of values."""
    rows = []
    for title, result, name in lines:
        _, unit, scale = tables.VALUES[name]
        ours = tables.number(result["sides"][OURS][name]["median"], scale)
        rows.append([title, f"{ours} {unit}", *(cell(result, side, name) for side in SHOWN), best(result, name, cell)])
    heads = ["workload", "echoring", *(f"÷ {tables.TITLES[side]}" for side in SHOWN), "÷ the cheapest other peer"]
    return machine.table(heads, rows, ["---", *["--:"] * (1 + len(SHOWN)), "---"])


def best(result, name, cell):
    """The cheapest of the peers without a column. echoring's own variants and raw servers are no peers."""
    others = [
        found for found in result["ratios"]
        if found["of"] == OURS and found["value"] == name and found["to"] not in (*SHOWN, *RAWS, AIO, AIO_WRITE)
        and not found["to"].startswith(OURS)
    ]
    if not others:
        return "–"
    nearest = max(others, key=lambda found: found["median"])
    return f"{cell(result, nearest['to'], name)} {tables.TITLES[nearest['to']]}"


def summary(found):
    counts = {verdict: 0 for verdict in ("met", "missed", "undecided")}
    for _, result in found:
        for told in [*result["ratios"], *result["bounds"]]:
            if told["verdict"]:
                counts[told["verdict"]] += 1
    noise = [result["noise"] for _, result in found if result["noise"] is not None]
    return (
        f"Of all targets {counts['met']} are met, {counts['missed']} missed and {counts['undecided']} undecided. "
        f"Noise (echoring against itself): {noise_of(noise)}."
    )


def origin(record):
    last = records.newest_row(record)
    page = os.path.relpath(record.page, machine.ROOT)
    return (
        f"[{page}]({beside(page)}): commit {last['commit'][:12]}, {last['environment']['cpu']}, Linux "
        f"{last['environment']['kernel']}, {last['started_at'][:10]}"
    )


def read(path):
    """The content of a file; empty if there is none, as after a run that was killed."""
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def all_records():
    """Every record with its summaries."""
    return [(record, tables.summaries(record)) for record in map(records.Record, records.all_folders())]


def documents():
    """The generated documents: path, present text, and wanted text."""
    every = all_records()
    text, images = picture(every)
    readme, peers = read(README), read(PEERS)
    yield README, readme, marked(marked(readme, CHART, README, text), SMALL, README, small(every))
    yield PEERS, peers, marked(peers, BIG, PEERS, big(every))
    for path, image in images.items():
        yield path, read(path), image
    for record, summaries in every:
        yield record.page, read(record.page), tables.page(record, summaries, sets.SETS["peers"].heading)


def write():
    for path, text, wanted in documents():
        if text != wanted:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(wanted)


def outdated():
    """Documents that do not match the records."""
    return [os.path.relpath(path, machine.ROOT) for path, text, wanted in documents() if text != wanted]


def age():
    """Commits since the one that README's comparison measured; None without a comparison, or if the history does not reach back."""
    newest = headline(all_records())
    return machine.commits_since(records.newest_row(newest[0])["commit"]) if newest else None


def too_old(commits):
    """What is to be said of a comparison that is so many commits old; None if it may stay."""
    if commits is None:
        return "the commit that README's comparison measured is not known here"
    if commits > COMMITS_MAX:
        return f"README's comparison is {commits} commits old, and may be {COMMITS_MAX}: measure again with scripts/compare-peers --record"
    return None
