#include "core/metrics/metrics_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/metrics/catalogue.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace diffmoe::metrics {
namespace {

struct HostPort {
  std::string host;
  int port = 0;
};

absl::StatusOr<HostPort> ParseAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  if (colon != std::string::npos && absl::SimpleAtoi(address.substr(colon + 1), &parsed.port) &&
      parsed.port >= 0 && parsed.port <= 65535) {
    parsed.host = address.substr(0, colon);
    if (parsed.host == "localhost") parsed.host = "127.0.0.1";
    in_addr ignored;
    if (inet_pton(AF_INET, parsed.host.c_str(), &ignored) == 1) return parsed;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metrics address must be IPV4:PORT or localhost:PORT, got \"", address, "\""));
}

// The HTTP library doesn't say why it can't listen.
absl::Status WhyNot(const HostPort& at, const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return absl::InternalError(absl::StrCat("cannot make a socket: ", std::strerror(errno)));
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<uint16_t>(at.port));
  inet_pton(AF_INET, at.host.c_str(), &name.sin_addr);
  const int reuse = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  int error = 0;
  if (bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0 || listen(fd, 1) != 0)
    error = errno;
  close(fd);
  const std::string message =
      absl::StrCat("cannot serve metrics on ", address, ": ", std::strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(
          absl::StrCat("cannot serve metrics on ", address, ": port ", at.port, " is in use"));
    case EACCES:
      return absl::PermissionDeniedError(message);
    case EADDRNOTAVAIL:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(absl::StrCat("cannot serve metrics on ", address));
  }
}

}  // namespace

Registry::Registry(const std::string& program, const std::string& version)
    : registry_(std::make_shared<prometheus::Registry>()) {
  prometheus::BuildGauge()
      .Name(kBuildInfo.name)
      .Help(kBuildInfo.help)
      .Register(*registry_)
      .Add({{kBuildInfo.labels[0], program}, {kBuildInfo.labels[1], version}})
      .Set(1);
}

Registry::~Registry() = default;

void Registry::Add(std::shared_ptr<prometheus::Collectable> more) {
  more_.push_back(std::move(more));
}

std::string Registry::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (const auto& more : more_) {
    for (prometheus::MetricFamily& family : more->Collect()) families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    const Registry& registry) {
  ASSIGN_OR_RETURN(const HostPort at, ParseAddress(address));
  std::unique_ptr<prometheus::Exposer> exposer;
  try {
    exposer = std::make_unique<prometheus::Exposer>(absl::StrCat(at.host, ":", at.port));
  } catch (const std::exception&) {
    return WhyNot(at, address);
  }
  exposer->RegisterCollectable(registry.registry_);
  for (const auto& more : registry.more_) exposer->RegisterCollectable(more);
  const std::vector<int> ports = exposer->GetListeningPorts();
  if (ports.empty())
    return absl::InternalError(absl::StrCat("no port is open for metrics on ", address));
  return std::unique_ptr<MetricsServer>(
      new MetricsServer(std::move(exposer), absl::StrCat(at.host, ":", ports.front())));
}

MetricsServer::MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, std::string address)
    : exposer_(std::move(exposer)), address_(std::move(address)) {}
MetricsServer::~MetricsServer() = default;

}  // namespace diffmoe::metrics
