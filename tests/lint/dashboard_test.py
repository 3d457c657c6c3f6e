#!/usr/bin/env python3
"""The Grafana dashboards speak of metrics that exist, and every panel states its unit and meaning."""

import json
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class DashboardTest(unittest.TestCase):
    def setUp(self):
        folder = os.path.join(ROOT, "deploy/grafana")
        self.dashboards = {name: json.loads(read(f"deploy/grafana/{name}")) for name in sorted(os.listdir(folder))}
        self.panels = [p for d in self.dashboards.values() for p in d["panels"] if p["type"] != "row"]
        self.recorded = set(re.findall(r"- record: (\S+)", read("deploy/prometheus/recording_rules.yml")))
        self.metrics = set(re.findall(r'"(diffmoe_\w+)", Kind::', read("core/metrics/catalogue.h")))

    def test_every_query_names_a_metric_of_the_catalogue(self):
        self.assertGreater(len(self.metrics), 20)
        for panel in self.panels:
            self.assertTrue(panel["targets"], panel["title"])
            for target in panel["targets"]:
                names = re.findall(r"diffmoe_[\w:]+", target["expr"])
                self.assertTrue(names or re.search(r"\bup\b", target["expr"]), target["expr"])
                for name in set(names) - self.recorded:
                    base = re.sub(r"_(bucket|sum|count)$", "", name)
                    self.assertTrue(name in self.metrics or base in self.metrics, f"{panel['title']}: no metric {name}")

    def test_the_catalogue_lists_every_family_once(self):
        text = read("core/metrics/catalogue.h")
        declared = re.findall(r"inline constexpr Definition (k\w+)\{", text)
        self.assertEqual(declared, re.findall(r"&(k\w+),", text))

    def test_every_panel_states_unit_and_meaning(self):
        self.assertGreater(len(self.panels), 20)
        for panel in self.panels:
            self.assertRegex(panel["description"], r"^Unit: .{20,}", panel["title"])
            self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])

    def test_panels_do_not_overlap(self):
        for name, dashboard in self.dashboards.items():
            taken = {}
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                for x in range(place["x"], place["x"] + place["w"]):
                    self.assertLess(x, 24, panel["title"])
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertNotIn((x, y), taken, f"{name}: {panel['title']} lies on {taken.get((x, y))}")
                        taken[x, y] = panel["title"]

    def test_there_is_a_dashboard_for_each_concern(self):
        self.assertEqual(list(self.dashboards),
                         ["experts.json", "fleet.json", "job.json", "sampling.json", "store.json"])
        self.assertEqual(len({d["uid"] for d in self.dashboards.values()}), 5)

    def test_what_an_operator_looks_at_first_is_there(self):
        used = " ".join(t["expr"] for p in self.panels for t in p["targets"])
        for name in ("diffmoe_train_loss", "diffmoe_train_samples_per_second", "diffmoe_train_step_duration_seconds",
                     "diffmoe_moe_capacity_ratio", "diffmoe_moe_threshold", "diffmoe_jobs", "diffmoe_sample_requests_total",
                     "diffmoe_checkpoint_last_step"):
            self.assertIn(name, used)


if __name__ == "__main__":
    unittest.main()
