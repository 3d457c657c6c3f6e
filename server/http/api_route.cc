#include "server/http/api_route.h"

#include <array>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/message_json.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/cluster.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"
#include "nlohmann/json.hpp"

namespace diffmoe::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::json;

constexpr std::array kRoutes = {
    ApiRoute{.pattern = "cluster", .method = "ClusterService/GetCluster"},
    ApiRoute{.pattern = "workers", .method = "ClusterService/ListWorkers"},
    ApiRoute{.pattern = "jobs", .method = "TrainingJobService/ListJobs"},
    ApiRoute{.pattern = "jobs/*",
             .method = "TrainingJobService/GetJob",
             .name_field = "name",
             .name_parts = 2},
    ApiRoute{.pattern = "jobs/*/events",
             .method = "TrainingJobService/ListJobEvents",
             .name_field = "name",
             .name_parts = 2},
    ApiRoute{.pattern = "jobs/*/steps",
             .method = "TrainingJobService/ListStepRecords",
             .name_field = "name",
             .name_parts = 2},
    ApiRoute{.pattern = "jobs/*/watch",
             .method = "TrainingJobService/WatchJob",
             .name_field = "name",
             .name_parts = 2,
             .answer = Answer::kEvents},
    ApiRoute{.pattern = "jobs/*/logs",
             .method = "TrainingJobService/ReadJobLogs",
             .name_field = "name",
             .name_parts = 2,
             .answer = Answer::kLines},
    ApiRoute{.pattern = "jobs/*/checkpoints",
             .method = "CheckpointService/ListCheckpoints",
             .name_field = "parent",
             .name_parts = 2},
    ApiRoute{.pattern = "jobs/*/checkpoints/*",
             .method = "CheckpointService/GetCheckpoint",
             .name_field = "name",
             .name_parts = 4},
    ApiRoute{.pattern = "jobs/*/checkpoints/*/calibration",
             .method = "SamplingService/GetCalibration",
             .name_field = "checkpoint",
             .name_parts = 4},
    ApiRoute{.pattern = "jobs/*/thresholds",
             .method = "CheckpointService/ListThresholds",
             .name_field = "parent",
             .name_parts = 2},
    ApiRoute{.post = true,
             .pattern = "jobs/*/cancel",
             .method = "TrainingJobService/CancelJob",
             .name_field = "name",
             .name_parts = 2,
             .writes = true},
    ApiRoute{.post = true,
             .pattern = "jobs/*/pause",
             .method = "TrainingJobService/PauseJob",
             .name_field = "name",
             .name_parts = 2,
             .writes = true},
    ApiRoute{.post = true,
             .pattern = "jobs/*/resume",
             .method = "TrainingJobService/ResumeJob",
             .name_field = "name",
             .name_parts = 2,
             .writes = true},
    ApiRoute{.post = true,
             .pattern = "samples",
             .method = "SamplingService/Sample",
             .answer = Answer::kLines,
             .writes = true},
};

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool Fits(const ApiRoute& route, std::string_view path) {
  const std::vector<absl::string_view> wanted = absl::StrSplit(route.pattern, '/');
  const std::vector<absl::string_view> parts = absl::StrSplit(View(path), '/');
  if (wanted.size() != parts.size()) return false;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (wanted[i] == "*" ? parts[i].empty() : wanted[i] != parts[i]) return false;
  }
  return true;
}

std::string NameOf(const ApiRoute& route, std::string_view path) {
  std::vector<absl::string_view> parts = absl::StrSplit(View(path), '/');
  parts.resize(static_cast<size_t>(route.name_parts));
  return absl::StrJoin(parts, "/");
}

bool IsParameter(const ApiRoute& route, const FieldDescriptor& field) {
  return field.name() != route.name_field && !field.is_map() &&
         (field.message_type() == nullptr ||
          field.message_type()->full_name() == "google.protobuf.Timestamp");
}

std::string ParameterNames(const ApiRoute& route, const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) {
    if (IsParameter(route, *type.field(i))) names.push_back(type.field(i)->name());
  }
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

// Numbers stay texts, which protobuf's JSON takes for them.
absl::StatusOr<json> ValueOf(const FieldDescriptor& field, const std::string& text) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    if (text == "true" || text == "1") return true;
    if (text == "false" || text == "0") return false;
    return absl::InvalidArgumentError(
        absl::StrCat(field.name(), ": expected true or false, got \"", text, "\""));
  }
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return text;
  const std::string name = absl::AsciiStrToUpper(text);
  if (field.enum_type()->FindValueByName(name) != nullptr) return name;
  std::vector<std::string> names;
  for (int i = 1; i < field.enum_type()->value_count(); ++i)
    names.push_back(field.enum_type()->value(i)->name());
  return absl::InvalidArgumentError(absl::StrCat(
      field.name(), ": expected one of ", absl::StrJoin(names, ", "), ", got \"", text, "\""));
}

absl::Status Fill(const ApiRoute& route, const http::Pairs& parameters, Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  json fields = json::object();
  for (const auto& [name, text] : parameters) {
    const FieldDescriptor* field = type.FindFieldByName(name);
    if (field == nullptr || !IsParameter(route, *field)) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown parameter \"", name, "\"; expected ", ParameterNames(route, type)));
    }
    ASSIGN_OR_RETURN(json value, ValueOf(*field, text));
    if (field->is_repeated()) {
      fields[name].push_back(std::move(value));
    } else if (fields.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected once, got it again"));
    } else {
      fields[name] = std::move(value);
    }
  }
  return MessageFromJson(fields.dump(-1, ' ', false, json::error_handler_t::replace), message);
}

}  // namespace

const ApiRoute* FindRoute(bool post, std::string_view path) {
  for (const ApiRoute& route : kRoutes) {
    if (route.post == post && Fits(route, path)) return &route;
  }
  return nullptr;
}

bool HasOtherMethod(bool post, std::string_view path) { return FindRoute(!post, path) != nullptr; }

const google::protobuf::MethodDescriptor* MethodOf(const ApiRoute& route) {
  // A use of each file's types keeps its descriptors in the program.
  v1::ListWorkersRequest::descriptor();
  v1::GetCheckpointRequest::descriptor();
  v1::SampleRequest::descriptor();
  v1::GetJobRequest::descriptor();
  return google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
      absl::StrReplaceAll(absl::StrCat("diffmoe.v1.", route.method), {{"/", "."}}));
}

std::unique_ptr<Message> NewMessage(const Descriptor* type) {
  return std::unique_ptr<Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

absl::StatusOr<std::unique_ptr<Message>> BuildRequest(const ApiRoute& route, std::string_view path,
                                                      const http::Request& request) {
  std::unique_ptr<Message> message = NewMessage(MethodOf(route)->input_type());
  ASSIGN_OR_RETURN(http::Pairs parameters, http::ParseQuery(request.query));
  if (route.post && !parameters.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown parameter \"", parameters[0].first,
                                                   "\"; expected a JSON body instead"));
  }
  if (route.post && !request.body.empty()) {
    RETURN_IF_ERROR(MessageFromJson(request.body, message.get()));
  } else {
    // What a browser sends when it opens a stream of events again.
    const std::string_view last = request.Header("Last-Event-ID");
    if (route.answer == Answer::kEvents && !last.empty())
      parameters = {{"resume_token", std::string(last)}};
    RETURN_IF_ERROR(Fill(route, parameters, message.get()));
  }
  if (route.name_parts > 0) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(route.name_field);
    message->GetReflection()->SetString(message.get(), field, NameOf(route, path));
  }
  return message;
}

}  // namespace diffmoe::server
