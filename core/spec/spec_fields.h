// The training spec's fields by reflection: paths, rules, names of enum values, values from text.
// Everything comes from the FieldRule options in proto/diffmoe/v1/training_spec.proto. All
// functions are pure and thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// A field's rule; an empty one when the field has none.
const v1::FieldRule& RuleOf(const google::protobuf::FieldDescriptor& field);

// The field at a dotted path such as "model.experts", or null.
const google::protobuf::FieldDescriptor* FindSpecField(absl::string_view path);

// Paths of all fields in declaration order, each message before its members.
std::vector<std::string> AllSpecFieldPaths();

// Name of an enum value as it stands in YAML: its EnumRule's text, or its name without the type's
// prefix and in lower case (FAMILY_DIFFMOE: "diffmoe").
std::string EnumTextOf(const google::protobuf::EnumValueDescriptor& value);

// Names of all values of an enum but the unspecified one, joined by ", ".
std::string KnownEnumTexts(const google::protobuf::EnumDescriptor& type);

// What a field holds, in words: "a whole number", "one of dense, diffmoe", "a mapping".
std::string ExpectedTextOf(const google::protobuf::FieldDescriptor& field);

// Sets a scalar field from its YAML text. INVALID_ARGUMENT with expected and got for text of
// another type, a number that is not finite, or one that the field's type can't hold. Bounds are
// checked by ValidateSpec, not here.
absl::Status SetFieldFromText(google::protobuf::Message* message,
                              const google::protobuf::FieldDescriptor& field,
                              absl::string_view text);

// A scalar field's value as it would stand in YAML.
std::string FieldText(const google::protobuf::Message& message,
                      const google::protobuf::FieldDescriptor& field);

// FieldRule.applies_when taken apart.
struct FieldCondition {
  std::string field;                // path of the field that decides; empty: applies always
  std::vector<std::string> values;  // any of these
};
FieldCondition ConditionOf(const v1::FieldRule& rule);

// The text of the field at `path`, its default when absent, empty when it has neither.
std::string EffectiveText(const v1::TrainingSpec& spec, absl::string_view path);

// Whether the field with this rule has a meaning in `spec`.
bool Applies(const v1::TrainingSpec& spec, const v1::FieldRule& rule);

// The candidate with the smallest edit distance to `name`; empty when none is near (more than a
// third of the letters, at least two, differ).
std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates);

// Text from outside for a message: quoted, all but printable ASCII escaped, cut after 60 bytes.
std::string QuoteForMessage(absl::string_view text);

}  // namespace diffmoe
