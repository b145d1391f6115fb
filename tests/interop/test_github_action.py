"""The GitHub action: its step, run by bash as a runner does, against a real server."""

import json
import os
import re
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import yaml

from harness import BINARY, PATIENCE_S, Server

ACTION = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "packaging", "github-action", "action.yml"
)
# As GitHub runs a step with `shell: bash`.
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


def replaced(text, inputs):
    """The text with the values of `${{ inputs.… }}`."""
    return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text)


class Action(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(ACTION, encoding="utf-8") as file:
            cls.action = yaml.safe_load(file)
        cls.server = cls.enterClassContext(Server())

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, name):
        return os.path.join(self.directory, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def run_action(self, **given):
        """Runs the steps of the action. Returns the exit code, the outputs and what was printed."""
        names = {name.replace("_", "-"): value for name, value in given.items()}
        self.assertLessEqual(set(names), set(self.action["inputs"]))
        defaults = {name: declared.get("default", "") for name, declared in self.action["inputs"].items()}
        inputs = {**defaults, "url": self.server.url("/echo"), "program": BINARY, **names}
        self.assertEqual(self.action["runs"]["using"], "composite")
        (step,) = self.action["runs"]["steps"]
        self.assertEqual(step["shell"], "bash")
        script, outputs = self.path("step.sh"), self.path("outputs")
        with open(script, "w", encoding="utf-8") as file:
            file.write(replaced(step["run"], inputs))
        self.assertNotIn("${{", step["run"], "inputs are variables, not parts of the script")
        environment = {
            **os.environ,
            **{name: replaced(value, inputs) for name, value in step["env"].items()},
            "GITHUB_OUTPUT": outputs,
            "GITHUB_STEP_SUMMARY": self.path("summary.md"),
        }
        open(outputs, "w").close()
        done = subprocess.run(
            [*BASH, script], cwd=self.directory, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        with open(outputs, encoding="utf-8") as file:
            step_outputs = dict(line.rstrip("\n").split("=", 1) for line in file)
        found = {}
        for name, declared in self.action["outputs"].items():
            (source,) = re.findall(r"\$\{\{ steps\.bench\.outputs\.([\w-]+) \}\}", declared["value"])
            found[name] = step_outputs.get(source)
        return done.returncode, found, done.stdout + done.stderr

    SHORT = "-c 3 -d 500ms --warmup 0s --allow-saturated"

    def test_a_good_run_has_a_record_a_summary_and_passed_checks(self):
        code, outputs, printed = self.run_action(args=f"{self.SHORT} --label 'two words; $HOME'")
        self.assertEqual((code, outputs["verdict"]), (0, "passed"), printed)
        (run,) = json.loads(self.read(outputs["record"]))["runs"]
        self.assertEqual((run["label"], run["config"]["connections"]), ("two words; $HOME", 3))
        self.assertTrue(self.read("summary.md").startswith("### two words; $HOME: passed\n"), self.read("summary.md"))
        suites = xml.etree.ElementTree.fromstring(self.read(outputs["junit"]))
        self.assertEqual((suites.get("tests"), suites.get("failures")), ("2", "0"))

    def test_a_condition_that_holds_fails_the_step_after_its_results(self):
        code, outputs, printed = self.run_action(args=f"{self.SHORT} --fail-if 'max > 0ns'")
        self.assertEqual((code, outputs["verdict"]), (1, "failed"), printed)
        self.assertIn("1 of 3 checks failed", self.read("summary.md"))

    def test_a_wrong_flag_is_an_error(self):
        code, outputs, printed = self.run_action(args="--no-such-flag")
        self.assertEqual((code, outputs["verdict"]), (2, "error"), printed)

    def test_outputs_are_set_whatever_the_arguments_are(self):
        for args, code in (("--label 'no end", 2), ("--help", 2), ("--json other.json", 2), ("-d 1s\n-c 3 --warmup 0s", None)):
            with self.subTest(args=args):
                found, outputs, printed = self.run_action(args=args)
                if code is not None:
                    self.assertEqual((found, outputs["verdict"]), (code, "error"), printed)
                self.assertTrue(outputs["record"] and outputs["junit"] and outputs["verdict"], printed)


if __name__ == "__main__":
    unittest.main()
