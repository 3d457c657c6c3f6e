// API messages as JSON or YAML, with the field names of the .proto files; 64-bit numbers are
// strings, as in protobuf's JSON.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "nlohmann/json_fwd.hpp"

namespace diffmoe {

enum class OutputFormat { kTable, kJson, kYaml };

// The message in `format` (kJson or kYaml), ending with a newline. Absent numbers, texts and lists
// are written out.
absl::StatusOr<std::string> MessageText(const google::protobuf::Message& message,
                                        OutputFormat format);

// A JSON value in `format` (kJson or kYaml), ending with a newline.
std::string JsonText(const nlohmann::ordered_json& value, OutputFormat format);

}  // namespace diffmoe
