#include "core/spec/spec_fields.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace diffmoe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// "DATA_FORMAT_" for DataFormat.
std::string EnumPrefix(const EnumDescriptor& type) {
  std::string prefix;
  for (char c : type.name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

absl::Status TypeError(const FieldDescriptor& field, absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected ", ExpectedTextOf(field), ", got ", QuoteForMessage(text)));
}

bool IsWholeNumber(absl::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

absl::Status RangeError(absl::string_view text, absl::string_view low, absl::string_view high) {
  return absl::InvalidArgumentError(absl::StrCat("expected a whole number from ", low, " to ", high,
                                                 ", got ", QuoteForMessage(text)));
}

template <typename Number>
absl::Status ParseWhole(const FieldDescriptor& field, absl::string_view text, Number* value) {
  if (!IsWholeNumber(text)) return TypeError(field, text);
  if (absl::SimpleAtoi(text, value)) return absl::OkStatus();
  return RangeError(text, absl::StrCat(std::numeric_limits<Number>::min()),
                    absl::StrCat(std::numeric_limits<Number>::max()));
}

absl::Status ParseReal(const FieldDescriptor& field, absl::string_view text, double* value) {
  static constexpr absl::string_view kNotFinite[] = {".nan", ".inf", "+.inf", "-.inf",
                                                     "nan",  "inf",  "+inf",  "-inf"};
  const std::string lower = absl::AsciiStrToLower(text);
  for (absl::string_view name : kNotFinite) {
    if (lower == name) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected a finite number, got ", QuoteForMessage(text)));
    }
  }
  if (!absl::SimpleAtod(text, value)) return TypeError(field, text);
  if (!std::isfinite(*value)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected a number that a 64-bit float can hold, got ", QuoteForMessage(text)));
  }
  return absl::OkStatus();
}

absl::Status SetEnum(Message* message, const FieldDescriptor& field, absl::string_view text) {
  const EnumDescriptor& type = *field.enum_type();
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor& value = *type.value(i);
    if (value.number() != 0 && EnumTextOf(value) == text) {
      message->GetReflection()->SetEnum(message, &field, &value);
      return absl::OkStatus();
    }
  }
  return TypeError(field, text);
}

void AppendPaths(const Descriptor& type, const std::string& prefix, std::vector<std::string>* out) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    out->push_back(prefix + field.name());
    if (field.message_type() != nullptr) {
      AppendPaths(*field.message_type(), out->back() + ".", out);
    }
  }
}

// Levenshtein distance where a swap of neighbours counts as one edit.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

const v1::FieldRule& RuleOf(const FieldDescriptor& field) {
  return field.options().GetExtension(v1::rule);
}

const FieldDescriptor* FindSpecField(absl::string_view path) {
  const Descriptor* type = v1::TrainingSpec::descriptor();
  const FieldDescriptor* field = nullptr;
  for (absl::string_view part : absl::StrSplit(path, '.')) {
    if (type == nullptr) return nullptr;
    field = type->FindFieldByName(std::string(part));
    if (field == nullptr) return nullptr;
    type = field->message_type();
  }
  return field;
}

std::vector<std::string> AllSpecFieldPaths() {
  std::vector<std::string> paths;
  AppendPaths(*v1::TrainingSpec::descriptor(), "", &paths);
  return paths;
}

std::string EnumTextOf(const EnumValueDescriptor& value) {
  const std::string& text = value.options().GetExtension(v1::value_rule).text();
  if (!text.empty()) return text;
  absl::string_view name = value.name();
  absl::ConsumePrefix(&name, EnumPrefix(*value.type()));
  return absl::AsciiStrToLower(name);
}

std::string KnownEnumTexts(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(EnumTextOf(*type.value(i)));
  }
  return absl::StrJoin(names, ", ");
}

std::string ExpectedTextOf(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", KnownEnumTexts(*field.enum_type()));
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "a mapping";
  }
  return "a value";
}

absl::Status SetFieldFromText(Message* message, const FieldDescriptor& field,
                              absl::string_view text) {
  const google::protobuf::Reflection& reflection = *message->GetReflection();
  absl::Status status;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      status = ParseWhole(field, text, &value);
      if (status.ok()) reflection.SetInt32(message, &field, value);
      return status;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      status = ParseWhole(field, text, &value);
      if (status.ok()) reflection.SetInt64(message, &field, value);
      return status;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      status = ParseWhole(field, text, &value);
      if (status.ok()) reflection.SetUInt64(message, &field, value);
      return status;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      status = ParseReal(field, text, &value);
      if (status.ok()) reflection.SetDouble(message, &field, value);
      return status;
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return TypeError(field, text);
      reflection.SetBool(message, &field, text == "true");
      return status;
    case FieldDescriptor::CPPTYPE_ENUM:
      return SetEnum(message, field, text);
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(message, &field, std::string(text));
      return status;
    default:
      return TypeError(field, text);
  }
}

std::string FieldText(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(reflection.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrFormat("%.15g", reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = reflection.GetEnumValue(message, &field);
      const EnumValueDescriptor* value = field.enum_type()->FindValueByNumber(number);
      return value == nullptr ? absl::StrCat(number) : EnumTextOf(*value);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.GetString(message, &field);
    default:
      return "";
  }
}

FieldCondition ConditionOf(const v1::FieldRule& rule) {
  if (rule.applies_when().empty()) return {};
  const std::pair<std::string, std::string> parts = absl::StrSplit(rule.applies_when(), '=');
  return {parts.first, absl::StrSplit(parts.second, ',')};
}

std::string EffectiveText(const v1::TrainingSpec& spec, absl::string_view path) {
  const Message* message = &spec;
  const FieldDescriptor* field = nullptr;
  for (absl::string_view part : absl::StrSplit(path, '.')) {
    if (field != nullptr) message = &message->GetReflection()->GetMessage(*message, field);
    field = message->GetDescriptor()->FindFieldByName(std::string(part));
  }
  return message->GetReflection()->HasField(*message, field) ? FieldText(*message, *field)
                                                             : RuleOf(*field).default_value();
}

bool Applies(const v1::TrainingSpec& spec, const v1::FieldRule& rule) {
  const FieldCondition condition = ConditionOf(rule);
  if (condition.field.empty()) return true;
  const std::string value = EffectiveText(spec, condition.field);
  return std::find(condition.values.begin(), condition.values.end(), value) !=
         condition.values.end();
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates) {
  if (name.size() > 100) return "";
  const std::string lower = absl::AsciiStrToLower(name);
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(lower, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string QuoteForMessage(absl::string_view text) {
  static constexpr size_t kLongest = 60;
  std::string out = "\"";
  for (unsigned char c : text.substr(0, kLongest)) {
    if (c < 0x20 || c >= 0x7f) {
      absl::StrAppendFormat(&out, "\\x%02x", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + (text.size() > kLongest ? "\"..." : "\"");
}

}  // namespace diffmoe
