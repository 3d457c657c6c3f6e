// What dashboards and rules ask Prometheus for.
#pragma once

#include <string>
#include <vector>

namespace diffmoe::test {

struct PanelQuery {
  std::string place;  // "job: Loss", "alert: DiffmoeExpertDead"
  std::string query;  // PromQL, without variables
};

// Every query of every dashboard in deploy/grafana, for all jobs; rates over `rate_window`.
std::vector<PanelQuery> DashboardQueries(const std::string& rate_window);

// Every metric that a recording or alert rule reads, once per rule.
std::vector<PanelQuery> RuleInputs();

// Names of all alerts.
std::vector<std::string> AlertNames();

// The rules of deploy/prometheus/`file`, evaluated every second, with all durations (windows,
// offsets, `for`, horizons of predictions) divided by `factor`, at least a second; windows at least
// four.
std::string ScaledRules(const std::string& file, double factor);

}  // namespace diffmoe::test
