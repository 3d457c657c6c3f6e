#!/usr/bin/env python3
"""Pictures of the console's pages for docs/images, of a running cluster with a trained job.

    screenshots.py URL JOB OUT_DIR    URL: http://127.0.0.1:7071, started with --console-writes
"""

import os
import sys

from browser import Browser, find_browser


def main(url, job, out):
    browser = Browser(find_browser())
    try:
        take(browser, url, job, out)
    finally:
        browser.close()


def take(browser, url, job, out):
    def shot(name, width=1280, scheme="light"):
        browser.resize(width, 600)
        browser.color_scheme(scheme)
        browser.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        browser.screenshot(os.path.join(out, f"console-{name}.png"), scale=0.75 if width > 400 else 1)

    browser.resize(1280)
    browser.open(f"{url}/#/sample?job={job}")
    browser.wait("document.querySelector('[name=sampler]')?.options.length > 1")
    browser.evaluate("""{
        document.querySelector('[name=steps]').value = '30';
        document.querySelector('[name=seed]').value = '1';
        document.querySelector('form button[type=submit]').click();
    }""")
    browser.wait("document.querySelector('section[aria-label=Receipt]')", 120)
    shot("sample")
    browser.evaluate(f"location.hash = '#/jobs/{job}'")
    browser.wait("document.querySelector('section[aria-label=Checkpoints] tbody tr')")
    browser.wait("document.querySelector('section[aria-label=Loss] path')")
    browser.wait("document.querySelector('section[aria-label=Thresholds] path')")
    shot("job")
    shot("job-dark-400", 400, "dark")
    browser.evaluate("location.hash = '#/workers'")
    browser.wait("document.querySelector('.slots li')")
    shot("workers")
    browser.evaluate("location.hash = '#/jobs'")
    browser.wait("document.querySelector('td progress')")
    shot("jobs")


if __name__ == "__main__":
    main(*sys.argv[1:])
