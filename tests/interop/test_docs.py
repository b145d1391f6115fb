"""`scripts/docs --check`: the links, anchors, command lines and names of tests that it reports as wrong."""

import os
import sys
import tempfile
import unittest
from unittest import mock

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts"))

import docs_check  # noqa: E402


class OnePage(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "page.md")

    def problems(self, text, of=docs_check.source_links):
        docs_check.read.cache_clear()
        docs_check.anchors.cache_clear()
        with open(self.path, "w") as file:
            file.write(text)
        with mock.patch.object(docs_check, "sources", lambda: [self.path]):
            return len(list(of()))


class Sources(OnePage):
    def test_files_and_headings_that_exist_are_links(self):
        self.assertEqual(self.problems("# A b: `--c-d`\n[x](page.md#a-b---c-d) [y](#a-b---c-d) [z](https://nowhere.example)\n"), 0)

    def test_files_and_headings_that_do_not_exist_are_not(self):
        self.assertEqual(self.problems("# A\n[x](other.md) ![y](no.svg) [z](#b)\n<img src=\"gone.svg\">\n"), 4)

    def test_code_has_neither_links_nor_headings(self):
        self.assertEqual(self.problems("```text\n# B\n[x](other.md)\n```\n`[y](other.md)`\n"), 0)
        self.assertEqual(self.problems("[z](#b)\n```text\n# B\n```\n"), 1)

    def test_repeated_headings_are_numbered(self):
        self.assertEqual(self.problems("# A\n# A\n[x](#a-1)\n"), 0)


class Commands(OnePage):
    def wrong(self, line):
        known = {"": {"--version"}, "serve": {"--listen", "--log"}, "bench": {"-c", "--rate"}}
        with mock.patch.object(docs_check, "flags", known.get):
            return self.problems(f"```sh\n{line}\n```\n", docs_check.command_lines)

    def test_known_flags_are_taken_wherever_the_command_stands(self):
        for line in (
            "echoring --version", "echoring serve --listen=unix:/x --log debug   # --nothing",
            "echo --yes | echoring bench ws://x -c 3 && echoring serve", "for a in 1; do echoring serve --log $a & done",
            "RUST_LOG=info echoring bench \\\n    --rate 'a --b'", "scripts/docs --check",
        ):
            self.assertEqual(self.wrong(line), 0, line)

    def test_unknown_flags_commands_and_scripts_are_not(self):
        for line in ("echoring serve --lisen x", "echo | echoring bench -d 3", "echoring dance", "scripts/nothing", "echoring serve 'x"):
            self.assertEqual(self.wrong(line), 1, line)


class Flags(OnePage):
    def wrong(self, text):
        known = ({"--listen", "--rate"}, ["serve", "bench"])
        with mock.patch.object(docs_check, "program_flags", lambda: known):
            return self.problems(text, docs_check.named_flags)

    def test_flags_of_the_program_of_named_scripts_and_of_other_programs_are_taken(self):
        for text in (
            "`--listen`", "`--rate 5000`", "`bench --rate`", "`echoring serve --listen=unix:/x`", "`k6 run --out`", "`a --b`", "--gone",
            "`scripts/docs` reads records with `--update`",
        ):
            self.assertEqual(self.wrong(text), 0, text)

    def test_flags_that_are_gone_are_not(self):
        for text in ("`--gone`", "`--gone 5`", "`bench --gone`", "`echoring serve --gone=x`", "`--update`", "`--listen --gone`"):
            self.assertEqual(self.wrong(text), 1, text)


class Records(OnePage):
    RECORD = "results/2026-11-27-intel-r-xeon-r-processor/idle-memory.json"

    def wrong(self, figures, text):
        return self.problems(f"<!-- records: {self.RECORD} {figures} -->\n{text}\n## B\n232\n", docs_check.recorded)

    def test_figures_of_a_record_that_a_page_states_are_taken(self):
        self.assertEqual(self.wrong("bytes_per_connection = 232", "232 bytes"), 0)
        self.assertEqual(self.wrong("resident_before.RssAnon = 2,707,456", "2,707,456 of them"), 0)

    def test_other_figures_and_those_that_are_not_stated_are_wrong(self):
        self.assertEqual(self.wrong("bytes_per_connection = 231", "231 bytes"), 1)
        self.assertEqual(self.wrong("bytes_per_connection = 232", "1,232 bytes"), 1)
        self.assertEqual(self.wrong("bytes_per_connection = 232\n connections = 9", "232"), 1)


class Promises(OnePage):
    def wrong(self, text):
        known = {"a_test": [["src", "server", "quotas"], ["tests", "program", "rates"]], "test_b": [["tests", "interop", "test_v1"]]}
        with mock.patch.object(docs_check, "tests", lambda: known):
            return self.problems(text, docs_check.promises)

    def test_tests_that_exist_hold_a_section(self):
        for names in ("a_test", "rates::a_test", "server::quotas::a_test, test_v1.test_b", "\n  a_test\n  test_b\n"):
            self.assertEqual(self.wrong(f"# A\n## B\nIt holds.\n<!-- held by: {names} -->\n"), 0, names)

    def test_tests_that_do_not_exist_and_sections_without_a_test_are_wrong(self):
        self.assertEqual(self.wrong("## B\n<!-- held by: gone, elsewhere::a_test, a_test -->\n"), 2)
        self.assertEqual(self.wrong("## B\n<!-- held by: a_test -->\n## C\n```md\n## D\n```\n## E\n<!-- held by: test_b -->\n"), 1)

    def test_a_page_that_names_no_test_is_left_alone(self):
        self.assertEqual(self.wrong("## B\nIt holds.\n"), 0)

    def test_the_tests_of_the_repository_are_found(self):
        found = docs_check.tests()
        self.assertIn(["tests", "interop", "test_docs"], found["test_the_tests_of_the_repository_are_found"])
        self.assertTrue(any("rates" in file for file in found["publications_are_limited_per_connection"]))


if __name__ == "__main__":
    unittest.main()
