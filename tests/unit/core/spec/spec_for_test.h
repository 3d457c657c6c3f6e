// A small valid spec to break one thing of.
#pragma once

#include <string>
#include <vector>

#include "core/spec/spec_yaml.h"
#include "core/spec/validate.h"
#include "gtest/gtest.h"

namespace diffmoe {

inline constexpr char kValidYaml[] =
    "name: tiny-1\n"           // 1
    "model:\n"                 // 2
    "  image_size: 16\n"       // 3
    "  channels: 1\n"          // 4
    "  patch_size: 4\n"        // 5
    "  width: 64\n"            // 6
    "  depth: 2\n"             // 7
    "  heads: 2\n"             // 8
    "  classes: 10\n"          // 9
    "  experts: 4\n"           // 10
    "data:\n"                  // 11
    "  format: idx\n"          // 12
    "  path: /data/fashion\n"  // 13
    "train:\n"                 // 14
    "  steps: 40\n"            // 15
    "  global_batch: 16\n"     // 16
    "parallel:\n"              // 17
    "  ranks: 2\n";            // 18

inline v1::TrainingSpec ValidSpec() { return ParseSpecYaml(kValidYaml).spec; }

// kValidYaml with one piece replaced.
inline std::string YamlWith(const std::string& from, const std::string& to) {
  std::string text = kValidYaml;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// "field|line|description" of each violation.
inline std::vector<std::string> Texts(const std::vector<v1::FieldViolation>& violations) {
  std::vector<std::string> out;
  for (const v1::FieldViolation& violation : violations) {
    out.push_back(violation.field() + "|" + std::to_string(violation.line()) + "|" +
                  violation.description());
  }
  return out;
}

inline std::vector<std::string> CheckYaml(const std::string& text) {
  return Texts(CheckSpecDocument(ParseSpecYaml(text)));
}

}  // namespace diffmoe
