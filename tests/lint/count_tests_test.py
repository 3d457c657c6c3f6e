#!/usr/bin/env python3
"""deploy/dev/count_tests.py adds up what GoogleTest and ctest wrote."""

import contextlib
import io
import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy/dev"))
import count_tests  # noqa: E402  (needs the path above)


def ctest(*tests):
    return "<testsuite>" + "".join(f'<testcase name="{n}" status="{s}">{x}</testcase>' for n, s, x in tests) + "</testsuite>"


def gtest(*cases):
    return "<testsuites><testsuite name='S'>" + "".join(
        f"<testcase name='{n}' status='run'>{x}</testcase>" for n, x in cases) + "</testsuite></testsuites>"


class CountTestsTest(unittest.TestCase):
    def count(self, junit, binaries=None):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, "cases"))
            for path, text in {"a.xml": junit, **{f"cases/{n}.xml": t for n, t in (binaries or {}).items()}}.items():
                with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                    file.write(text)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = count_tests.main(folder)
            return code, out.getvalue().splitlines()

    def test_cases_of_a_binary_are_counted(self):
        code, lines = self.count(ctest(("x_test", "run", ""), ("script", "run", "")),
                                 {"x_test": gtest(("A", ""), ("B", ""))})
        self.assertEqual((code, lines[-1]), (0, "3 passed, 0 failed"))

    def test_failed_case(self):
        code, lines = self.count(ctest(("x_test", "fail", "")), {"x_test": gtest(("A", ""), ("B", "<failure/>"))})
        self.assertEqual((code, lines[-1]), (1, "1 passed, 1 failed"))
        self.assertIn("failed: x_test: S.B", lines)

    def test_crash_counts_as_a_failure(self):
        self.assertEqual(self.count(ctest(("x_test", "fail", "")))[1][-1], "0 passed, 1 failed")

    def test_crash_after_green_cases_counts_as_a_failure(self):
        code, lines = self.count(ctest(("x_test", "fail", "")), {"x_test": gtest(("A", ""))})
        self.assertEqual((code, lines[-1]), (1, "1 passed, 1 failed"))

    def test_skipped_case_is_named_with_its_reason(self):
        code, lines = self.count(ctest(("x_test", "run", "")),
                                 {"x_test": gtest(("A", ""), ("B", "<skipped message='x.cc:1&#10;no GPU'/>"))})
        self.assertEqual((code, lines), (0, ["skipped: x_test: S.B: no GPU", "1 passed, 0 failed"]))

    def test_missing_binary_is_a_failure(self):
        gone = '<skipped message="Unable to find executable"/>'
        code, lines = self.count(ctest(("good", "run", ""), ("x_test", "notrun", gone)))
        self.assertEqual((code, lines[-1]), (1, "1 passed, 1 failed"))

    def test_skipped_script_is_named_with_its_output(self):
        skip = '<skipped message="SKIP_RETURN_CODE=77"/><system-out>no GPU</system-out>'
        code, lines = self.count(ctest(("good", "run", ""), ("x_test", "notrun", skip)))
        self.assertEqual((code, lines), (0, ["skipped: x_test: no GPU", "1 passed, 0 failed"]))

    def test_nothing_run_is_a_failure(self):
        self.assertEqual(self.count("<testsuite/>"), (1, ["no test was run", "0 passed, 0 failed"]))


if __name__ == "__main__":
    unittest.main()
