"""The table of what each module tests: it is complete, and chooses what a change can break."""

import glob
import json
import os
import subprocess
import unittest

import parts


class Table(unittest.TestCase):
    def test_has_every_module(self):
        files = glob.glob(os.path.join(parts.HERE, "test_*.py"))
        self.assertEqual(sorted(os.path.basename(file).removesuffix(".py") for file in files), sorted(parts.PARTS))

    def test_names_what_exists(self):
        for module in parts.PARTS:
            for path in parts.of(module):
                self.assertTrue(glob.glob(os.path.join(parts.ROOT, path) + "*"), f"{module}: {path}")

    def test_has_a_module_for_every_crate(self):
        told = subprocess.run(
            ["cargo", "metadata", "--no-deps", "--offline", "--format-version=1"], cwd=parts.ROOT, capture_output=True, text=True
        )
        self.assertEqual(told.returncode, 0, told.stderr)
        folders = {os.path.relpath(os.path.dirname(each["manifest_path"]), parts.ROOT) for each in json.loads(told.stdout)["packages"]}
        crates = {os.path.basename(folder) for folder in folders if folder.startswith("src/")}
        self.assertEqual(crates - {part.split("/")[1] for module in parts.PARTS for part in parts.of(module) if part.startswith("src/")}, set())


class Choice(unittest.TestCase):
    def test_is_of_the_parts_that_a_module_names(self):
        chosen = parts.broken_by(["src/load/engine.rs"])
        self.assertTrue({"test_agents", "test_protocols"} <= set(chosen), chosen)
        self.assertTrue({"test_proxy", "test_cluster", "test_echo"}.isdisjoint(chosen), chosen)
        self.assertNotIn("test_protocols", parts.broken_by(["src/proto/frame.rs"]))
        self.assertEqual(parts.broken_by(["src/cli/admin/top/screen.rs"]), ["test_top"])
        self.assertEqual(parts.broken_by(["README.md"]), ["test_documents"])
        self.assertEqual(parts.broken_by(["SECURITY.md"]), [])

    def test_is_of_all_that_import_a_changed_helper(self):
        chosen = parts.broken_by(["tests/interop/relay.py"])
        self.assertIn("test_cluster", chosen)
        self.assertIn("test_durable_topics", chosen, "through test_cluster")
        self.assertNotIn("test_tls", chosen)
        self.assertEqual(parts.broken_by(["tests/interop/test_docs.py"]), ["test_docs"])


if __name__ == "__main__":
    unittest.main()
