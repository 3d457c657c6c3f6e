// API messages as JSON, with the field names of the .proto files; 64-bit numbers are strings and
// bytes base64, as in protobuf's JSON. The command line and the coordinator's HTTP API share it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"

namespace diffmoe {

// One line without its end. Absent numbers, texts and lists are written out.
absl::StatusOr<std::string> MessageToJson(const google::protobuf::Message& message);

// Errors: INVALID_ARGUMENT naming the field that the message doesn't have or the value that doesn't
// fit.
absl::Status MessageFromJson(const std::string& json, google::protobuf::Message* message);

}  // namespace diffmoe
