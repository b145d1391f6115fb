"""`scripts/cluster-scale`: what its model conserves, a case computed by hand, and costs that name their records."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import unittest

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
sys.path.append(SCRIPTS)


def load():
    """The script as a module: its name has no suffix, and a dash."""
    loader = importlib.machinery.SourceFileLoader("cluster_scale", os.path.join(SCRIPTS, "cluster-scale"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("cluster_scale", loader))
    sys.modules["cluster_scale"] = module
    loader.exec_module(module)
    return module


scale = load()
QUICK = scale.Parameters(**scale.QUICK)


def model(**changed):
    return scale.Model(dataclasses.replace(QUICK, **changed))


class Topics(unittest.TestCase):
    def test_classes_have_all_topics_and_their_shares_are_a_whole(self):
        for topics, exponent in ((1, 1.0), (999, 1.0), (50_000, 0.5), (50_000, 1.0), (1_000_000, 1.3)):
            classes = scale.topic_classes(topics, exponent)
            self.assertEqual(sum(count for count, _ in classes), topics)
            self.assertAlmostEqual(sum(count * share for count, share in classes), 1.0)

    def test_the_shares_are_those_of_the_distribution(self):
        weights = [rank**-1.0 for rank in range(1, 20_001)]
        classes = scale.topic_classes(20_000, 1.0)
        self.assertAlmostEqual(classes[0][1], 1 / sum(weights), places=6)
        # The last class begins where the ranks of all others end.
        count, share = classes[-1]
        self.assertAlmostEqual(share * sum(weights), sum(weights[-count:]) / count, places=9)


class Steady(unittest.TestCase):
    def test_a_tiny_cluster_is_as_computed_by_hand(self):
        # Two equally popular topics of five publications a second and two subscribers each. A node has a subscriber of a topic with
        # probability 3/4, and half of the publications reach the topic's owner from the other node.
        tiny = model(nodes=2, connections=4, topics=2, zipf_exponent=0.0, publications_per_s=10.0)
        totals, hot = scale.traffic(tiny)
        expected = {"deliveries": 20.0, "forwarded": 7.5, "published_elsewhere": 5.0, "followed": 1.5}
        for name, value in expected.items():
            self.assertAlmostEqual(totals[name], value, msg=name)
        self.assertAlmostEqual(hot["subscribers"], 2.0)
        mean, busiest = scale.node_traffic(tiny)
        # Of 17.5 messages each node sends half. The owner of a topic sends what it forwards and answers, and half of the other's.
        self.assertAlmostEqual(mean.out, 8.75)
        self.assertAlmostEqual(busiest.out, (17.5 - 3.75 - 5.0) / 2 + 3.75 + 2.5)

    def test_what_is_sent_is_received(self):
        mean, busiest = scale.node_traffic(model())
        self.assertEqual(mean.out, mean.into)
        totals, hot = scale.traffic(model())
        messages = totals["forwarded"] + 2 * totals["published_elsewhere"]
        self.assertAlmostEqual(mean.out * QUICK.nodes, messages)
        # The most popular topic's messages leave its owner, and nobody else.
        rest = messages - hot["forwarded"] - 2 * hot["published_elsewhere"]
        self.assertAlmostEqual(busiest.out - rest / QUICK.nodes, hot["forwarded"] + hot["published_elsewhere"])
        self.assertLessEqual(totals["forwarded"], totals["deliveries"])

    def test_no_share_falls_when_the_load_grows(self):
        for name in ("publications_per_s", "connections", "payload_bytes"):
            before = None
            for factor in (1, 2, 8, 64, 512):
                shares = scale.steady(scale.Model(scale.grown(QUICK, name, factor)))["shares"]
                for resource, share in shares.items():
                    self.assertGreaterEqual(share, (before or shares)[resource] * (1 - 1e-9), f"{resource} as {name} grows")
                before = shares

    def test_a_batch_costs_less_than_its_messages_alone(self):
        self.assertAlmostEqual(model().send_s(1), scale.costs()["delivery_us"].value * 1e-6)
        self.assertAlmostEqual(model().send_s(8), scale.costs()["delivery_of_8_us"].value * 1e-6)

    def test_growth_ends_where_a_limit_is_met(self):
        found = scale.growth(QUICK, "publications_per_s", scale.COUNTED)
        at = lambda factor: scale.first_limit(
            scale.steady(scale.Model(scale.grown(QUICK, "publications_per_s", factor)))["shares"], scale.COUNTED
        )
        self.assertLess(at(found["factor"] * 0.999)["share"], 1)
        self.assertGreaterEqual(at(found["factor"] * 1.001)["share"], 1)
        self.assertEqual(at(found["factor"])["limit"], found["limit"])


class Events(unittest.TestCase):
    def test_all_nodes_settle_after_a_death_and_no_packet_is_lost(self):
        for of_hot_topic in (False, True):
            figures = scale.kill(model(), random.Random(1), of_hot_topic)["figures"]
            left = QUICK.nodes - 1
            self.assertEqual(figures["settles"], left * (left - 1))
            self.assertEqual(figures["packets"], figures["packets_received"])
            self.assertTrue(figures["all_open"])
            self.assertLess(figures["last_detected_s"], figures["served_s"])
            self.assertLessEqual(figures["last_detected_s"], QUICK.member_timeout_s)

    def test_every_node_hands_over_to_the_one_that_joins_and_all_settle_twice_with_it(self):
        figures = scale.join(model(), 1_000)["figures"]
        nodes = QUICK.nodes
        self.assertEqual(figures["handovers"], nodes)
        # The node answers the others' first views, and everybody answers everybody's second.
        self.assertEqual(figures["settles"], nodes + (nodes + 1) * nodes)
        self.assertEqual(figures["packets"], figures["packets_received"])
        self.assertTrue(figures["all_open"])
        self.assertAlmostEqual(figures["topics_moved"], QUICK.topics / (nodes + 1))

    def test_more_state_makes_more_bytes_wait(self):
        few, many = (scale.join(model(), size)["figures"] for size in (0, 512 * 1024))
        self.assertLess(few["bytes_moved"], many["bytes_moved"])
        self.assertLess(few["bytes_waiting_max"], many["bytes_waiting_max"])
        self.assertLessEqual(many["bytes_waiting_max"], many["bytes_moved"] * 1.01)

    def test_a_burst_is_delivered_whole(self):
        for burst in (1, 100, 100_000):
            figures = scale.burst(model(burst=burst))["figures"]
            self.assertAlmostEqual(figures["deliveries"] / figures["deliveries_expected"], 1.0)
            self.assertLessEqual(figures["last_sent_s"], figures["last_delivered_s"])

    def test_a_seed_decides_everything(self):
        times = [scale.kill(model(), random.Random(seed), False)["figures"]["served_s"] for seed in (1, 1, 2)]
        self.assertEqual(times[0], times[1])
        self.assertNotEqual(times[0], times[2])


class Costs(unittest.TestCase):
    def test_each_cost_names_a_record_or_has_a_range(self):
        for name, cost in scale.costs().items():
            if cost.is_assumption():
                self.assertLessEqual(cost.low, cost.value, name)
                self.assertLessEqual(cost.value, cost.high, name)
            else:
                path = cost.source.partition(": ")[0]
                self.assertTrue(os.path.exists(os.path.join(scale.machine.ROOT, path)), f"{name}: {path}")

    def test_bounds_are_those_of_the_source(self):
        with open(os.path.join(scale.machine.ROOT, "src", "cluster", "limits.rs")) as file:
            source = file.read()
        self.assertIn(f"MEMBERS_MAX: usize = {scale.limits()['MEMBERS_MAX']:_};", source)
        self.assertEqual(scale.limits()["PUBLISH_TIMEOUT"], 5_000_000_000)

    def test_the_tables_have_every_scenario_and_every_assumption(self):
        parameters = dataclasses.replace(QUICK, nodes=8, connections=800, topics=100)
        figures = scale.evaluate(parameters, 1)
        json.dumps(figures)
        text = scale.tables(figures)
        for outcome in figures["scenarios"].values():
            self.assertIn(outcome["scenario"].capitalize(), text)
        for name, cost in scale.costs().items():
            self.assertIn(f"| `{name}` |", text)
