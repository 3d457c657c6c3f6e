#include "client/output/message.h"

#include "absl/strings/str_cat.h"
#include "core/base/message_json.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "yaml-cpp/emitter.h"
#include "yaml-cpp/emittermanip.h"
#include "yaml-cpp/null.h"

namespace diffmoe {
namespace {

// Depth is that of the message types, so the recursion is bounded.
void Emit(const nlohmann::ordered_json& value, YAML::Emitter* out) {
  if (value.is_object()) {
    *out << YAML::BeginMap;
    for (const auto& [key, member] : value.items()) {
      *out << YAML::Key << key << YAML::Value;
      Emit(member, out);
    }
    *out << YAML::EndMap;
  } else if (value.is_array()) {
    *out << YAML::BeginSeq;
    for (const auto& item : value) Emit(item, out);
    *out << YAML::EndSeq;
  } else if (value.is_string()) {
    *out << YAML::DoubleQuoted << value.get<std::string>();
  } else if (value.is_null()) {
    *out << YAML::Null;
  } else {
    *out << value.dump();
  }
}

}  // namespace

absl::StatusOr<std::string> MessageText(const google::protobuf::Message& message,
                                        OutputFormat format) {
  ASSIGN_OR_RETURN(const std::string json, MessageToJson(message));
  return JsonText(nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false), format);
}

std::string JsonText(const nlohmann::ordered_json& value, OutputFormat format) {
  if (format == OutputFormat::kJson) return value.dump(2) + "\n";
  YAML::Emitter emitter;
  Emit(value, &emitter);
  return absl::StrCat(emitter.c_str(), "\n");
}

}  // namespace diffmoe
