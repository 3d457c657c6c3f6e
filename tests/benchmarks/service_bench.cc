// The sampling service as its users see it, through the real programs: how long a request takes
// when the model costs nothing, beside a plain unary call, and what is left of the throughput when
// three times too many requests come.
#include <sys/types.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

struct Options {
  double seconds = 60;
  std::string job = DIFFMOE_SOURCE_DIR "/deploy/jobs/fashion-demo.yaml";
};

// Resident bytes of a process; 0 when it is gone.
int64_t ResidentBytes(pid_t pid) {
  const std::string status = test::ReadFile(absl::StrCat("/proc/", pid, "/status"));
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(status, '\n'))) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar("\t "), absl::SkipEmpty());
    int64_t kib = 0;
    if (words.size() > 1 && words[0] == "VmRSS:" && absl::SimpleAtoi(words[1], &kib))
      return kib * 1024;
  }
  return 0;
}

absl::StatusOr<nlohmann::json> Load(test::Cluster& cluster, const std::string& job,
                                    std::vector<std::string> flags, double seconds) {
  std::vector<std::string> arguments{"bench", "sample", "--job",     job,
                                     "--n",   "1",      "--seconds", absl::StrCat(seconds)};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return cluster.CliJson(arguments, absl::Seconds(seconds + 60));
}

absl::Status RoundTrip(const std::string& data_dir, const std::string& job, double seconds) {
  test::ClusterOptions options;
  options.slots = 1;
  options.data_dir = data_dir;
  options.worker_flags = {"--rank-binary", test::Program("diffmoe-null-rank")};
  test::Cluster cluster(options);
  RETURN_IF_ERROR(cluster.Start());
  RETURN_IF_ERROR(Load(cluster, job, {"--closed", "1", "--steps", "1"}, 1).status());
  ASSIGN_OR_RETURN(const nlohmann::json report,
                   Load(cluster, job, {"--closed", "1", "--steps", "1"}, seconds));
  const double unary = report["unary_call"]["p50_ms"], request = report["latency"]["p50_ms"];
  absl::PrintF("null model: %d requests, p50 %.3f ms, unary call p50 %.3f ms, ratio %.2f\n",
               report["latency"]["count"].get<int>(), request, unary, request / unary);
  return absl::OkStatus();
}

absl::Status Overload(test::Cluster& cluster, const std::string& job, double seconds) {
  const std::vector<std::string> common{"--steps", "20", "--deadline", "2s"};
  std::vector<std::string> flags = common;
  flags.insert(flags.end(), {"--closed", "16"});
  ASSIGN_OR_RETURN(const nlohmann::json peak, Load(cluster, job, flags, std::min(seconds, 15.0)));
  const double most = peak["goodput_requests_per_second"];
  const int64_t before = ResidentBytes(cluster.coordinator()->pid());
  flags = common;
  flags.insert(flags.end(), {"--rate", absl::StrCat(std::max(1.0, 3 * most))});
  ASSIGN_OR_RETURN(const nlohmann::json report, Load(cluster, job, flags, seconds));
  const int64_t after = ResidentBytes(cluster.coordinator()->pid());
  const double goodput = report["goodput_requests_per_second"];
  absl::PrintF("overload: peak %.1f requests/s; at 3 x that for %.0f s %.1f, ratio %.2f\n", most,
               seconds, goodput, goodput / std::max(most, 1e-9));
  absl::PrintF("overload: outcomes %s, refusals p99 %.2f ms, coordinator %+.1f MB\n",
               report["outcomes"].dump(), report["refusal"]["p99_ms"].get<double>(),
               static_cast<double>(after - before) / 1e6);
  absl::PrintF(
      "overload: %d successes after their deadline as the client saw it, by %.1f ms at most\n",
      report["successes_after_deadline"].get<int>(), report["most_late_ms"].get<double>());
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  const test::TempDir dir;
  std::string job;
  {
    test::ClusterOptions real;
    real.data_dir = dir.path();
    real.slots = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    test::Cluster cluster(real);
    RETURN_IF_ERROR(cluster.Start());
    ASSIGN_OR_RETURN(const nlohmann::json submitted,
                     cluster.CliJson({"submit", options.job, "--set", "train.steps=2", "--set",
                                      "checkpoint.every_steps=2", "--set", "parallel.ranks=1"}));
    job = submitted["id"];
    ASSIGN_OR_RETURN(const test::RunResult watched, cluster.Cli({"watch", job}, absl::Minutes(5)));
    if (watched.exit != test::ExitState{0, 0}) return absl::InternalError(watched.err);
    RETURN_IF_ERROR(Overload(cluster, job, options.seconds));
  }
  return RoundTrip(dir.path(), job, std::min(options.seconds, 5.0));
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) {
  diffmoe::Options options;
  CLI::App app("The sampling service: round trip with a null model, overload.");
  app.add_option("--seconds", options.seconds, "Length of the overload")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--job", options.job, "Job that is trained and sampled")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = diffmoe::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "service bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
