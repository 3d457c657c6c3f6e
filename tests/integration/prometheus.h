// A real Prometheus server and promtool, for tests of the metrics.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {

// Path of `prometheus` or `promtool`: on PATH, or where setup unpacks it. Nothing when it isn't
// installed.
std::optional<std::string> FindPrometheusProgram(const std::string& name);

// What `promtool check metrics` says about a text in the exposition format; empty when it is
// content.
absl::StatusOr<std::string> CheckMetrics(const std::string& promtool, const std::string& text);

// Use from one thread.
class Prometheus {
 public:
  // Scrapes with deploy/prometheus/prometheus.yml, the coordinator's address replaced by the given
  // one and all intervals by a second. Errors: DEADLINE_EXCEEDED with the server's log when it
  // isn't ready in time.
  static absl::StatusOr<std::unique_ptr<Prometheus>> Start(const std::string& program,
                                                           const std::string& coordinator);

  // Series of an instant query. Errors: INTERNAL with the server's answer.
  absl::StatusOr<std::vector<nlohmann::json>> Query(const std::string& expression);

 private:
  Prometheus() = default;
  TempDir dir_;
  std::unique_ptr<Process> process_;
  std::string address_;
};

}  // namespace diffmoe::test
