#include "tests/observe/scene.h"

#include <signal.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "tests/integration/job_helpers.h"
#include "tests/observe/queries.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr double kKeepSeriesSeconds = 300;  // the worker's default
constexpr absl::Duration kAlertLimit = absl::Seconds(200);

// As deploy/prometheus/prometheus.yml, but with targets from files: here processes come back on
// other ports.
constexpr char kConfiguration[] = R"(global:
  scrape_interval: 1s
  scrape_timeout: 900ms
rule_files: [recording_rules.yml, alert_rules.yml]
scrape_configs:
  - job_name: diffmoe-coordinator
    file_sd_configs: [{files: [coordinators.json], refresh_interval: 1s}]
  - job_name: diffmoe-coordinator-ready
    metrics_path: /readyz
    file_sd_configs: [{files: [coordinators.json], refresh_interval: 1s}]
  - job_name: diffmoe-worker
    file_sd_configs: [{files: [workers.json], refresh_interval: 1s}]
)";

ClusterOptions OptionsOf(const SceneOptions& options) {
  return {.slots = 5,
          .coordinator_flags = {},
          // As the rules, so that they see an ended job for as long as they would.
          .worker_flags = {"--keep-series", absl::StrCat(kKeepSeriesSeconds / options.rule_factor)},
          .coordinator_environment = {},
          .data_dir = ""};
}

}  // namespace

Scene::Scene(const SceneOptions& options) : options_(options), cluster_(OptionsOf(options)) {}

absl::Status Scene::Start() {
  start_ = absl::Now();
  RETURN_IF_ERROR(cluster_.Start());
  ASSIGN_OR_RETURN(
      prometheus_,
      Prometheus::Start(
          options_.prometheus,
          {{"prometheus.yml", kConfiguration},
           {"recording_rules.yml", ScaledRules("recording_rules.yml", options_.rule_factor)},
           {"alert_rules.yml", ScaledRules("alert_rules.yml", options_.rule_factor)},
           {"coordinators.json", "[]"},
           {"workers.json", "[]"}}));
  UpdateTargets();
  AwaitQuery("all processes are scraped", "count(up == 1) == 3");
  return absl::OkStatus();
}

std::vector<std::string> Scene::Endpoints() const {
  std::vector<std::string> all = {cluster_.coordinator_metrics(), cluster_.worker_metrics()};
  if (second_worker_ != nullptr) all.push_back(second_metrics_);
  return all;
}

void Scene::Say(const std::string& text) const {
  std::printf("%6.1f s  %s\n", absl::ToDoubleSeconds(absl::Now() - start_), text.c_str());
  std::fflush(stdout);
}

void Scene::Fail(const std::string& text) {
  failures_.push_back(text);
  Say("FAILED: " + text);
}

void Scene::Check(bool good, const std::string& text) {
  if (!good) Fail(text);
}

std::string Scene::Submit(const std::string& name, const std::vector<std::string>& overrides) {
  std::vector<std::string> all = overrides;
  all.insert(all.begin(), "name=" + name);
  const absl::StatusOr<std::string> id = SubmitSmoke(cluster_, all);
  if (!id.ok()) Fail(absl::StrCat("submit ", name, ": ", id.status().message()));
  return id.value_or("");
}

absl::Duration Scene::Await(const std::string& what, absl::Duration limit,
                            absl::FunctionRef<bool()> condition) {
  const absl::Time begin = absl::Now();
  const bool good = WaitUntil(limit, condition);
  const absl::Duration took = absl::Now() - begin;
  const std::string seconds = absl::StrFormat("%.1f s", absl::ToDoubleSeconds(took));
  if (good) Say(absl::StrCat(what, " (", seconds, ")"));
  Check(good, absl::StrCat("not within ", seconds, ": ", what));
  return took;
}

absl::Duration Scene::AwaitQuery(const std::string& what, const std::string& expression,
                                 absl::Duration limit) {
  absl::Time next = absl::InfinitePast();
  return Await(what, limit, [&] {
    if (absl::Now() < next) return false;
    next = absl::Now() + absl::Milliseconds(200);
    const auto series = prometheus_->Query(expression);
    return series.ok() && !series->empty();
  });
}

void Scene::AwaitAlerts(const std::string& fault, const std::set<std::string>& alerts,
                        const std::set<std::string>& also, const std::string& job_id) {
  const std::string job = job_id.empty() ? "" : absl::StrCat(",job_id=\"", job_id, "\"");
  for (const std::string& alert : alerts) {
    expected_.insert({alert, job_id});
    AwaitQuery(absl::StrCat(fault, " raises ", alert),
               absl::StrCat("ALERTS{alertstate=\"firing\",alertname=\"", alert, "\"", job, "}"),
               kAlertLimit);
  }
  for (const std::string& alert : also) allowed_.try_emplace({alert, job_id}, fault);
}

void Scene::AwaitCalm(const std::string& alert) {
  AwaitQuery(absl::StrCat(alert, " ends"),
             absl::StrCat("absent(ALERTS{alertstate=\"firing\",alertname=\"", alert, "\"})"));
}

void Scene::Allow(const std::string& alert, const std::string& reason) {
  allowed_.try_emplace({alert, ""}, reason);
}

absl::Status Scene::StartSecondWorker() {
  const std::string directory = second_dir_.Sub("worker");
  ASSIGN_OR_RETURN(
      second_worker_,
      Process::Start(
          {.argv = {Program("diffmoe-worker"), "--dir", directory, "--coordinator",
                    absl::StrCat("file:", cluster_.CoordinatorDir(), "/coordinator.json"),
                    "--slots", "1", "--metrics-listen", "127.0.0.1:0"},
           .environment = {},
           .working_dir = ""}));
  ASSIGN_OR_RETURN(
      const nlohmann::json ready,
      WaitForReadyFile(directory + "/worker.json", second_worker_->pid(), absl::Seconds(20)));
  second_metrics_ = ready.value("metrics_address", "");
  return absl::OkStatus();
}

void Scene::KillSecondWorker() {
  second_worker_->Signal(SIGKILL);
  (void)second_worker_->Wait(absl::Seconds(10));
  second_worker_.reset();
}

std::string Scene::TargetsFile(const std::vector<std::string>& addresses) const {
  return nlohmann::json::array({{{"targets", addresses}}}).dump();
}

void Scene::UpdateTargets() {
  const std::vector<std::string> all = Endpoints();
  prometheus_->Rewrite("coordinators.json", TargetsFile({all.front()}));
  prometheus_->Rewrite("workers.json", TargetsFile({all.begin() + 1, all.end()}));
}

}  // namespace diffmoe::test
