#include "tests/observe/outcome.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/observe/queries.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

// Of the run, beside scrapes that Prometheus makes by itself.
constexpr int kMeasuredScrapes = 20;
// Scrapes closer than a tenth of a second share a text, which would hide what making one costs.
constexpr absl::Duration kBetweenScrapes = absl::Milliseconds(110);
// Most processor time of scrapes at the deployed interval, as a share of one core: no step may lose
// more.
constexpr double kDeployedIntervalSeconds = 5;
constexpr double kMostShare = 0.005;

struct Found {
  int series = 0;
  int64_t samples = 0;  // that are numbers
};

Found Count(const std::vector<RangeSeries>& all) {
  Found found;
  for (const RangeSeries& series : all) {
    int64_t numbers = 0;
    for (const auto& [time, value] : series.points) numbers += std::isnan(value) ? 0 : 1;
    found.samples += numbers;
    found.series += numbers > 0 ? 1 : 0;
  }
  return found;
}

// Seconds of user and system time of a process.
double ProcessorSeconds(pid_t pid) {
  const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(stat.rfind(')') + 2), ' ');
  double user = 0, system = 0;
  if (fields.size() < 13 || !absl::SimpleAtod(fields[11], &user) ||
      !absl::SimpleAtod(fields[12], &system)) {
    return NAN;
  }
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void CheckZero(Scene& scene, const std::string& what, const std::string& difference,
               absl::Time begin, absl::Time end) {
  const auto all = scene.prometheus().QueryRange(difference, begin, end);
  if (!all.ok()) return scene.Fail(std::string(all.status().message()));
  int64_t samples = 0, wrong = 0;
  for (const RangeSeries& series : *all) {
    for (const auto& [time, value] : series.points) {
      ++samples;
      if (value != 0) ++wrong;
    }
  }
  scene.Check(wrong == 0,
              absl::StrCat(what, ": ", wrong, " of ", samples, " scrapes don't add up"));
  scene.Check(samples > 0, absl::StrCat(what, ": no scrape"));
  scene.Say(absl::StrCat("conservation: ", what, ": ", samples, " seconds looked at, ", wrong,
                         " don't add up"));
}

}  // namespace

void CheckQueries(Scene& scene, absl::Time begin, absl::Time end) {
  std::vector<PanelQuery> all = DashboardQueries("10s");
  const size_t panels = all.size();
  for (PanelQuery& input : RuleInputs()) all.push_back(std::move(input));
  int empty = 0;
  std::printf("\n%-44s %7s %8s  %s\n", "PANEL OR RULE", "SERIES", "SAMPLES", "QUERY");
  for (const PanelQuery& asked : all) {
    const auto answer = scene.prometheus().QueryRange(asked.query, begin, end);
    const Found found = answer.ok() ? Count(*answer) : Found();
    std::printf("%-44s %7d %8lld  %s\n", asked.place.c_str(), found.series,
                static_cast<long long>(found.samples), asked.query.c_str());
    if (found.samples > 0) continue;
    ++empty;
    scene.Fail(
        absl::StrCat("no data: ", asked.place, ": ", asked.query, " ", answer.status().message()));
  }
  scene.Check(panels > 60, "too few queries of dashboards were found");
  std::printf("\n%zu queries of dashboards, %zu inputs of rules, %d empty\n", panels,
              all.size() - panels, empty);
}

void CheckAlerts(Scene& scene, absl::Time begin, absl::Time end) {
  const auto series = scene.prometheus().QueryRange("ALERTS{alertstate=\"firing\"}", begin, end);
  if (!series.ok()) return scene.Fail(std::string(series.status().message()));
  std::set<Scene::Alert> fired;
  for (const RangeSeries& one : *series) {
    const std::string name = one.labels.value("alertname", "");
    const std::string job = one.labels.value("job_id", "");
    fired.insert({name, job});
    if (!scene.expected_alerts().contains({name, job}) &&
        !scene.allowed_alerts().contains({name, job}) &&
        !scene.allowed_alerts().contains({name, ""})) {
      scene.Fail(absl::StrCat("unexpected alert: ", one.labels.dump()));
    }
  }
  // All of a name, in one line each.
  std::map<std::string, std::string> should, did;
  for (const auto& [name, job] : scene.expected_alerts()) {
    absl::StrAppend(&should[name], "yes ", job, " ");
    scene.Check(fired.contains({name, job}), absl::StrCat("never fired: ", name, " ", job));
  }
  for (const auto& [alert, why] : scene.allowed_alerts()) {
    absl::StrAppend(&should[alert.first], "may ", alert.second, " (", why, ") ");
  }
  for (const auto& [name, job] : fired) absl::StrAppend(&did[name], "yes ", job, " ");
  std::printf("\n%-28s %-26s %s\n", "ALERT", "FIRED", "SHOULD");
  for (const std::string& name : AlertNames()) {
    std::printf("%-28s %-26s %s\n", name.c_str(), did.contains(name) ? did[name].c_str() : "no",
                should.contains(name) ? should[name].c_str() : "no");
  }
}

void CheckConservation(Scene& scene, absl::Time begin, absl::Time end) {
  CheckZero(scene, "sampling requests",
            "sum by (instance) (diffmoe_sample_submitted_total) - sum by (instance) "
            "(diffmoe_sample_requests_total) - sum by (instance) (diffmoe_sample_queued) - sum by "
            "(instance) (diffmoe_sample_running)",
            begin, end);
  CheckZero(scene, "jobs",
            "sum by (instance) (diffmoe_jobs_submitted_total) - sum by (instance) (diffmoe_jobs)",
            begin, end);
}

void CheckEndpoints(Scene& scene, const std::string& promtool) {
  for (const std::string& address : scene.Endpoints()) {
    const auto reply = HttpGet(address, "/metrics");
    if (!reply.ok()) {
      scene.Fail(absl::StrCat(address, ": ", reply.status().message()));
      continue;
    }
    const auto complaint = CheckMetrics(promtool, reply->body);
    scene.Check(complaint.ok() && complaint->empty(),
                absl::StrCat("promtool check metrics of ", address, ": ",
                             complaint.ok() ? *complaint : complaint.status().message()));
    scene.Say(absl::StrCat("promtool check metrics of ", address, ": ",
                           std::vector<std::string>(absl::StrSplit(reply->body, '\n')).size(),
                           " lines, no finding"));
  }
}

void MeasureScrapes(Scene& scene) {
  struct Target {
    const char* name;
    pid_t pid;
    std::string address;
  };
  Cluster& cluster = scene.cluster();
  for (const Target& target :
       {Target{"coordinator", cluster.coordinator()->pid(), cluster.coordinator_metrics()},
        Target{"worker", cluster.worker()->pid(), cluster.worker_metrics()}}) {
    // What the process does anyway in that time.
    const double idle_before = ProcessorSeconds(target.pid);
    const absl::Time idle_end = absl::Now() + kMeasuredScrapes * kBetweenScrapes;
    WaitUntil(absl::Seconds(10), [&] { return absl::Now() >= idle_end; });
    const double anyway = ProcessorSeconds(target.pid) - idle_before;
    const absl::Time begin = absl::Now();
    const double before = ProcessorSeconds(target.pid);
    for (int i = 0; i < kMeasuredScrapes; ++i) {
      const absl::Time next = absl::Now() + kBetweenScrapes;
      scene.Check(HttpGet(target.address, "/metrics").ok(), "a scrape");
      WaitUntil(absl::Seconds(1), [&] { return absl::Now() >= next; });
    }
    const double with_scrapes = ProcessorSeconds(target.pid) - before;
    const absl::Duration took = absl::Now() - begin;
    const double share = (with_scrapes - anyway) / kMeasuredScrapes;
    scene.Say(absl::StrFormat(
        "cost: %d scrapes of the %s and all it did beside took %.2f s of processor time in %.2f s, "
        "without scrapes %.2f s: one a second costs %.3f %% of a core",
        kMeasuredScrapes, target.name, with_scrapes, absl::ToDoubleSeconds(took), anyway,
        100 * share));
    scene.Check(share / kDeployedIntervalSeconds <= kMostShare,
                absl::StrFormat("a scrape of the %s costs %.2f ms", target.name, 1000 * share));
  }
}

}  // namespace diffmoe::test
