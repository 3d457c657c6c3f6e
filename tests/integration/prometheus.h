// A real Prometheus server and promtool, for tests of the metrics.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
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

// deploy/prometheus with the coordinator's address replaced by the given one and its intervals by a
// second, by name of the file.
std::map<std::string, std::string> DeployedConfiguration(const std::string& coordinator);

// A series of a range query: its labels, and (time, value).
struct RangeSeries {
  nlohmann::json labels;
  std::vector<std::pair<absl::Time, double>> points;
};

// Use from one thread.
class Prometheus {
 public:
  // files: "prometheus.yml" and what it refers to. Errors: DEADLINE_EXCEEDED with the server's log
  // when it isn't ready in time.
  static absl::StatusOr<std::unique_ptr<Prometheus>> Start(
      const std::string& program, const std::map<std::string, std::string>& files);

  // Replaces one of the files at once; targets of file_sd_configs are read again then.
  void Rewrite(const std::string& file, const std::string& content);

  // Series of an instant query. Errors: INTERNAL with the server's answer.
  absl::StatusOr<std::vector<nlohmann::json>> Query(const std::string& expression);
  // Points every second. Errors: as Query.
  absl::StatusOr<std::vector<RangeSeries>> QueryRange(const std::string& expression,
                                                      absl::Time begin, absl::Time end);

 private:
  Prometheus() = default;
  absl::StatusOr<nlohmann::json> Ask(const std::string& path);
  TempDir dir_;
  std::unique_ptr<Process> process_;
  std::string address_;
};

}  // namespace diffmoe::test
