"""What the rounds of a row come to: medians, ratios from within rounds with their intervals, and verdicts."""

import math
import random
import statistics

import pairs
from catalogue import AGAIN, OURS
from workloads import ANYONE, COST

# Of the ratio of echoring to itself: past that the machine was too noisy for verdicts within some per cent.
NOISE_MAX = 0.02
# With fewer rounds a bootstrap's interval is narrow by chance; the range of the ratios then holds the median with as much
# certainty, from six rounds on (1 - 2 / 2^6). With fewer still nothing is decided, but where a row never has as many.
ROUNDS_BOOTSTRAP_MIN, ROUNDS_JUDGED_MIN = 10, 6
MEAN_TARGET = 0.97
BOOTSTRAP = 2_000
SHARES = ("user_share", "soft_share", "cpu_share", "messages_per_s", "p50_ns", "p99_ns", "p999_ns")


def values(rounds, side, name):
    return [found[side][name] for found in rounds if side in found and found[side].get(name) is not None]


def spread(numbers):
    """Median, quartiles and least; None without numbers."""
    if not numbers:
        return None
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else [numbers[0]] * 3
    return {"median": statistics.median(numbers), "low": low, "high": high, "least": min(numbers)}


def ratio(rounds, ours, theirs, name, random_source):
    """Of two sides' values within rounds: the median, and its 95 % interval."""
    both = [
        found[ours][name] / found[theirs][name]
        for found in rounds
        if ours in found and theirs in found and found[ours].get(name) and found[theirs].get(name)
    ]
    if not both:
        return None
    if len(both) < ROUNDS_BOOTSTRAP_MIN:
        low, high = min(both), max(both)
    else:
        low, high = pairs.interval(both, random_source, BOOTSTRAP)
    return {"rounds": len(both), "median": statistics.median(both), "low": low, "high": high}


def target_of(row, side, raws):
    """None for a floor that the row has no target for: it is told and not judged."""
    if side in row.targets:
        return row.targets[side]
    return None if side in raws or side.startswith(OURS) else row.targets.get(ANYONE)


def summary(row, rounds, raws):
    """Of each side what it took, and of each but echoring the ratio of echoring to it."""
    random_source = random.Random(row.name)
    names = list(dict.fromkeys(name for found in rounds for name in found))
    result = {"rounds": len(rounds), "sides": {}, "ratios": []}
    for side in names:
        result["sides"][side] = {
            **{name: spread(values(rounds, side, name)) for name in row.shown},
            **{name: median(values(rounds, side, name)) for name in SHARES if name not in row.shown},
        }
    for ours, targets in ((OURS, None), *row.also):
        for side in names:
            if side == ours or targets is not None and side not in targets:
                continue
            target = targets[side] if targets is not None else target_of(row, side, raws)
            result["ratios"] += [
                {"of": ours, "to": side, "value": name, **judged}
                for name in row.shown
                if (judged := judge_ratio(row, rounds, ours, side, name, target if name in row.values else None, random_source))
            ]
    result["bounds"] = [bound(spread(values(rounds, OURS, name)), name, most) for name, most in row.bounds.items()]
    result["noise"] = noise(result)
    samples = [sample for found in rounds for sample in found.values()]
    result["samples"] = len(samples)
    result["generator_saturated"] = sum(sample.get("generator_saturated") == 1.0 for sample in samples)
    return result


def judge_ratio(row, rounds, ours, side, name, target, random_source):
    """A ratio with its verdict; None where the sides have no round in common."""
    found = ratio(rounds, ours, side, name, random_source)
    if not found:
        return None
    verdict = None
    if target:
        verdict = pairs.verdict(found["low"], found["high"], target) if is_enough(row, found) else "undecided"
    return {**found, "target": target, "verdict": verdict}


def is_enough(row, found):
    """Whether a ratio has the rounds that something can be told by."""
    return found["rounds"] >= min(ROUNDS_JUDGED_MIN, row.rounds_max or ROUNDS_JUDGED_MIN)


def joined(row, days):
    """One summary of those of several days, the last one last, and of several machines each: the last day that has a ratio
    tells it, as the machine tells it that knows it best, which is where its interval is the narrowest. What is told in absolute
    terms is of the last day and the machine with the least noise that has it. None where no ratio has enough rounds."""
    told = {}
    for results in days:
        of_day = {}
        for found in (found for result in results for found in result["ratios"] if is_enough(row, found)):
            key = found["of"], found["to"], found["value"]
            of_day[key] = min(of_day.get(key, found), found, key=lambda one: (one["high"] - one["low"]) / one["median"])
        told.update(of_day)
    by_noise = [
        result for results in reversed(days)
        for result in sorted(results, key=lambda result: math.inf if result["noise"] is None else result["noise"])
    ]
    sides = {}
    for result in reversed(by_noise):
        for side, figures in result["sides"].items():
            sides.setdefault(side, {}).update((name, figure) for name, figure in figures.items() if figure is not None)
    return {**by_noise[0], "sides": sides, "ratios": list(told.values())} if told else None


def bound(told, name, most):
    """Of a value of echoring's own, by its quartiles."""
    verdict = pairs.verdict(told["low"], told["high"], most) if told else "missed"
    return {"value": name, "at_most": most, "median": told and told["median"], "verdict": verdict}


def agreement(result, first, second):
    """Of each side whether two ways to measure the ratio of echoring to it come to the same: their intervals have some
    of it in common."""
    by = {(found["to"], found["value"]): found for found in result["ratios"] if found["of"] == OURS}
    both = [(side, by[side, first], by[side, second]) for side in result["sides"] if (side, first) in by and (side, second) in by]
    return [(side, a, b, a["low"] <= b["high"] and b["low"] <= a["high"]) for side, a, b in both]


def median(numbers):
    return statistics.median(numbers) if numbers else None


def noise(result):
    """How far from 1 the interval of echoring's ratio to itself reaches, over all values of the row."""
    reach = [max(abs(r["low"] - 1), abs(r["high"] - 1)) for r in result["ratios"] if r["to"] == AGAIN and r["of"] == OURS]
    return max(reach) if reach else None


def geometric_mean(rows, side):
    """Of echoring's ratios to a side over several rows, with an interval by bootstrap within each row; None unless every
    row has that side. `rows` are lists of rounds."""
    columns = [
        [
            math.log(found[OURS][COST] / found[side][COST])
            for found in rounds
            if OURS in found and side in found
        ]
        for rounds in rows
    ]
    if not columns or not all(columns):
        return None
    random_source = random.Random(side)
    means = sorted(
        statistics.mean(statistics.median(random_source.choices(column, k=len(column))) for column in columns)
        for _ in range(BOOTSTRAP)
    )
    low, high = (math.exp(means[int(at * BOOTSTRAP)]) for at in (0.025, 0.975))
    middle = math.exp(statistics.mean(statistics.median(column) for column in columns))
    return {
        "to": side, "rows": len(rows), "median": middle, "low": low, "high": high, "target": MEAN_TARGET,
        "verdict": pairs.verdict(low, high, MEAN_TARGET),
    }
