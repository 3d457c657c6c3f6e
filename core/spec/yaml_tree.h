// A small YAML tree that keeps what yaml-cpp's own nodes lose: lines of keys, duplicate keys,
// quoting, and the part before a syntax error.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace diffmoe {

struct YamlNode {
  enum class Kind { kNull, kPlain, kQuoted, kSequence, kMapping };
  Kind kind = Kind::kNull;
  int line = 1;      // 1-based
  std::string text;  // of kPlain and kQuoted
  // Keys and values of a mapping in the order of the file, duplicates included. A sequence keeps no
  // items: no spec field is a list.
  std::vector<std::pair<YamlNode, YamlNode>> members;
};

struct YamlFault {
  int line = 1;
  std::string description;
};

struct YamlTree {
  YamlNode root;
  std::vector<YamlFault> faults;
  // False when reading stopped at a syntax error; `root` then holds what came before it.
  bool complete = true;
};

inline constexpr int kMaxYamlDepth = 64;

// Reads one document. Refused, each with its line: nesting deeper than kMaxYamlDepth, control
// characters (before parsing); anchors, aliases, tags, a second document, syntax errors. Never
// recurses deeper than yaml-cpp's own guard and never throws.
YamlTree ReadYamlTree(absl::string_view text);

}  // namespace diffmoe
