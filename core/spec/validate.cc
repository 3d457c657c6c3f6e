#include "core/spec/validate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/spec/cross_rules.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void ApplyDefaultsTo(const v1::TrainingSpec& spec, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message->GetDescriptor()->field(i);
    const v1::FieldRule& rule = RuleOf(field);
    const bool present = reflection.HasField(*message, &field);
    if (field.message_type() != nullptr) {
      if (present || !rule.required()) {
        ApplyDefaultsTo(spec, reflection.MutableMessage(message, &field));
      }
    } else if (!present && rule.has_default_value() && Applies(spec, rule)) {
      // A default that its own field can't hold is a mistake in the .proto; the unit test of all
      // defaults finds it.
      SetFieldFromText(message, field, rule.default_value()).IgnoreError();
    }
  }
}

void ApplySize(v1::ModelSpec* model) {
  struct Preset {
    int depth, width, heads;
  };
  static constexpr Preset kPresets[] = {
      {12, 384, 6}, {12, 768, 12}, {24, 1024, 16}, {28, 1152, 16}};  // S, B, L, XL
  if (model->size() < v1::MODEL_SIZE_S || model->size() > v1::MODEL_SIZE_XL) return;
  const Preset& preset = kPresets[model->size() - v1::MODEL_SIZE_S];
  if (!model->has_depth()) model->set_depth(preset.depth);
  if (!model->has_width()) model->set_width(preset.width);
  if (!model->has_heads()) model->set_heads(preset.heads);
}

// Defaults that depend on other fields. All others are there.
void ApplyDependentDefaults(v1::TrainingSpec* spec) {
  v1::ParallelSpec* parallel = spec->mutable_parallel();
  const auto* expert_parallel = FindSpecField("parallel.expert_parallel");
  if (!parallel->has_expert_parallel() && Applies(*spec, RuleOf(*expert_parallel))) {
    parallel->set_expert_parallel(parallel->ranks());
  }
  if (!parallel->has_min_ranks()) parallel->set_min_ranks(parallel->ranks());
  if (!spec->has_model()) return;
  v1::ModelSpec* model = spec->mutable_model();
  ApplySize(model);
  if (!model->has_pool() && Applies(*spec, RuleOf(*FindSpecField("model.pool")))) {
    model->set_pool(model->family() == v1::FAMILY_EXPERT_CHOICE ? v1::POOL_SAMPLE
                                                                : v1::POOL_GLOBAL);
  }
  if (!model->has_learn_sigma()) {
    model->set_learn_sigma(spec->diffusion().process() == v1::DIFFUSION_PROCESS_DDPM);
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
  FieldChecker(const v1::TrainingSpec& spec, const std::set<std::string>& unreadable,
               std::vector<v1::FieldViolation>* violations)
      : spec_(spec), unreadable_(unreadable), violations_(*violations) {}

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
        CheckAbsent(RuleOf(field), field, path);
        if (!RuleOf(field).required() && field.message_type() != nullptr) {
          CheckMessage(reflection.GetMessage(message, &field), path + ".");
        }
      } else if (field.message_type() != nullptr) {
        CheckMessage(reflection.GetMessage(message, &field), path + ".");
      } else if (CheckApplies(message, field, path)) {
        CheckValue(message, field, path);
      }
    }
  }

 private:
  void CheckAbsent(const v1::FieldRule& rule, const FieldDescriptor& field,
                   const std::string& path) {
    if (rule.required()) {
      Add(path, absl::StrCat("is required: expected ", ExpectedTextOf(field), ", got nothing"));
    } else if (const std::string& other = rule.required_unless();
               !other.empty() && !IsBad(other) && EffectiveText(spec_, other).empty()) {
      Add(path, absl::StrCat("is required unless ", other, " is given: expected ",
                             ExpectedTextOf(field), ", got nothing"));
    }
  }

  bool CheckApplies(const Message& message, const FieldDescriptor& field, const std::string& path) {
    const FieldCondition condition = ConditionOf(RuleOf(field));
    if (condition.field.empty() || IsBad(condition.field) || Applies(spec_, RuleOf(field))) {
      return true;
    }
    Add(path,
        absl::StrCat("expected no value, as it applies to ", condition.field, " ",
                     absl::StrJoin(condition.values, ", "), " and not to ",
                     EffectiveText(spec_, condition.field), "; got ", FieldText(message, field)));
    return false;
  }

  // True when the field or its section is known to be bad.
  bool IsBad(const std::string& path) const {
    const std::string section = path.substr(0, path.find('.'));
    if (unreadable_.contains(path) || unreadable_.contains(section)) return true;
    return std::any_of(violations_.begin(), violations_.end(),
                       [&](const v1::FieldViolation& violation) {
                         return violation.field() == path || violation.field() == section;
                       });
  }

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
    } else if (path == "data.path" || path == "train.initial_weights") {
      CheckPath(path, value);
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

  void CheckPath(const std::string& field, const std::string& path) {
    if (path.empty() || path[0] != '/') {
      Add(field, absl::StrCat("expected an absolute path, got ", QuoteForMessage(path)));
      return;
    }
    for (absl::string_view part : absl::StrSplit(path, '/')) {
      if (part == "..") {
        Add(field, absl::StrCat("expected a path without \"..\", got ", QuoteForMessage(path)));
        return;
      }
    }
  }

  void Add(const std::string& path, const std::string& description) {
    v1::FieldViolation& violation = violations_.emplace_back();
    violation.set_field(path);
    violation.set_description(description);
  }

  const v1::TrainingSpec& spec_;
  const std::set<std::string>& unreadable_;
  std::vector<v1::FieldViolation>& violations_;
};

}  // namespace

void ApplyDefaults(v1::TrainingSpec* spec) {
  ApplyDefaultsTo(*spec, spec);
  ApplyDependentDefaults(spec);
}

std::vector<v1::FieldViolation> ValidateSpec(const v1::TrainingSpec& spec,
                                             const std::set<std::string>& unreadable) {
  std::vector<v1::FieldViolation> violations;
  FieldChecker(spec, unreadable, &violations).CheckMessage(spec, "");
  std::set<std::string> bad = unreadable;
  for (const v1::FieldViolation& violation : violations) bad.insert(violation.field());
  if (bad.contains("model.size")) {  // nothing is known of what it would have filled
    for (const char* field : {"model.width", "model.depth", "model.heads"}) {
      if (EffectiveText(spec, field).empty()) bad.insert(field);
    }
  }
  v1::TrainingSpec complete = spec;
  ApplyDefaults(&complete);
  CheckCrossRules(complete, bad, &violations);
  return violations;
}

}  // namespace diffmoe
