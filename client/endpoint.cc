#include "client/endpoint.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "core/spec/spec_file.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

constexpr char kDefaultAddress[] = "127.0.0.1:7070";

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string DataDir(const EndpointOptions& options) {
  if (!options.data_dir.empty()) return options.data_dir;
  if (const std::string base = Variable("XDG_DATA_HOME"); !base.empty()) return base + "/diffmoe";
  return Variable("HOME") + "/.local/share/diffmoe";
}

Endpoint FindEndpoint(const EndpointOptions& options) {
  if (!options.server.empty()) return {options.server, "--server"};
  if (const std::string server = Variable("DIFFMOE_SERVER");
      options.data_dir.empty() && !server.empty()) {
    return {server, "$DIFFMOE_SERVER"};
  }
  const std::string path = DataDir(options) + "/coordinator/coordinator.json";
  const absl::StatusOr<std::string> text = ReadSpecFile(path);
  if (text.ok()) {
    const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("grpc_address") && json["grpc_address"].is_string()) {
      return {json["grpc_address"].get<std::string>(), path};
    }
  }
  return {kDefaultAddress, "the default"};
}

}  // namespace diffmoe
