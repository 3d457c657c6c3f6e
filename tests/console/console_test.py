#!/usr/bin/env python3
"""The web console in headless Chromium, on a cluster that trains.

    console_test.py BIN_DIR    the built programs; exit code 77 and a reason when there is no Chromium
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

from browser import Browser, find_browser

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = ""
WIDTHS = (1280, 400)
# Counts what is drawn on canvases: previews.
COUNT_PREVIEWS = """
  window.previews = 0;
  const draw = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...a) { window.previews += 1; return draw.apply(this, a); };
"""


def wait_for(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(what)


class Program:
    """A daemon that writes a ready file, in a directory of its own."""

    def __init__(self, command, ready_file):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)

        def ready():
            if self.process.poll() is not None:
                self.log.seek(0)
                raise RuntimeError(f"{command[0]} has ended: {self.log.read().decode()}")
            try:
                with open(ready_file, encoding="utf-8") as file:
                    return json.load(file)
            except (FileNotFoundError, json.JSONDecodeError):
                return None

        self.info = wait_for(f"{ready_file} of {command[0]}", ready)
        self.url = "http://" + self.info["metrics_address"]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return json.load(reply)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


class ConsoleCase(unittest.TestCase):
    """A page that must stay free of errors and at home."""

    server = None

    def setUp(self):
        self.browser = Browser(find_browser())
        self.addCleanup(self.browser.close)
        self.browser.call("Page.addScriptToEvaluateOnNewDocument", source=COUNT_PREVIEWS)

    def show(self, page, width=1280):
        self.browser.resize(width)
        self.browser.open(f"{self.server.url}/#{page}")
        self.browser.wait("document.querySelector('main h1')")

    def check_page(self):
        self.assertEqual(self.browser.errors, [])
        strangers = [url for url in self.browser.requests
                     if not url.startswith((self.server.url + "/", "data:", "blob:", "about:"))]
        self.assertEqual(strangers, [])
        widths = self.browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        self.assertLessEqual(widths[0], widths[1], "the page scrolls sideways")
        nameless = self.browser.evaluate("""[...document.querySelectorAll('input, select, button, a, svg[role=img], img, canvas')]
            .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('alt') || e.textContent.trim() || e.labels?.length))
            .map(e => e.outerHTML.slice(0, 100))""")
        self.assertEqual(nameless, [])


class LiveConsoleTest(ConsoleCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="dm-console-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.server = Program([f"{BIN}/diffmoe", "up", "--data-dir", cls.folder, "--slots", "3", "--console-writes", "--listen",
                              "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"], f"{cls.folder}/coordinator/coordinator.json")
        cls.addClassCleanup(cls.server.stop)
        submitted = subprocess.run([f"{BIN}/diffmoe", "--data-dir", cls.folder, "submit",
                                    f"{ROOT}/deploy/jobs/fashion-smoke.yaml", "--set", "train.steps=1000000", "-o", "json"],
                                   stdout=subprocess.PIPE, check=True, timeout=60)
        cls.job = json.loads(submitted.stdout)["id"]
        wait_for("a checkpoint", lambda: int(cls.server.get(f"/api/v1/jobs/{cls.job}")["latest_checkpoint_step"]) >= 10)

    def test_jobs_are_listed(self):
        for width in WIDTHS:
            self.show("/jobs", width)
            self.browser.wait(f"[...document.querySelectorAll('td a')].some(a => a.textContent === '{self.job}')")
            self.browser.wait("document.querySelector('td progress').value > 0")
            self.check_page()

    def test_a_job_moves(self):
        points = "Number(document.querySelector('section[aria-label=Loss] path')?.dataset.points || 0)"
        for width in WIDTHS:
            self.show(f"/jobs/{self.job}", width)
            before = self.browser.wait(points)
            self.browser.wait(f"{points} > {before}")
            self.browser.wait("document.querySelectorAll('rect.cell').length === 4")
            self.browser.wait("document.querySelector('section[aria-label=Thresholds] path')")
            self.browser.wait("document.querySelectorAll('section[aria-label=Checkpoints] tbody tr').length > 0")
            self.browser.wait("document.querySelectorAll('section[aria-label=Events] tbody tr').length > 1")
            self.check_page()

    def test_workers_show_their_slots(self):
        for width in WIDTHS:
            self.show("/workers", width)
            self.browser.wait("document.querySelectorAll('.slots li').length === 3")
            self.browser.wait(f"document.querySelectorAll('.slots li.used a[href=\"#/jobs/{self.job}\"]').length === 2")
            self.check_page()

    def test_an_image_arrives(self):
        for width in WIDTHS:
            self.show(f"/sample?job={self.job}", width)
            self.browser.wait("document.querySelector('[name=sampler]').options.length > 1")
            self.browser.evaluate("""{
                document.querySelector('[name=classes]').value = '0,3';
                document.querySelector('[name=steps]').value = '12';
                document.querySelector('[name=seed]').value = '7';
                document.querySelector('form button[type=submit]').click();
            }""")
            self.browser.wait("document.querySelectorAll('figure img').length === 2")
            self.browser.wait("[...document.querySelectorAll('figure img')].every(i => i.naturalWidth === 32)")
            self.browser.wait("document.querySelector('section[aria-label=Receipt]')")
            self.assertGreater(self.browser.evaluate("window.previews"), 0)
            self.check_page()
        # It shows on the job's page too, with the capacity along the way.
        self.browser.evaluate(f"location.hash = '#/jobs/{self.job}'")
        self.browser.wait("document.querySelectorAll('section[aria-label=\"Newest samples\"] img').length === 2")
        self.browser.wait("document.querySelector('section[aria-label=\"Newest samples\"] path').dataset.points === '12'")
        self.check_page()

    def test_logs_are_read(self):
        self.show(f"/jobs/{self.job}")
        self.browser.wait("document.querySelector('section[aria-label=Logs] button')")
        self.browser.evaluate("document.querySelector('section[aria-label=Logs] button').click()")
        self.browser.wait("document.querySelector('section[aria-label=Logs] pre').textContent.includes('[0] ')")

    def test_mistakes_are_named(self):
        self.show(f"/sample?job={self.job}")
        self.browser.wait("document.querySelector('[name=sampler]').options.length > 1")
        self.browser.evaluate("""{
            document.querySelector('[name=classes]').value = '12';
            document.querySelector('form button[type=submit]').click();
        }""")
        self.browser.wait("document.querySelector('[role=alert]')?.textContent.includes('expected 0 to 9, got \"12\"')")
        self.show("/jobs/none-1")
        self.browser.wait("document.querySelector('[role=alert]')?.textContent.includes('none-1')")

    def test_the_keyboard_reaches_the_pages(self):
        self.show("/jobs")
        self.browser.wait("document.querySelector('td a')")
        for _ in range(3):  # skip link, Jobs, Workers
            self.browser.key("Tab")
        self.assertEqual(self.browser.evaluate("document.activeElement.textContent"), "Workers")
        self.browser.key("Enter")
        self.browser.wait("document.querySelector('h1').textContent === 'Workers'")
        self.assertEqual(self.browser.evaluate("document.activeElement.tagName"), "H1")
        self.assertEqual(self.browser.evaluate("document.querySelector('nav a[aria-current]').textContent"), "Workers")
        self.check_page()

    def test_dark_and_light_differ(self):
        self.show("/jobs")
        seen = set()
        for scheme in ("light", "dark"):
            self.browser.color_scheme(scheme)
            seen.add(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        self.assertEqual(len(seen), 2)


class ReadOnlyConsoleTest(ConsoleCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="dm-console-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.server = Program([f"{BIN}/diffmoe-coordinator", "--data-dir", cls.folder, "--listen", "127.0.0.1:0",
                              "--metrics-listen", "127.0.0.1:0"], f"{cls.folder}/coordinator.json")
        cls.addClassCleanup(cls.server.stop)

    def test_an_empty_cluster_says_what_to_do(self):
        for width in WIDTHS:
            for page, text in (("/jobs", "diffmoe submit"), ("/workers", "diffmoe-worker"), ("/sample", "No job has a checkpoint")):
                self.show(page, width)
                self.browser.wait(f"document.querySelector('main').innerText.includes('{text}')")
                self.check_page()

    def test_nothing_can_be_changed(self):
        self.show("/sample")
        self.browser.wait("document.getElementById('notice').innerText.includes('--console-writes')")
        self.assertTrue(self.browser.evaluate("document.querySelector('form button[type=submit]').matches(':disabled')"))
        self.check_page()


if __name__ == "__main__":
    BIN = sys.argv[1]
    if find_browser() is None:
        print("chromium-headless-shell isn't installed: ./run setup")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
