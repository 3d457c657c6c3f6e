#!/usr/bin/env python3
"""Every rule of lint.py finds its fault in a small tree, and a clean tree passes."""

import os
import tempfile
import unittest

import lint

CLEAN = {
    "CMakeLists.txt": "add_subdirectory(core/base)\n",
    "core/base/CMakeLists.txt": "diffmoe_library(x SOURCES a.cc)\n",
    "core/base/a.h": "#pragma once\nint A();\n",
    "core/base/a.cc": '#include "core/base/a.h"\nint A() { return 1; }\n',
    "core/tensor/CMakeLists.txt": "diffmoe_library(t TORCH SOURCES t.cc)\n",
    "core/tensor/t.h": "#pragma once\n#include <ATen/core/Tensor.h>\n",
    "core/tensor/t.cc": '#include "core/tensor/t.h"\n',
    "tests/CMakeLists.txt": "foreach(name a_test)\nendforeach()\n",
    "tests/a_test.cc": '#include "core/base/a.h"\nTEST(A, IsOne) { EXPECT_EQ(A(), 1); }\n',
}


class LintTest(unittest.TestCase):
    def findings(self, changes):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**CLEAN, **changes}.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            tree = lint.Tree(root)
            return [f for rule in lint.RULES for f in rule(tree)]

    def expect(self, rule, path, changes, line=None, warning=False):
        found = self.findings(changes)
        self.assertEqual([(f.rule, f.path, f.warning) for f in found], [(rule, path, warning)], msg=[str(f) for f in found])
        if line is not None:
            self.assertEqual(found[0].line, line)

    def test_clean_tree_passes(self):
        self.assertEqual(self.findings({}), [])

    def test_long_file(self):
        long = CLEAN["core/base/a.cc"] + "\n" * 600
        self.expect("file-length", "core/base/a.cc", {"core/base/a.cc": long}, warning=True)
        self.expect("file-length", "core/base/a.cc", {"core/base/a.cc": long + "\n" * 300})

    def test_torch_header_in_torch_free_tier(self):
        self.expect("torch-free", "core/base/a.cc",
                    {"core/base/a.cc": '#include "core/base/a.h"\n#include <c10/util/Exception.h>\n'})

    def test_torch_header_reached_through_a_project_header(self):
        self.expect("torch-free", "core/base/a.cc",
                    {"core/base/a.cc": '#include "core/base/a.h"\n#include "core/tensor/t.h"\n'})

    def test_torch_beside_protobuf(self):
        self.expect("torch-beside-protobuf", "core/tensor/t.cc",
                    {"core/tensor/t.cc": '#include "core/tensor/t.h"\n#include "diffmoe/v1/error.pb.h"\n'})

    def test_torch_umbrella_header(self):
        self.expect("torch-umbrella", "core/tensor/t.h", {"core/tensor/t.h": "#pragma once\n#include <torch/torch.h>\n"},
                    line=2)

    def test_header_guard(self):
        self.expect("pragma-once", "core/base/a.h", {"core/base/a.h": "int A();\n"})

    def test_glob(self):
        self.expect("cmake-glob", "deploy/cmake/x.cmake", {"deploy/cmake/x.cmake": "\nfile(GLOB sources *.cc)\n"}, line=2)

    def test_sleep(self):
        self.expect("sleep", "tests/a_test.cc",
                    {"tests/a_test.cc": CLEAN["tests/a_test.cc"] + "void W() { absl::SleepFor(absl::Seconds(1)); }\n"})

    def test_sleep_in_the_support_library_is_allowed(self):
        self.assertEqual(self.findings({
            "tests/support/CMakeLists.txt": "diffmoe_library(s SOURCES w.cc)\n",
            "tests/support/w.cc": "void W() { absl::SleepFor(absl::Seconds(1)); }\n"}), [])

    def test_switched_off_tests(self):
        for text in ("TEST(A, DISABLED_Works) { EXPECT_TRUE(true); }\n", "void F() { GTEST_SKIP(); }\n", "#if 0\n#endif\n",
                     "TEST(A, Empty) {\n}\n"):
            self.expect("no-test", "tests/a_test.cc", {"tests/a_test.cc": '#include "core/base/a.h"\n' + text}, line=2)

    def test_unfinished(self):
        for word in ("TODO", "FIXME", "TBD", "not implemented"):
            self.expect("unfinished", "docs/x.md", {"docs/x.md": f"# Page\n{word}\n"}, line=2)

    def test_registry_host(self):
        self.expect("machine", "deploy/dev/x.sh", {"deploy/dev/x.sh": "pip install --index https://pypi.org/simple\n"})

    def test_machine_path(self):
        for path in ("/home/alice/data", "/root/data"):
            self.expect("machine", "deploy/x.yaml", {"deploy/x.yaml": f"path: {path}\n"})

    def test_source_missing_in_cmake(self):
        self.expect("cmake-list", "core/base/b.cc", {"core/base/b.cc": "int B() { return 2; }\n"})

    def test_source_only_in_a_comment_of_cmake(self):
        self.expect("cmake-list", "core/base/b.cc", {
            "core/base/CMakeLists.txt": "diffmoe_library(x SOURCES a.cc)  # b.cc\n",
            "core/base/b.cc": "int B() { return 2; }\n"})

    def test_header_that_nobody_includes(self):
        self.expect("cmake-list", "core/base/b.h", {"core/base/b.h": "#pragma once\n"})

    def test_kill_points(self):
        points = {
            "tests/crash/CMakeLists.txt": "diffmoe_library(k SOURCES kill_points.cc)\n",
            "tests/crash/kill_points.cc": 'constexpr Entry kAll[] = {\n    {"part.moment", kWorker},\n};\n',
            "core/base/a.cc": CLEAN["core/base/a.cc"] + 'void B() { KillPoint("part.moment"); }\n',
        }
        self.assertEqual(self.findings(points), [])
        for again in ("part.moment", "part.other"):
            twice = points["core/base/a.cc"] + f'void C() {{ KillPoint("{again}"); }}\n'
            self.expect("kill-point", "core/base/a.cc", {**points, "core/base/a.cc": twice}, line=4)
        self.expect("kill-point", "tests/crash/kill_points.cc", {**points, "core/base/a.cc": CLEAN["core/base/a.cc"]},
                    line=2)

    def test_bad_format_is_found(self):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "core"))
            with open(os.path.join(root, ".clang-format"), "w", encoding="utf-8") as file:
                file.write("BasedOnStyle: Google\n")
            with open(os.path.join(root, "core/a.cc"), "w", encoding="utf-8") as file:
                file.write("int   A( ){return 1;}\n")
            findings, skipped = lint.check_format(lint.Tree(root))
            if skipped:
                self.skipTest(skipped)
            self.assertEqual([f.path for f in findings], ["core/a.cc"])


if __name__ == "__main__":
    unittest.main()
