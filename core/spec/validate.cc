#include "core/spec/validate.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/spec/cross_rules.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void ApplyDefaultsTo(Message* message) {
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message->GetDescriptor()->field(i);
    const v1::FieldRule& rule = RuleOf(field);
    const bool present = reflection.HasField(*message, &field);
    if (field.message_type() != nullptr) {
      if (present || !rule.required()) ApplyDefaultsTo(reflection.MutableMessage(message, &field));
    } else if (!present && rule.has_default_value()) {
      // A default that its own field can't hold is a mistake in the .proto; the unit test of all
      // defaults finds it.
      SetFieldFromText(message, field, rule.default_value()).IgnoreError();
    }
  }
}

// True for well-formed UTF-8 without control characters (so without NUL).
bool IsCleanText(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    const bool lead = byte < 0x80 ? byte >= 0x20 && byte != 0x7f : byte >= 0xc2 && byte <= 0xf4;
    if (!lead || i + length > text.size()) return false;
    uint32_t code = length == 1 ? byte : byte & (0xff >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      code = (code << 6) | (next & 0x3f);
    }
    static constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      return false;
    }
    i += length;
  }
  return true;
}

// Walks a spec and collects what is wrong with single fields.
class FieldChecker {
 public:
  FieldChecker(const std::set<std::string>& unreadable, std::vector<v1::FieldViolation>* violations)
      : unreadable_(unreadable), violations_(*violations) {}

  void CheckMessage(const Message& message, const std::string& prefix) {
    const Reflection& reflection = *message.GetReflection();
    const auto& unknown = reflection.GetUnknownFields(message);
    for (int i = 0; i < unknown.field_count(); ++i) {
      Add(prefix.empty() ? "spec" : prefix.substr(0, prefix.size() - 1),
          absl::StrCat("expected fields that this version knows, got field number ",
                       unknown.field(i).number(), ": the sender is newer"));
    }
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor& field = *message.GetDescriptor()->field(i);
      const std::string path = prefix + field.name();
      if (unreadable_.contains(path)) continue;
      if (!reflection.HasField(message, &field)) {
        if (RuleOf(field).required()) {
          Add(path, absl::StrCat("is required: expected ", ExpectedTextOf(field), ", got nothing"));
        } else if (field.message_type() != nullptr) {
          CheckMessage(reflection.GetMessage(message, &field), path + ".");
        }
      } else if (field.message_type() != nullptr) {
        CheckMessage(reflection.GetMessage(message, &field), path + ".");
      } else {
        CheckValue(message, field, path);
      }
    }
  }

 private:
  void CheckValue(const Message& message, const FieldDescriptor& field, const std::string& path) {
    const Reflection& reflection = *message.GetReflection();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        CheckString(reflection.GetString(message, &field), RuleOf(field), path);
        break;
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int number = reflection.GetEnumValue(message, &field);
        if (number == 0 || field.enum_type()->FindValueByNumber(number) == nullptr) {
          Add(path, absl::StrCat("expected ", ExpectedTextOf(field), ", got ",
                                 number == 0 ? "unspecified" : absl::StrCat("number ", number)));
        }
        break;
      }
      case FieldDescriptor::CPPTYPE_BOOL:
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        CheckNumber(reflection.GetInt32(message, &field), message, field, path);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        CheckNumber(static_cast<double>(reflection.GetInt64(message, &field)), message, field,
                    path);
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        CheckNumber(static_cast<double>(reflection.GetUInt64(message, &field)), message, field,
                    path);
        break;
      default:
        CheckNumber(reflection.GetDouble(message, &field), message, field, path);
    }
  }

  void CheckNumber(double value, const Message& message, const FieldDescriptor& field,
                   const std::string& path) {
    const v1::FieldRule& rule = RuleOf(field);
    const std::string got = FieldText(message, field);
    if (!std::isfinite(value)) {
      Add(path, absl::StrCat("expected a finite number, got ", got));
    } else if (rule.has_min() && value < rule.min()) {
      Add(path, absl::StrFormat("expected at least %.15g, got %s", rule.min(), got));
    } else if (rule.has_above() && !(value > rule.above())) {
      Add(path, absl::StrFormat("expected more than %.15g, got %s", rule.above(), got));
    } else if (rule.has_max() && value > rule.max()) {
      Add(path, absl::StrFormat("expected at most %.15g, got %s", rule.max(), got));
    }
  }

  void CheckString(const std::string& value, const v1::FieldRule& rule, const std::string& path) {
    if (!IsCleanText(value)) {
      Add(path, absl::StrCat("expected UTF-8 text without control characters, got ",
                             QuoteForMessage(value)));
    } else if (rule.has_max_length() && value.size() > static_cast<size_t>(rule.max_length())) {
      Add(path, absl::StrCat("expected at most ", rule.max_length(), " bytes, got ", value.size()));
    } else if (path == "name") {
      CheckName(value);
    } else if (path == "data.path") {
      CheckPath(value);
    } else if (path == "data.split" && value != "train" && value != "t10k") {
      Add(path, absl::StrCat("expected train or t10k, got ", QuoteForMessage(value)));
    }
  }

  void CheckName(const std::string& name) {
    bool good = !name.empty() && name[0] >= 'a' && name[0] <= 'z';
    for (char c : name)
      good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
    if (!good) {
      Add("name", absl::StrCat("expected lower-case letters, digits and '-', a letter first, got ",
                               QuoteForMessage(name)));
    }
  }

  void CheckPath(const std::string& path) {
    if (path.empty() || path[0] != '/') {
      Add("data.path", absl::StrCat("expected an absolute path, got ", QuoteForMessage(path)));
      return;
    }
    for (absl::string_view part : absl::StrSplit(path, '/')) {
      if (part == "..") {
        Add("data.path",
            absl::StrCat("expected a path without \"..\", got ", QuoteForMessage(path)));
        return;
      }
    }
  }

  void Add(const std::string& path, const std::string& description) {
    v1::FieldViolation& violation = violations_.emplace_back();
    violation.set_field(path);
    violation.set_description(description);
  }

  const std::set<std::string>& unreadable_;
  std::vector<v1::FieldViolation>& violations_;
};

}  // namespace

void ApplyDefaults(v1::TrainingSpec* spec) { ApplyDefaultsTo(spec); }

std::vector<v1::FieldViolation> ValidateSpec(const v1::TrainingSpec& spec,
                                             const std::set<std::string>& unreadable) {
  std::vector<v1::FieldViolation> violations;
  FieldChecker(unreadable, &violations).CheckMessage(spec, "");
  std::set<std::string> bad = unreadable;
  for (const v1::FieldViolation& violation : violations) bad.insert(violation.field());
  v1::TrainingSpec complete = spec;
  ApplyDefaults(&complete);
  CheckCrossRules(complete, bad, &violations);
  return violations;
}

}  // namespace diffmoe
