#!/usr/bin/env python3
"""House rules that no compiler checks.

    lint.py [ROOT]     prints 'FILE:LINE: RULE: what is wrong' per finding; exit code 1 when there is one

Each rule is a function rule(tree) that yields findings; RULES at the end lists them.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

TOP = ("core", "server", "worker", "client", "proto", "deploy", "tests", "docs")
# Holds the forbidden patterns themselves.
SELF = "tests/lint/"
# Folders that may not reach torch.
TORCH_FREE = ("core/base/", "core/spec/", "core/storage/", "core/http/", "core/metrics/", "core/data/", "core/eval/", "server/",
              "worker/agent/", "client/", "tests/support/", "tests/integration/")
SOURCES = (".cc", ".h", ".cu", ".cuh")
CODE = SOURCES + (".py", ".sh", ".cmake", ".proto")
WARN_LINES, MAX_LINES = 500, 800

TORCH_HEADER = re.compile(r"(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


@dataclass
class Finding:
    path: str
    line: int
    rule: str
    text: str
    warning: bool = False

    def __str__(self):
        kind = "warning: " if self.warning else ""
        return f"{self.path}:{self.line}: {kind}{self.rule}: {self.text}"


class Tree:
    """The project's text files: path below the root -> text. Build folders and binary files are left out."""

    def __init__(self, root):
        self.root = root
        self.files = {}
        self._reached = {}
        paths = [n for n in os.listdir(root) if os.path.isfile(os.path.join(root, n))]
        paths += [".ci/run"] if os.path.exists(os.path.join(root, ".ci/run")) else []
        for top in TOP:
            for folder, folders, names in os.walk(os.path.join(root, top)):
                folders[:] = [f for f in folders if f not in ("__pycache__", "build")]
                paths += [os.path.relpath(os.path.join(folder, n), root) for n in names]
        for path in sorted(paths):
            try:
                with open(os.path.join(root, path), encoding="utf-8") as file:
                    self.files[path] = file.read()
            except (UnicodeDecodeError, FileNotFoundError):
                continue

    def select(self, suffixes, prefix="", skip_self=True):
        for path, text in self.files.items():
            if path.endswith(tuple(suffixes)) and path.startswith(prefix):
                if not (skip_self and path.startswith(SELF)):
                    yield path, text

    def reached(self, path):
        """Every header that `path` includes, through the project's own headers: header -> the file that includes it."""
        if path not in self._reached:
            found, queue = {}, [path]
            while queue:
                current = queue.pop()
                for name in INCLUDE.findall(self.files.get(current, "")):
                    if name not in found:
                        found[name] = current
                        if name in self.files:
                            queue.append(name)
            self._reached[path] = found
        return self._reached[path]


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def matches(tree, suffixes, pattern, rule, message, prefix=""):
    for path, text in tree.select(suffixes, prefix):
        for match in re.finditer(pattern, text, re.M):
            yield Finding(path, line_of(text, match.start()), rule, message.format(match.group(0).strip()))


def file_length(tree):
    for path, text in tree.select(CODE, skip_self=False):
        lines = text.count("\n")
        if lines > MAX_LINES:
            yield Finding(path, lines, "file-length", f"{lines} lines, at most {MAX_LINES} allowed")
        elif lines > WARN_LINES:
            yield Finding(path, lines, "file-length", f"{lines} lines, aim at {WARN_LINES}", warning=True)


def torch_free_tier(tree):
    for path, _ in tree.select(SOURCES):
        if path.startswith(TORCH_FREE):
            for header, by in tree.reached(path).items():
                if TORCH_HEADER.match(header):
                    yield Finding(path, 1, "torch-free", f"reaches <{header}> through {by}")
                    break


def torch_beside_protobuf(tree):
    for path, _ in tree.select((".cc", ".cu")):
        reached = tree.reached(path)
        torch = next((h for h in reached if TORCH_HEADER.match(h)), None)
        proto = next((h for h in reached if h.endswith(".pb.h")), None)
        if torch and proto:
            yield Finding(path, 1, "torch-beside-protobuf",
                          f"sees both <{torch}> ({reached[torch]}) and {proto} ({reached[proto]})")


def torch_umbrella_header(tree):
    yield from matches(tree, (".h", ".cuh"), r'#\s*include\s*<torch/torch\.h>', "torch-umbrella",
                       "a header includes torch/torch.h; take the narrow one")


def pragma_once(tree):
    for path, text in tree.select((".h", ".cuh"), skip_self=False):
        if "#pragma once" not in text:
            yield Finding(path, 1, "pragma-once", "header without #pragma once")


def cmake_glob(tree):
    yield from matches(tree, ("CMakeLists.txt", ".cmake"), r"file\s*\(\s*GLOB\w*", "cmake-glob",
                       "{}: list files by name")


def sleeps_in_tests(tree):
    pattern = r"\b(sleep_for|sleep_until|usleep|nanosleep|SleepFor|sleep)\s*\("
    for finding in matches(tree, SOURCES, pattern, "sleep", "{}: wait for a condition instead", "tests/"):
        if not finding.path.startswith("tests/support/"):
            yield finding


def switched_off_tests(tree):
    for pattern, what in ((r"\bDISABLED_\w+", "disabled test {}"), (r"GTEST_SKIP\(\)\s*;", "skip without a reason"),
                          (r"^\s*#\s*if\s+0\b", "code switched off"),
                          (r"\bTEST(_F|_P)?\s*\([^)]*\)\s*\{\s*\}", "empty test {}")):
        yield from matches(tree, SOURCES, pattern, "no-test", what, "tests/")


def unfinished(tree):
    yield from matches(tree, CODE + ("CMakeLists.txt", ".md", ".yaml", ".yml"),
                       r"\b(TODO|FIXME|XXX|TBD|HACK)\b|[Nn]ot (yet )?implemented", "unfinished", "'{}'")


def hosts_and_paths(tree):
    hosts = (r"\b(pypi\.org|files\.pythonhosted\.org|[\w.]*deb\.debian\.org|[\w.]*archive\.ubuntu\.com|"
             r"download\.pytorch\.org|registry\.npmjs\.org|index\.docker\.io)\b")
    for path, text in tree.files.items():
        if path.startswith(SELF):
            continue
        for pattern, what in ((hosts, "name of a package registry"),
                              (r"(?<![\w./$}])/(work|root|home/\w+)/[\w.]+", "path of one machine")):
            for match in re.finditer(pattern, text):
                yield Finding(path, line_of(text, match.start()), "machine", f"{what}: {match.group(0)}")


def listed_in_cmake(tree):
    words = {}
    for path, text in tree.files.items():
        if path.endswith("CMakeLists.txt"):
            words[os.path.dirname(path)] = set(re.findall(r"[\w./-]+", re.sub(r"#.*", "", text)))
    included = set()
    for path, _ in tree.select(SOURCES):
        included.update(INCLUDE.findall(tree.files[path]))
    for path, _ in tree.select(SOURCES):
        if path.endswith((".h", ".cuh")):
            if path not in included:
                yield Finding(path, 1, "cmake-list", "header that no file includes")
            continue
        folder, listed = os.path.dirname(path), False
        while not listed:
            name = os.path.relpath(path, folder or ".")
            # A list of stems serves a foreach() over one test per file.
            listed = bool({name, os.path.splitext(name)[0]} & words.get(folder, set()))
            if not folder:
                break
            folder = os.path.dirname(folder)
        if not listed:
            yield Finding(path, 1, "cmake-list", "source that no CMakeLists.txt names")


def kill_points(tree):
    """Every kill point has a name of its own and stands in the crash test's list, and the list holds no other."""
    list_path, seen = "tests/crash/kill_points.cc", {}
    listed_text = tree.files.get(list_path, "")
    listed = set(re.findall(r'\{"([a-z_.]+)",', listed_text))
    for path, text in tree.select((".cc", ".h")):
        if path.startswith("tests/"):
            continue
        for match in re.finditer(r'\bKillPoint\(\s*"([^"]*)"', text):
            name, line = match.group(1), line_of(text, match.start())
            if name in seen:
                yield Finding(path, line, "kill-point", f"'{name}' is the name of another one in {seen[name]}")
            elif name not in listed:
                yield Finding(path, line, "kill-point", f"'{name}' isn't listed in {list_path}")
            seen.setdefault(name, path)
    for name in sorted(listed - set(seen)):
        yield Finding(list_path, line_of(listed_text, listed_text.index(f'"{name}"')), "kill-point",
                      f"no source has a kill point '{name}'")


RULES = (file_length, torch_free_tier, torch_beside_protobuf, torch_umbrella_header, pragma_once, cmake_glob,
         sleeps_in_tests, switched_off_tests, unfinished, hosts_and_paths, listed_in_cmake, kill_points)


def check_format(tree):
    """Runs clang-format over all C++ files. Returns the findings, or a reason for skipping."""
    if not shutil.which("clang-format"):
        return [], "clang-format is not installed"
    paths = [p for p, _ in tree.select(SOURCES, skip_self=False)]
    if not paths:
        return [], None
    run = subprocess.run(["clang-format", "--dry-run", "--ferror-limit=1", *paths], cwd=tree.root, text=True,
                         stderr=subprocess.PIPE, check=False)
    findings = {}
    for path, line in re.findall(r"^(\S+?):(\d+):\d+: (?:warning|error): .*clang-format", run.stderr, re.M):
        findings.setdefault(path, Finding(path, int(line), "format", "run clang-format -i"))
    return list(findings.values()), None


def main(root):
    tree = Tree(root)
    findings = [f for rule in RULES for f in rule(tree)]
    formatting, skipped = check_format(tree)
    findings += formatting
    errors = [f for f in findings if not f.warning]
    for finding in findings:
        print(finding)
    if skipped:
        print(f"format: skipped: {skipped}")
    print(f"lint: {len(tree.files)} files, {len(errors)} errors, {len(findings) - len(errors)} warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    default = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else default))
