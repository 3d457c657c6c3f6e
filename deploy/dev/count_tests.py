#!/usr/bin/env python3
"""Adds up test results and prints 'N passed, N failed'.

    count_tests.py DIR    DIR/*.xml: ctest's JUnit files; DIR/cases/*.xml: GoogleTest's, one per test binary

A ctest test with a GoogleTest file counts as its cases, any other as one. A binary that failed although all its cases
passed (it crashed at exit, say) counts one failure more.
"""

import glob
import os
import sys
import xml.etree.ElementTree as ElementTree


def cases_of(path):
    """(passed, failed names, skipped name: reason) of one GoogleTest file."""
    passed, failed, skipped = 0, [], {}
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            name = f"{suite.get('name')}.{case.get('name')}"
            if case.find("failure") is not None:
                failed.append(name)
            elif case.find("skipped") is not None:
                reason = (case.find("skipped").get("message") or "").strip().splitlines()
                skipped[name] = reason[-1] if reason else "no reason given"
            elif case.get("status") == "run":
                passed += 1
    return passed, failed, skipped


def main(folder):
    passed, failed, skipped = 0, [], {}
    for path in sorted(glob.glob(os.path.join(folder, "*.xml"))):
        for test in ElementTree.parse(path).getroot().iter("testcase"):
            name, status = test.get("name"), test.get("status")
            binary = os.path.join(folder, "cases", f"{name}.xml")
            some_failed = False
            if os.path.exists(binary):
                more_passed, more_failed, more_skipped = cases_of(binary)
                passed += more_passed
                failed += [f"{name}: {case}" for case in more_failed]
                skipped.update({f"{name}: {case}": why for case, why in more_skipped.items()})
                some_failed = bool(more_failed)
            elif status == "run":
                passed += 1
            note = test.find("skipped")
            if note is not None and note.get("message", "").startswith("SKIP_"):
                skipped[name] = (test.findtext("system-out") or "").strip() or "no reason given"
            elif status in ("fail", "notrun") and not some_failed:
                # notrun without a skip: the binary is missing or could not be started.
                failed.append(name)
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    for name in failed:
        print(f"failed: {name}")
    if passed + len(failed) == 0:
        print("no test was run")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
