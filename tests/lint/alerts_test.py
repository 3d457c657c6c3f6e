#!/usr/bin/env python3
"""Every alert speaks of metrics that exist, has a text in docs/alerts.md, a case that fires and one that stays silent."""

import os
import re
import shutil
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RULES = ["deploy/prometheus/recording_rules.yml", "deploy/prometheus/alert_rules.yml"]
CASES = "tests/alerts/alert_rules_test.yml"


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class AlertsTest(unittest.TestCase):
    def setUp(self):
        self.rules = "".join(read(path) for path in RULES)
        self.alerts = re.findall(r"- alert: (\w+)", self.rules)

    def test_there_are_at_least_twenty_with_names_of_their_own(self):
        self.assertGreaterEqual(len(self.alerts), 20)
        self.assertEqual(len(self.alerts), len(set(self.alerts)))

    def test_rules_name_metrics_of_the_catalogue(self):
        metrics = set(re.findall(r'"(diffmoe_\w+)", Kind::', read("core/metrics/catalogue.h")))
        self.assertGreater(len(metrics), 20)
        recorded = set(re.findall(r"- record: (\S+)", self.rules))
        for expression in re.findall(r"expr: (.*)", self.rules):
            for name in re.findall(r"(?:job_id:)?diffmoe_[\w:]+", expression):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                self.assertTrue({name, base} & metrics or name in recorded, f"no metric {name} in: {expression}")

    def test_every_alert_has_a_text_and_says_what_to_do(self):
        texts = dict(re.findall(r"\n## (\w+)\n(.*?)(?=\n## |\Z)", read("docs/alerts.md"), re.S))
        self.assertEqual(set(texts), set(self.alerts))
        for name, text in texts.items():
            self.assertRegex(text, r"\*\*What to do\.\*\* .{20,}", name)
            self.assertIn(f"runbook: docs/alerts.md#{name.lower()}\n", self.rules)

    def test_every_alert_fires_in_one_case_and_stays_silent_in_another(self):
        cases = read(CASES)
        for name in self.alerts:
            self.assertIn(f"- name: {name} fires\n", cases)
            self.assertIn(f"- name: {name} stays silent\n", cases)

    def test_promtool_agrees(self):
        # On PATH, or where setup unpacks it.
        unpacked = os.path.expanduser("~/.cache/diffmoe/deps/prometheus/usr/bin")
        promtool = shutil.which("promtool", path=os.environ.get("PATH", "") + os.pathsep + unpacked)
        if promtool is None:
            self.skipTest("promtool isn't installed: ./run setup")
        for command in (["check", "rules", *RULES], ["test", "rules", CASES]):
            done = subprocess.run([promtool, *command], cwd=ROOT, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
