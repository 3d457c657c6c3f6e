// A process's metrics: the registry, and the HTTP endpoint GET /metrics that serves it in the
// Prometheus text format. Start: Registry, then the facades of metrics.h over it, then
// MetricsServer. Stop in the reverse order; the endpoint answers until the server is destroyed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace prometheus {
class Collectable;
class Exposer;
class Registry;
}  // namespace prometheus

namespace diffmoe::metrics {

// Thread-safe but for Add. `program` and `version` become diffmoe_build_info.
class Registry {
 public:
  Registry(const std::string& program, const std::string& version);
  ~Registry();
  prometheus::Registry& get() { return *registry_; }
  // Serves the families of `more` too. Call it before MetricsServer::Start.
  void Add(std::shared_ptr<prometheus::Collectable> more);
  // The text that /metrics serves.
  std::string Text() const;

 private:
  friend class MetricsServer;
  std::shared_ptr<prometheus::Registry> registry_;
  std::vector<std::shared_ptr<prometheus::Collectable>> more_;
};

class MetricsServer {
 public:
  // address: "HOST:PORT", HOST an IP address or localhost; port 0 takes a free one. Errors:
  // INVALID_ARGUMENT; ALREADY_EXISTS naming the address when the port is taken; PERMISSION_DENIED.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Registry& registry);
  ~MetricsServer();
  // "HOST:PORT" with the port that was taken.
  const std::string& address() const { return address_; }

 private:
  MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, std::string address);
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string address_;
};

}  // namespace diffmoe::metrics
