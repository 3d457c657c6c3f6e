// A cluster that is watched: a coordinator, a worker, at times a second one to lose, and a
// Prometheus that scrapes all of them every second and
// evaluates the alert rules with shortened durations. Use from one thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/integration/prometheus.h"
#include "tests/support/cluster.h"

namespace diffmoe::test {

struct SceneOptions {
  std::string prometheus;   // program
  double rule_factor = 60;  // durations of the rules are divided by it
};

class Scene {
 public:
  explicit Scene(const SceneOptions& options);

  absl::Status Start();

  Cluster& cluster() { return cluster_; }
  Prometheus& prometheus() { return *prometheus_; }
  absl::Time start() const { return start_; }
  // Addresses of all /metrics that are served now.
  std::vector<std::string> Endpoints() const;

  // Prints a line with the time since the start.
  void Say(const std::string& text) const;
  // Keeps what is wrong, and says it. The run goes on.
  void Fail(const std::string& text);
  void Check(bool good, const std::string& text);
  const std::vector<std::string>& failures() const { return failures_; }

  // The same configuration file and other values; its id. Fails the run when it is refused.
  std::string Submit(const std::string& name, const std::vector<std::string>& overrides);
  // Waits, and fails the run when it takes too long. The time it took.
  absl::Duration Await(const std::string& what, absl::Duration limit,
                       absl::FunctionRef<bool()> condition);
  // As Await, until the expression has a result.
  absl::Duration AwaitQuery(const std::string& what, const std::string& expression,
                            absl::Duration limit = absl::Seconds(60));
  // Holds a fault until its alerts have fired: each of `alerts` must, each of `also` may, for this
  // job where they name one.
  void AwaitAlerts(const std::string& fault, const std::set<std::string>& alerts,
                   const std::set<std::string>& also = {}, const std::string& job_id = "");
  // Waits until none of them fires.
  void AwaitCalm(const std::string& alert);
  // Alerts that any job may raise, with the reason.
  void Allow(const std::string& alert, const std::string& reason);

  absl::Status StartSecondWorker();
  void KillSecondWorker();
  // Dead processes stay targets until then.
  void UpdateTargets();

  // Name and job; the job is empty for alerts that name none.
  using Alert = std::pair<std::string, std::string>;
  const std::set<Alert>& expected_alerts() const { return expected_; }
  // And why. Without a job: of any.
  const std::map<Alert, std::string>& allowed_alerts() const { return allowed_; }

 private:
  std::string TargetsFile(const std::vector<std::string>& addresses) const;

  const SceneOptions options_;
  Cluster cluster_;
  TempDir second_dir_;
  std::unique_ptr<Process> second_worker_;
  std::string second_metrics_;
  std::unique_ptr<Prometheus> prometheus_;
  absl::Time start_;
  std::vector<std::string> failures_;
  std::set<Alert> expected_;
  std::map<Alert, std::string> allowed_;
};

}  // namespace diffmoe::test
