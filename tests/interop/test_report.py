"""The files that `bench` writes for other tools, read with HdrHistogram for Python and with Chromium."""

import csv
import functools
import http.server
import json
import os
import subprocess
import tempfile
import threading
import unittest

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from harness import BINARY, PATIENCE_S, Server
from webdriver import Browser, available


def echoring(*words):
    """Runs the program. Returns its output."""
    done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=4 * PATIENCE_S)
    # On a busy machine the generator may be late.
    if done.returncode not in (0, 4):
        raise AssertionError(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Measured(unittest.TestCase):
    """Makes two runs with different rates against the server, and checks their files."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = directory.name
        scenario = cls.path("scenario.toml")
        with open(scenario, "w") as file:
            file.write(
                """
                mode = "echo"
                connections = 5
                duration = "3s"
                warmup = "200ms"
                json = "run.json"
                hlog = "run.hlog"
                csv = "run.csv"
                [[run]]
                label = "slow <b>& \\"steady\\"</b>"
                rate = 200
                [[run]]
                label = "fast"
                rate = 1000
                """
            )
        with Server() as server:
            cls.printed = echoring("bench", "-f", scenario, server.url("/echo"))
        with open(cls.path("run.json")) as file:
            cls.runs = json.load(file)["runs"]

    @classmethod
    def path(cls, name):
        return os.path.join(cls.directory, name)


class ForHdrHistogram(Measured):
    def test_the_interval_log_is_read_by_its_python_library(self):
        for number, run in enumerate(self.runs, 1):
            reference = HdrHistogram(1, 3_600_000_000_000, 3)
            reader = HistogramLogReader(self.path(f"run.{number}.hlog"), reference)
            total, intervals = 0, 0
            while (interval := reader.get_next_interval_histogram()) is not None:
                if interval.get_tag() != "response":
                    continue
                row = run["intervals"][intervals]
                self.assertEqual(interval.get_total_count(), row["messages"])
                for percentile, field in [(50, "p50_ns"), (99, "p99_ns")]:
                    self.between(interval, percentile, row[field], 0.02)
                total += interval.get_total_count()
                intervals += 1
            self.assertEqual((intervals, total), (len(run["intervals"]), run["messages"]))

    def test_distributions_in_records_are_decoded_by_its_python_library(self):
        for run in self.runs:
            for kind in ["response", "service"]:
                whole = HdrHistogram.decode(run[f"{kind}_histogram"])
                told = run[f"{kind}_ns"]
                self.assertEqual(whole.get_total_count(), told["count"])
                for percentile, field in [(50, "p50"), (90, "p90"), (99, "p99"), (100, "max")]:
                    self.between(whole, percentile, told[field], 0.002)

    def between(self, histogram, percentile, told, precision):
        """Compares percentiles. The libraries round the rank of a percentile differently, so a neighbouring value is equal."""
        step = 100 / histogram.get_total_count()
        least, most = (
            histogram.get_value_at_percentile(min(100, max(0, percentile + change))) for change in (-step, step)
        )
        self.assertLessEqual(least * (1 - precision), told)
        self.assertGreaterEqual(most * (1 + precision), told)


class AsValues(Measured):
    def test_rows_are_comma_separated_values(self):
        for number, run in enumerate(self.runs, 1):
            with open(self.path(f"run.{number}.csv"), newline="") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual([int(row["messages"]) for row in rows], [i["messages"] for i in run["intervals"]])
            for row, interval in zip(rows, run["intervals"], strict=True):
                self.assertEqual(float(row["at_s"]), interval["at_s"])
                self.assertEqual(int(row["response_p99_ns"]), interval["p99_ns"])


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InTheBrowser(Measured):
    HEAVY = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.html, cls.asked = cls.path("report.html"), []
        echoring("report", cls.path("run.json"), "--out", cls.html, "--svg", cls.path("charts"))

        class Pages(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                cls.asked.append(self.path)
                super().do_GET()

            def end_headers(self):
                # A page from the browser's cache would send no requests.
                self.send_header("Cache-Control", "no-store")
                super().end_headers()

        pages = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Pages, directory=cls.directory)
        )
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        cls.addClassCleanup(pages.server_close)
        cls.addClassCleanup(pages.shutdown)
        cls.origin = f"http://127.0.0.1:{pages.server_address[1]}"
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def test_the_page_is_whole_and_asks_for_nothing(self):
        self.browser.log()
        self.asked.clear()
        self.browser.open(f"{self.origin}/report.html")
        ids = self.browser.run("return [...document.querySelectorAll('section')].map((s) => s.id)")
        expected = ["percentiles", "notes", "summary", "timeline", "latency-over-time", "integrity"]
        # Where the kernel has timestamps, those of slow loads are split.
        whole = [name for name in ids if name != "split"]
        self.assertEqual(whole[: len(expected)], expected)
        fetched = self.browser.run("return performance.getEntriesByType('resource').map((r) => r.name)")
        self.assertEqual([name for name in fetched if not name.startswith("data:")], [])
        self.assertEqual(self.asked, ["/report.html"])
        self.assertEqual(self.browser.log(), [], "the console stays empty")

    def test_labels_are_text_and_charts_have_names(self):
        self.browser.open(f"{self.origin}/report.html")
        cells = self.browser.run(
            "return [...document.querySelectorAll('#summary tbody th')].map((cell) => cell.textContent)"
        )
        self.assertEqual(cells, ['slow <b>& "steady"</b>', "fast"])
        self.assertEqual(self.browser.run("return document.querySelectorAll('#summary b').length"), 0)
        charts = self.browser.run(
            """
            return [...document.querySelectorAll("svg.wide")].map((svg) => {
                const named = svg.getAttribute("aria-labelledby").split(" ");
                return [svg.getAttribute("role"), ...named.map((id) => document.getElementById(id).textContent)];
            });
            """
        )
        titles = [chart[1] for chart in charts]
        self.assertEqual(titles[:2], ["Latency by percentile", 'Latency over time: slow <b>& "steady"</b>'])
        self.assertIn("Target, sent and received rate", titles)
        self.assertTrue(all(role == "img" and caption for role, _, caption in charts), charts)

    def test_values_of_the_time_that_is_pointed_at_are_shown_in_all_charts(self):
        slices = [run["timeline"] for run in self.runs]
        columns = len(slices[0]["sent"])
        self.browser.look(1100, 900, "light")
        self.browser.log()
        self.browser.open(f"{self.origin}/report.html")
        map = "#timeline svg.wide[data-run='1']"
        left, right, top, bottom, width, height = self.browser.run(
            """
            const map = document.querySelector(args[0]);
            return [...map.dataset.plot.split(" ").map(Number), map.viewBox.baseVal.width, map.viewBox.baseVal.height];
            """,
            map,
        )
        column = columns // 2
        x = left + (right - left) * (column + 0.5) / columns
        self.browser.hover(map, x / width, (top + bottom) / 2 / height)
        seen = self.seen()
        self.assertRegex(seen["time"], rf"^{column / 10:.1f} to {(column + 1) / 10:.1f} s, .+ to .+: [\d,]+ messages$")
        self.assertEqual(len(seen["runs"]), 2)
        for shown, name, series in zip(seen["runs"], ['slow <b>& "steady"</b>', "fast"], slices, strict=True):
            self.assertEqual(shown[0], name)
            for field, values in [("target/s", series["due"]), ("sent/s", series["sent"]), ("received/s", series["arrived"])]:
                self.assertIn(f"{field} {10 * values[column]:,}", shown)
            self.assertIn("open 5", shown)
        # A line in each chart, at the same time.
        self.assertGreater(len(seen["lines"]), 3)
        for share in seen["lines"]:
            self.assertAlmostEqual(share, (column + 0.5) / columns, places=3)
        # The slider is for the keyboard.
        self.browser.press("#timeline .readout input", "\ue014")
        self.assertEqual(self.seen()["time"], f"{(column + 1) / 10:.1f} to {(column + 2) / 10:.1f} s")
        spoken = self.browser.run("return document.querySelector('#timeline input').getAttribute('aria-valuetext')")
        self.assertIn(f"target/s {10 * slices[1]['due'][column + 1]:,}", spoken)
        self.assertEqual(self.browser.log(), [], "the page's policy allows its script")

    def seen(self):
        return self.browser.run(
            """
            const drawings = [...document.querySelectorAll("#timeline svg")].filter((svg) => svg.getBoundingClientRect().width > 0);
            return {
                time: document.querySelector(".readout .time").textContent,
                runs: [...document.querySelectorAll(".readout ul")].map((list) => [...list.children].map((item) => item.textContent)),
                lines: drawings.map((svg) => {
                    const [left, right] = svg.dataset.plot.split(" ").map(Number);
                    return (svg.querySelector(".cursor").x1.baseVal.value - left) / (right - left);
                }),
            };
            """
        )

    def test_two_files_are_compared_on_one_page(self):
        for number, run in enumerate(self.runs):
            with open(self.path(f"{number}.json"), "w") as file:
                json.dump({"schema": "echoring.run/1", "runs": [run]}, file)
        echoring("report", self.path("0.json"), self.path("1.json"), "--out", self.path("both.html"))
        self.browser.look(1100, 900, "light")
        self.browser.open(f"{self.origin}/both.html")
        head, metrics, maps = self.browser.run(
            """
            const text = (selector) => [...document.querySelectorAll(selector)].map((cell) => cell.textContent);
            const maps = [...document.querySelectorAll(".maps svg.wide")].map((svg) => svg.getBoundingClientRect());
            return [text("#comparison thead th"), text("#comparison tbody th"), maps.map((box) => [box.left, box.top])];
            """
        )
        self.assertEqual(head[:4], ["metric", "A", "B", "B / A"])
        self.assertIn("p99", metrics)
        self.assertEqual(len(maps), 2)
        self.assertLess(maps[0][0], maps[1][0], "side by side")

    def test_several_files_of_each_side_are_compared(self):
        sides = ([], [])
        for number in range(20):
            run = dict(self.runs[number % 2], messages_per_s=self.runs[number % 2]["messages_per_s"] + number)
            sides[number % 2].append(self.path(f"of-{number}.json"))
            with open(sides[number % 2][-1], "w") as file:
                json.dump({"schema": "echoring.run/1", "runs": [run]}, file)
        against = [word for path in sides[1] for word in ("--against", path)]
        echoring("report", *sides[0], *against, "--out", self.path("sides.html"))
        for width, scheme in ((1100, "light"), (390, "dark")):
            self.browser.look(width, 900, scheme)
            self.browser.open(f"{self.origin}/sides.html")
            heads, names, outside = self.browser.run(
                """
                const shown = [...document.querySelectorAll("#comparison svg")].find((svg) => svg.getBoundingClientRect().width > 0);
                const box = shown.getBoundingClientRect();
                const texts = [...shown.querySelectorAll("text")];
                const isOutside = (text) => {
                    const { left, right } = text.getBoundingClientRect();
                    return left < box.left || right > box.right;
                };
                const heads = [...document.querySelectorAll("#comparison tbody th")].map((cell) => cell.textContent);
                return [heads, texts.map((text) => text.textContent.trim()), texts.filter(isOutside).map((text) => text.textContent)];
                """
            )
            self.assertIn("messages_per_s", heads)
            self.assertTrue({"rate", "0"} <= set(names), names)
            self.assertEqual(outside, [])
            shown = os.environ.get("ECHORING_SCREENSHOTS")
            if shown:
                self.browser.screenshot(os.path.join(shown, f"report-sides-{width}-{scheme}.png"))

    def test_a_phone_shows_everything_without_scrolling_sideways_and_in_legible_text(self):
        self.browser.look(390, 844, "light")
        self.browser.open(f"{self.origin}/report.html")
        seen = self.browser.run(
            """
            const charts = [...document.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0);
            const texts = charts.flatMap((svg) => [...svg.querySelectorAll("text")]);
            const wider = [...document.querySelectorAll("body, .scroll")].filter((box) => box.scrollWidth > box.clientWidth);
            return {
                charts: charts.map((svg) => svg.getAttribute("class")),
                least: Math.min(...texts.map((text) => text.getBoundingClientRect().height)),
                wider: wider.map((box) => box.outerHTML.slice(0, 200)),
            };
            """
        )
        self.assertEqual(set(seen["charts"]), {"chart narrow"}, seen)
        self.assertGreaterEqual(seen["least"], 11, seen)
        self.assertEqual(seen["wider"], [], seen)
        shown = os.environ.get("ECHORING_SCREENSHOTS")
        if shown:
            self.browser.screenshot(os.path.join(shown, "report-phone.png"))

    def test_bars_of_parts_fill_the_width_of_every_screen_and_show_their_numbers(self):
        names = ["waiting_in_generator_ns", "generator_kernel_ns", "server_and_network_ns", "kernel_to_program_ns"]
        parts = {"p50": [20, 30, 1700, 250], "p90": [900, 100, 2400, 1300], "p99": [2300, 1000, 17200, 2800]}
        split = {"sampled": 1000, "stamped": 990, "unattributed": 10, "p999": None}
        for quantile, us in parts.items():
            ns = [1000 * part for part in us]
            split[quantile] = dict(zip(names, ns, strict=True), total_ns=sum(ns), messages=100)
        with open(self.path("split.json"), "w") as file:
            json.dump({"schema": "echoring.run/1", "runs": [{**self.runs[1], "split": split}]}, file)
        echoring("report", self.path("split.json"), "--out", self.path("split.html"))
        for width, scheme in [(1280, "light"), (1280, "dark"), (390, "light")]:
            self.browser.look(width, 844, scheme)
            self.browser.open(f"{self.origin}/split.html")
            seen = self.browser.run(
                """
                const width = (element) => element.getBoundingClientRect().width;
                const bars = [...document.querySelectorAll("#split .bar div")];
                const numbers = bars.flatMap((bar) => [...bar.querySelectorAll("b")]);
                document.querySelector("#split").scrollIntoView();
                return {
                    bars: bars.map((bar) => [...bar.children].reduce((sum, part) => sum + width(part), -width(bar))),
                    clipped: numbers.filter((number) => width(number) > width(number.parentElement)).length,
                    numbers: numbers.length,
                    rows: document.querySelectorAll("#split tbody tr").length,
                    wide: document.documentElement.scrollWidth <= innerWidth,
                };
                """
            )
            self.assertEqual(len(seen["bars"]), len(parts), seen)
            self.assertTrue(all(abs(rest) < 1 for rest in seen["bars"]), seen)
            self.assertEqual((seen["clipped"], seen["numbers"], seen["rows"], seen["wide"]), (0, 5, 3, True), seen)
            shown = os.environ.get("ECHORING_SCREENSHOTS")
            if shown:
                self.browser.screenshot(os.path.join(shown, f"split-{width}-{scheme}.png"))

    def test_lines_are_within_their_charts_and_seen_in_both_schemes(self):
        seen = {}
        for scheme in ["light", "dark"]:
            self.browser.look(1100, 900, scheme)
            self.browser.open(f"{self.origin}/report.html")
            seen[scheme] = self.browser.run(
                """
                const body = getComputedStyle(document.body);
                const lines = [...document.querySelectorAll("#percentiles .wide polyline:is(.s0, .s1)")];
                return {
                    back: body.backgroundColor, ink: body.color,
                    lines: lines.map((line) => getComputedStyle(line).stroke),
                    within: lines.every((line) => {
                        const box = line.getBBox();
                        return box.x >= 0 && box.y >= 0 && box.x + box.width <= 960 && box.y + box.height <= 440;
                    }),
                    wide: document.documentElement.scrollWidth <= innerWidth,
                };
                """
            )
            self.assertTrue(seen[scheme]["within"] and seen[scheme]["wide"], seen)
            # Two runs with response and service time each, and an entry of the legend for each.
            self.assertGreaterEqual(len(seen[scheme]["lines"]), 6, seen)
            shown = os.environ.get("ECHORING_SCREENSHOTS")
            if shown:
                self.browser.screenshot(os.path.join(shown, f"report-{scheme}.png"))
        self.assertNotEqual(seen["light"]["back"], seen["dark"]["back"])
        self.assertNotEqual(seen["light"]["ink"], seen["dark"]["ink"])
        self.assertNotEqual(seen["light"]["lines"], seen["dark"]["lines"])
        self.assertEqual(len(set(seen["light"]["lines"])), 2, "a colour for each run")

    def test_a_chart_is_a_file_of_its_own(self):
        self.browser.open(f"{self.origin}/charts/percentiles.svg")
        root = self.browser.run("return [document.documentElement.localName, document.querySelector('title').textContent]")
        self.assertEqual(root, ["svg", "Latency by percentile"])


if __name__ == "__main__":
    unittest.main()
