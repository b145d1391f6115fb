"""Compares servers row by row. See scripts/compare-peers, compare-conn, bench-floor and bench-broadcast for its usage."""

import argparse
import concurrent.futures
import dataclasses
import os
import random
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import machine  # noqa: E402
import pairs  # noqa: E402
import process  # noqa: E402

import catalogue  # noqa: E402
import install  # noqa: E402
import readme  # noqa: E402
import records  # noqa: E402
import rounds  # noqa: E402
import sets  # noqa: E402
import tables  # noqa: E402
import workloads  # noqa: E402

QUICK_ROUNDS, QUICK_SECONDS, QUICK_WARMUP, QUICK_MINUTES = 3, 0.3, 0.1, 9
# A row of 10,000 connections with all peers takes an hour. The next run measures the rest of a row that was cut off.
ROW_MINUTES = 120
SAVED_EVERY = 5

def arguments():
    which = sets.SETS[sys.argv.pop(1)]
    sys.argv[0] = which.script
    parser = argparse.ArgumentParser(description=f"{which.heading}; see the head of scripts/{which.script}")
    parser.add_argument("--quick", action="store_true", help="some rows, 3 rounds of 0.3 s, nothing written")
    parser.add_argument("--record", action="store_true", help="add to today's record of this machine in results/")
    parser.add_argument("--into", metavar="DIR", help="add to the record in DIR instead")
    parser.add_argument("--again", action="store_true", help="discard rows that the record has, and measure them again")
    parser.add_argument("--list", action="store_true", help="print rows and peers")
    if which.name == "peers":
        parser.add_argument("--readme", action="store_true", help="generate README's chart and table, results/peers.md, the records' pages; with --record, after the run")
        parser.add_argument("--check", action="store_true", help="fail if one of these documents does not match the records")
        parser.add_argument("--release", action="store_true", help="with --check, fail if README's comparison is too old for a release")
    parser.set_defaults(readme=False, check=False, release=False)
    parser.add_argument("--rows", default="", help="run only these rows, or groups such as echo, separated by commas")
    parser.add_argument("--peers", default="", help="run only these peers, separated by commas, and echoring")
    parser.add_argument("--rounds", type=int, help="number of rounds per row (default 30)")
    parser.add_argument("--seconds", type=float, help="measured seconds per stretch (default 1; of compare-conn 0.5)")
    parser.add_argument("--warmup", type=float, help="seconds before each stretch (default 0.3; of compare-conn 0.15)")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="end after this many minutes; the next run continues")
    parser.add_argument("--row-minutes", type=float, default=ROW_MINUTES, help="maximum minutes per row in one run")
    parser.add_argument("--restart", type=int, default=5, help="restart servers after this many rounds (default 5)")
    parser.add_argument("--seed", type=int, help="seed of the random order (default: the time)")
    pairs.add_machine_arguments(parser, recording=False)
    for name in ("raw-echo", "raw-fanout", "rooms"):
        parser.add_argument(f"--{name}", help="path of the program (default: build it)")
    options = parser.parse_args()
    options.set = which
    if options.quick and (options.record or options.into):
        parser.error("--quick is a first look and writes no record")
    if options.quick:
        options.minutes = min(options.minutes, QUICK_MINUTES)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 30)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else options.set.seconds)
    if options.warmup is None:
        options.warmup = QUICK_WARMUP if options.quick else options.set.warmup
    if options.rounds < 1 or not 0.1 <= options.seconds <= 60:
        parser.error("--rounds must be at least 1, and --seconds from 0.1 to 60")
    allowed = os.sched_getaffinity(0)
    if not {options.server_cpu, options.generator_cpu} <= allowed or options.server_cpu == options.generator_cpu:
        parser.error(f"--server-cpu and --generator-cpu must be two different CPUs of {sorted(allowed)}")
    return options


def words(text):
    return [word for word in text.split(",") if word]


def show_list(which):
    for row in which.rows:
        print(f"{row.name:28} {row.title}{'  (quick)' if row.quick else ''}")
    print()
    for peer in which.peers:
        print(f"{peer.name:28} {peer.title}")


def commands_of(row, had, options):
    """The command of each peer that has the row's role."""
    filled = {
        "echoring": options.echoring, "raw_echo": options.raw_echo, "raw_fanout": options.raw_fanout, "rooms": options.rooms,
        "bytes": row.message_bytes, "cpu": options.server_cpu, "generator_cpu": options.generator_cpu,
    }
    return {name: roles[row.role].format(**filled) for name, roles in had.items() if row.role in roles}


def measure(row, had, record, options, random_source):
    """Adds the missing rounds to a row."""
    commands = commands_of(row, had, options)
    about = {
        "title": row.title, "commit": records.commit(), "load": row.load, "seconds": row.seconds(options),
        "warmup_seconds": options.warmup * row.scale,
        "commands": {name: pairs.bare(command) for name, command in commands.items()},
        "environment": records.environment(options),
    }
    kept = record.begin(row.name, about, options.again)
    wanted = min(options.rounds, row.rounds_max or options.rounds)
    missing = wanted - records.rounds_of_all(kept, commands)
    if missing <= 0:
        pairs.progress(f"{row.name}: already has {wanted} rounds")
        return
    if row.rate_share:
        row = at_rate(row, kept, commands, options)
    before = os.getloadavg()[0]

    def keep(found):
        records.add(kept, found)
        kept["load_average"] = {"before": before, "after": os.getloadavg()[0]}
        kept["updated_at"] = machine.now()
        if len(kept["rounds"]) % SAVED_EVERY == 0:
            record.save()

    try:
        kept["failed"].update(rounds.run(row, commands, missing, options, random_source, keep))
    finally:
        record.save()
        pairs.progress("")


def at_rate(row, kept, commands, options):
    """The row with its rate, which is determined once and then kept."""
    if not kept.get("maxima"):
        kept["maxima"] = rounds.slowest_maximum(row, commands, options)
        kept["rate"] = round(row.rate_share * min(kept["maxima"].values()))
        pairs.progress(f"{row.name}: {kept['rate']:,} messages/s")
    return dataclasses.replace(row, load=f"{row.load} --rate {kept['rate']}")


def measure_all(record, options):
    """Measures every selected row. Returns the names of rows that could not be measured."""
    chosen = workloads.of_names(words(options.rows), options.quick, options.set.rows)
    chosen_peers = catalogue.of_names(words(options.peers), options.set.peers)
    # Linking takes one CPU for minutes, while half of the peers' preparation is downloads.
    with concurrent.futures.ThreadPoolExecutor() as beside:
        built = beside.submit(catalogue.binaries, options, chosen_peers, chosen)
        had, skipped = catalogue.prepare(chosen_peers)
        built.result()
    if any(row.kind == "witness" for row in chosen):
        options.load_test = install.load_test()
    record.content["peers"].update(catalogue.versions(had, chosen_peers))
    record.content["skipped"] = {
        name: why for name, why in {**record.content["skipped"], **skipped}.items() if name not in had
    }
    record.content["known_bias"] = options.set.known_bias
    options.deadline = time.monotonic() + options.minutes * 60
    random_source = random.Random(options.seed if options.seed is not None else time.time_ns())
    failed = []
    for row in chosen:
        if time.monotonic() > options.deadline:
            print(f"out of time before {row.name}; run the same command again to continue")
            break
        try:
            measure(row, had, record, options, random_source)
        except pairs.Failed as error:
            print(f"cannot measure {row.name}: {error}", file=sys.stderr)
            failed.append(row.name)
    return failed


def write_pages(record, found, folder, which):
    """Writes the tables, and for compare-peers the chart of a quick look."""
    texts = {record.page: tables.page(record, found, which.heading)}
    if which.name == "peers" and (chart := readme.panels(found)):
        texts[os.path.join(folder, "peers.svg")] = chart
    for path, text in texts.items():
        with open(path, "w") as file:
            file.write(text)
    print(f"written to {os.path.relpath(folder, machine.ROOT)}")


def end_on_signal(*_):
    """Ends like an interrupt: stops servers and keeps completed rounds."""
    raise KeyboardInterrupt


def main():
    options = arguments()
    if options.list:
        show_list(options.set)
        return
    if options.check:
        outdated = readme.outdated()
        says = f"compare-peers: these do not match results/: {', '.join(outdated)}; run scripts/compare-peers --readme"
        if outdated:
            sys.exit(says)
        stale = readme.too_old(readme.age())
        if stale and options.release:
            sys.exit(f"compare-peers: {stale}")
        if stale:
            print(f"compare-peers: {stale}")
        return
    if options.readme and not (options.record or options.into):
        readme.write()
        return
    tables.TITLES.update((peer.name, peer.title) for peer in options.set.peers)
    process.raise_descriptors()
    signal.signal(signal.SIGTERM, end_on_signal)
    with tempfile.TemporaryDirectory(prefix="compare-peers-") as scratch:
        folder = options.into or (records.folder_to_go_on_in(options.set.name) if options.record else scratch)
        record = records.Record(folder, options.set.name)
        failed, ended_early = [], False
        try:
            failed = measure_all(record, options)
        except KeyError as error:
            pairs.fail(f"--rows: no row {error}; see --list")
        except KeyboardInterrupt:
            ended_early = True
        found = tables.summaries(record, options.set.rows)
        print(tables.overview(record, found))
        if folder != scratch:
            write_pages(record, found, folder, options.set)
    if options.readme:
        readme.write()
    if ended_early:
        sys.exit("ended early; completed rounds are kept, and the same command continues from there")
    missed = options.set.must_meet and any(one["verdict"] == "missed" for _, result in found for one in result["ratios"] + result["bounds"])
    sys.exit(1 if failed or missed else 0)


if __name__ == "__main__":
    main()
