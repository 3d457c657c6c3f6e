// Which method of the public API stands behind a path of the HTTP API, and how a request of one
// becomes a request of the other. Pure functions.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/http/http_message.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace diffmoe::server {

enum class Answer {
  kOne,     // one JSON object
  kLines,   // an object per line
  kEvents,  // server-sent events
};

struct ApiRoute {
  bool post = false;
  const char* pattern = "";     // below /api/v1/; '*' stands for one part
  const char* method = "";      // "TrainingJobService/GetJob"
  const char* name_field = "";  // of the request; gets the first `name_parts` parts of the path
  int name_parts = 0;
  Answer answer = Answer::kOne;
  bool writes = false;  // needs --console-writes
};

// Path below /api/v1/, without a '/' at its end. Nothing when there is no such route.
const ApiRoute* FindRoute(bool post, std::string_view path);

// Whether the path is one of the other kind, GET for POST or POST for GET.
bool HasOtherMethod(bool post, std::string_view path);

const google::protobuf::MethodDescriptor* MethodOf(const ApiRoute& route);

// A fresh message of a type of the API.
std::unique_ptr<google::protobuf::Message> NewMessage(const google::protobuf::Descriptor* type);

// The request that the path, the query's parameters (GET) or the JSON body (POST) describe.
// Parameters have the names of the request's fields; lists repeat them. Errors: INVALID_ARGUMENT
// naming the parameter or field, and what is expected.
absl::StatusOr<std::unique_ptr<google::protobuf::Message>> BuildRequest(
    const ApiRoute& route, std::string_view path, const http::Request& request);

}  // namespace diffmoe::server
