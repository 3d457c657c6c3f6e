// The YAML form of a training spec. Pure and thread-safe; never throws.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// A spec as far as it could be read.
struct SpecDocument {
  v1::TrainingSpec spec;                       // no defaults applied
  std::vector<v1::FieldViolation> violations;  // faults of reading, each with its line
  std::set<std::string> unreadable;  // fields about which `violations` already says what is wrong
  std::map<std::string, int>
      lines;  // field path -> 1-based line; "" is the whole document; 0: not from the file
};

// Most violations of one spec that are listed; one more then says that there are others.
inline constexpr size_t kMaxSpecViolations = 100;

// Reads YAML text. Unknown keys (with the nearest valid one), duplicate keys, values of a wrong
// type, numbers that are not finite or too large, empty values, anchors, tags, deep nesting, syntax
// errors: all of them at once, each with its line.
SpecDocument ParseSpecYaml(absl::string_view text);

// Sets one field from "path=value", for example "train.steps=50", over what the file says. A fault
// becomes a violation.
void OverrideField(absl::string_view assignment, SpecDocument* document);

// All that is wrong: faults of reading and of the rules (validate.h), in the order of lines. Empty:
// the spec can be run.
std::vector<v1::FieldViolation> CheckSpecDocument(const SpecDocument& document);

// Fills `line` of violations that came from elsewhere (the coordinator) from the document's fields.
void AddLines(const SpecDocument& document, std::vector<v1::FieldViolation>* violations);

}  // namespace diffmoe
