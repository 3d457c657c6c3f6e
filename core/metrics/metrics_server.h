// A process's metrics: the registry, and the HTTP server whose GET /metrics serves it in the
// Prometheus text format. Start: Registry, then the facades of metrics.h over it, then
// MetricsServer. Stop in the reverse order; the endpoint answers until the server is destroyed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/http/http_server.h"

namespace prometheus {
class Collectable;
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
  std::vector<std::shared_ptr<prometheus::Collectable>> Sources() const;

  std::shared_ptr<prometheus::Registry> registry_;
  std::vector<std::shared_ptr<prometheus::Collectable>> more_;
};

class MetricsServer {
 public:
  // Serves /metrics, and /healthz: 200 while the process lives. address: "HOST:PORT", HOST an IP
  // address or localhost; port 0 takes a free one. `threads`: requests at a time. Errors:
  // INVALID_ARGUMENT; ALREADY_EXISTS naming the address when the port is taken; PERMISSION_DENIED.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Registry& registry,
                                                              int threads = 16);
  ~MetricsServer();
  // "HOST:PORT" with the port that was taken.
  const std::string& address() const { return http_->address(); }
  // For more routes on the same port.
  http::HttpServer& http() { return *http_; }

 private:
  explicit MetricsServer(std::unique_ptr<http::HttpServer> http);
  std::unique_ptr<http::HttpServer> http_;
};

}  // namespace diffmoe::metrics
