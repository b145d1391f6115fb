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
        echoring("report", cls.path("run.json"), "--out", cls.html)

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

    def open(self, name="report.html", width=1100, scheme="light"):
        """Opens a page with an empty console. Its charts are there when it is loaded."""
        self.browser.look(width, 900, scheme)
        self.browser.log()
        self.browser.open(f"{self.origin}/{name}")

    def shot(self, name):
        shown = os.environ.get("ECHORING_SCREENSHOTS")
        if shown:
            self.browser.screenshot(os.path.join(shown, name))

    def table(self, selector):
        """The first columns and the rows of a table."""
        return self.browser.run(
            """
            const rows = [...document.querySelectorAll(`${args[0]} tr`)];
            return rows.map((row) => [...row.children].map((cell) => cell.textContent));
            """,
            selector,
        )

    def drawn(self):
        """Each chart: its title, and how many colours there are in its plot."""
        return self.browser.run(
            """
            return [...document.querySelectorAll(".uplot canvas")].map((canvas) => {
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                const colours = new Map();
                for (const colour of new Uint32Array(data.buffer)) colours.set(colour, (colours.get(colour) ?? 0) + 1);
                const figure = canvas.closest("figure");
                return {
                    role: canvas.getAttribute("role"), label: canvas.getAttribute("aria-label"),
                    caption: figure.querySelector("figcaption").textContent,
                    painted: [...colours].filter(([colour, count]) => colour !== 0 && count >= 20).length,
                };
            });
            """
        )

    def test_the_page_is_whole_and_asks_for_nothing(self):
        self.asked.clear()
        self.open()
        ids = self.browser.run("return [...document.querySelectorAll('section')].map((s) => s.id)")
        expected = ["percentiles", "notes", "summary", "timeline", "latency-over-time", "figures", "environment"]
        # Where the kernel has timestamps, those of slow loads are split.
        whole = [name for name in ids if name != "split"]
        self.assertEqual(whole, [*expected, "configuration"])
        fetched = self.browser.run("return performance.getEntriesByType('resource').map((r) => r.name)")
        self.assertEqual([name for name in fetched if not name.startswith("data:")], [])
        self.assertEqual(self.asked, ["/report.html"])
        self.assertEqual(self.browser.log(), [], "no error, and the policy is kept")
        self.browser.open(f"file://{self.html}")
        self.assertTrue(self.drawn())
        self.assertEqual(self.browser.log(), [], "from a disk, too")

    def test_charts_are_drawn_in_both_schemes_and_have_their_data_as_tables(self):
        seen = {}
        for scheme in ["light", "dark"]:
            self.open(scheme=scheme)
            self.assertTrue(self.browser.run("return document.documentElement.scrollWidth <= innerWidth"))
            seen[scheme] = self.drawn()
            # Percentiles, two maps, rates, open connections, latency over time.
            self.assertGreaterEqual(len(seen[scheme]), 6, seen[scheme])
            for chart in seen[scheme]:
                self.assertEqual(chart["role"], "img", chart)
                self.assertIn(chart["caption"], chart["label"])
                self.assertGreaterEqual(chart["painted"], 3, chart)
            self.shot(f"report-{scheme}.png")
        self.assertIn('Latency over time: slow <b>& "steady"</b>', " ".join(chart["label"] for chart in seen["dark"]))
        # The percentiles of both runs, from the fastest message to the slowest.
        self.browser.click("#percentiles details summary")
        self.browser.until("document.querySelector('#percentiles details table')")
        head, *rows = self.table("#percentiles details")
        self.assertEqual(head[0], "percentile")
        self.assertEqual(rows[0][0], "0 %")
        self.assertGreater(len(rows), 20)
        self.assertEqual(self.browser.log(), [])

    def test_tables_have_the_figures_of_the_record(self):
        self.open()
        _, *rows = self.table("#summary")
        self.assertEqual([row[0] for row in rows], ['slow <b>& "steady"</b>', "fast"])
        self.assertEqual([row[1] for row in rows], [f"{run['messages']:,}" for run in self.runs])
        self.assertEqual(self.browser.run("return document.querySelectorAll('#summary tbody b').length"), 0)
        settings = {name: values for name, *values in self.table("#configuration")}
        self.assertEqual(settings["rate"], ["200", "1000"])
        self.assertEqual(settings["connections"], ["5", "5"])
        figures = {name: values for name, *values in self.table("#figures")}
        for at, run in enumerate(self.runs):
            self.assertTrue(figures["throughput"][at].startswith(f"{run['messages']:,} messages echoed in "), figures)
        percentiles = {row[0]: row for row in self.table("#percentiles .scroll:last-of-type")}
        p99_ns = self.runs[1]["response_ns"]["p99"]
        expected = f"{p99_ns / 1e3:.3g}" if p99_ns < 1e6 else f"{p99_ns / 1e6:.3g}"
        self.assertIn(expected.rstrip("0").rstrip("."), percentiles["response"][6], percentiles)
        records = self.browser.run("return JSON.parse(document.getElementById('report').textContent).runs.map((run) => run.record)")
        for record, run in zip(records, self.runs, strict=True):
            for quantile in ("count", "min", "p50", "p90", "p99", "p999", "max"):
                self.assertEqual(record["response_ns"][quantile], run["response_ns"][quantile])
            self.assertEqual(record["intervals"][0]["p99_ns"], run["intervals"][0]["p99_ns"])

    def test_values_of_the_time_that_is_pointed_at_are_shown_in_all_charts(self):
        slices = [run["timeline"] for run in self.runs]
        columns = len(slices[0]["sent"])
        self.open()
        map = "#timeline figure:first-of-type .u-over"
        column = columns // 2
        self.browser.hover(map, (column + 0.5) / columns, 0.5)
        self.browser.until("document.querySelector('.readout .time')")
        seen = self.seen()
        self.assertEqual(seen["time"], f"{column / 10:.1f} to {(column + 1) / 10:.1f} s")
        self.assertRegex(seen["cell"], r"^[\d.]+ .?s to [\d.]+ .?s: [\d,]+ messages$")
        self.assertEqual(len(seen["runs"]), 2)
        for shown, name, series in zip(seen["runs"], ['slow <b>& "steady"</b>', "fast"], slices, strict=True):
            self.assertTrue(shown.startswith(f"{name}: "), shown)
            for field, values in [("target", series["due"]), ("sent", series["sent"]), ("received", series["arrived"])]:
                self.assertIn(f"{field} {10 * values[column]:,}/s", shown)
            self.assertIn("open 5", shown)
        # A line in each chart, at the same time.
        self.assertGreater(len(seen["lines"]), 3)
        for share in seen["lines"]:
            self.assertAlmostEqual(share, (column + 0.5) / columns, places=1)
        # The slider is for the keyboard.
        self.browser.press("#timeline .readout input", "\ue014")
        self.assertEqual(self.seen()["time"], f"{(column + 1) / 10:.1f} to {(column + 2) / 10:.1f} s")
        spoken = self.browser.run("return document.querySelector('#timeline input').getAttribute('aria-valuetext')")
        self.assertIn(f"target {10 * slices[1]['due'][column + 1]:,}/s", spoken)
        self.assertEqual(self.browser.log(), [], "the page's policy allows its script")

    def seen(self):
        return self.browser.run(
            """
            return {
                time: document.querySelector(".readout .time").textContent,
                cell: document.querySelector("#timeline .cell").textContent,
                runs: [...document.querySelectorAll(".readout .values p:not(.time)")].map((one) => one.textContent),
                lines: [...document.querySelectorAll("#timeline .u-over")].map((over) => {
                    const box = over.getBoundingClientRect();
                    return (over.querySelector(".u-cursor-x").getBoundingClientRect().right - box.left) / box.width;
                }),
            };
            """
        )

    def test_two_files_are_compared_on_one_page(self):
        for number, run in enumerate(self.runs):
            with open(self.path(f"{number}.json"), "w") as file:
                json.dump({"schema": "echoring.run/1", "runs": [run]}, file)
        echoring("report", self.path("0.json"), self.path("1.json"), "--out", self.path("both.html"))
        self.open("both.html")
        head, *metrics = self.table("#comparison .scroll")
        self.assertEqual(head[:4], ["metric", "A", "B", "B / A"])
        self.assertIn("p99", [row[0] for row in metrics])
        maps = self.browser.run(
            "return [...document.querySelectorAll('.maps canvas')].map((map) => map.getBoundingClientRect()).map((box) => [box.left, box.top])"
        )
        self.assertEqual(len(maps), 2)
        self.assertLess(maps[0][0], maps[1][0], "side by side")
        self.assertEqual(self.browser.log(), [])
        self.shot("report-both.png")

    def test_several_files_of_each_side_are_compared(self):
        sides = ([], [])
        for number in range(20):
            run = dict(self.runs[number % 2], messages_per_s=self.runs[number % 2]["messages_per_s"] + number)
            sides[number % 2].append(self.path(f"of-{number}.json"))
            with open(sides[number % 2][-1], "w") as file:
                json.dump({"schema": "echoring.run/1", "runs": [run]}, file)
        against = [word for path in sides[1] for word in ("--against", path)]
        echoring("report", *sides[0], *against, "--out", self.path("sides.html"))
        with open(self.path("sides.html")) as page:
            data = json.loads(page.read().split('id="report">')[1].split("</script>")[0])
        ratios = {metric["metric"]: metric for metric in data["comparisons"][0]["comparison"]["metrics"]}
        for width, scheme in ((1100, "light"), (390, "dark")):
            self.open("sides.html", width, scheme)
            _, *metrics = self.table("#comparison > .scroll")
            for name, _, _, ratio, *_ in metrics:
                self.assertEqual(ratio, f"{ratios[name]['ratio']:.3f}")
            self.assertGreaterEqual(self.drawn()[0]["painted"], 3)
            self.browser.click("#comparison details summary")
            self.browser.until("document.querySelector('#comparison details table')")
            (rate,) = [row for row in self.table("#comparison details") if row[0] == "messages_per_s"]
            self.assertRegex(rate[1], r"^\+[\d.,]+ %$")
            self.assertEqual(self.browser.log(), [])
            self.shot(f"report-sides-{width}-{scheme}.png")

    def test_a_phone_shows_everything_without_scrolling_sideways_and_in_legible_text(self):
        self.open(width=390)
        seen = self.browser.run(
            """
            const wider = [...document.querySelectorAll("body, .scroll")].filter((box) => box.scrollWidth > box.clientWidth);
            const legends = [...document.querySelectorAll(".u-legend td, .u-legend th")];
            return {
                charts: [...document.querySelectorAll("canvas")].map((canvas) => canvas.getBoundingClientRect().right),
                least: Math.min(...legends.map((text) => parseFloat(getComputedStyle(text).fontSize))),
                wider: wider.map((box) => box.outerHTML.slice(0, 200)),
            };
            """
        )
        self.assertLessEqual(max(seen["charts"]), 390, seen)
        self.assertGreaterEqual(seen["least"], 12, seen)
        self.assertEqual(seen["wider"], [], seen)
        self.shot("report-phone.png")

    def test_bars_of_parts_fill_the_width_of_every_screen_and_show_their_numbers(self):
        names = ["waiting_in_generator_ns", "generator_kernel_ns", "server_and_network_ns", "kernel_to_program_ns"]
        parts = {"p50": [20, 30, 1700, 250], "p90": [900, 100, 2400, 1300], "p99": [2300, 1000, 17200, 2800]}
        split = {"sampled": 1000, "bounded": 10, "p999": None}
        for quantile, us in parts.items():
            ns = [1000 * part for part in us]
            split[quantile] = dict(zip(names, ns, strict=True), total_ns=sum(ns), messages=100)
        with open(self.path("split.json"), "w") as file:
            json.dump({"schema": "echoring.run/1", "runs": [{**self.runs[1], "split": split}]}, file)
        echoring("report", self.path("split.json"), "--out", self.path("split.html"))
        for width, scheme in [(1280, "light"), (1280, "dark"), (390, "light")]:
            self.open("split.html", width, scheme)
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
            self.shot(f"split-{width}-{scheme}.png")


if __name__ == "__main__":
    unittest.main()
