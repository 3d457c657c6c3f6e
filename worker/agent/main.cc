// diffmoe-worker: see agent.h. Exit codes: core/base/exit_code.h.
#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/log_setup.h"
#include "core/base/mutex_checks.h"
#include "core/base/version.h"
#include "worker/agent/agent.h"

namespace {

int UsableCores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

bool IsDevice(const std::string& text) {
  if (text == "cpu") return true;
  return text.size() > 5 && text.size() <= 8 && text.rfind("cuda:", 0) == 0 &&
         std::all_of(text.begin() + 5, text.end(), absl::ascii_isdigit);
}

std::string CheckDevices(const std::string& list) {
  for (const std::string& device : std::vector<std::string>(absl::StrSplit(list, ','))) {
    if (!IsDevice(device)) return "expected cpu or cuda:N, got '" + device + "'";
  }
  return "";
}

std::string CheckCoordinator(const std::string& text) {
  if (text.rfind("file:", 0) == 0 && text.size() > 5) return "";
  const size_t colon = text.rfind(':');
  const bool port = colon != std::string::npos && colon > 0 && colon + 1 < text.size() &&
                    std::all_of(text.begin() + static_cast<std::ptrdiff_t>(colon) + 1, text.end(),
                                absl::ascii_isdigit);
  return port ? "" : "expected HOST:PORT or file:PATH, got '" + text + "'";
}

std::string RankBinaryBeside() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "diffmoe-rank" : (self.parent_path() / "diffmoe-rank").string();
}

}  // namespace

int main(int argc, char** argv) {
  diffmoe::TurnOffMutexChecks();
  diffmoe::BlockAgentSignals();
  diffmoe::AgentOptions options;
  options.rank_binary = RankBinaryBeside();
  int slots = UsableCores();
  std::string devices;

  CLI::App app{"Runs training and sampling ranks on this machine for a DiffMoE coordinator."};
  app.set_version_flag("--version", std::string(diffmoe::kVersion));
  app.add_option("--dir", options.directory, "Directory of this worker: identity, socket, logs")
      ->required();
  app.add_option("--coordinator", options.coordinator,
                 "HOST:PORT, or file:PATH of the coordinator.json that names it")
      ->required()
      ->check(CheckCoordinator);
  auto* slots_option = app.add_option("--slots", slots, "Number of CPU slots (default: cores)")
                           ->check(CLI::Range(1, 1024));
  app.add_option("--devices", devices, "Device of each slot, for example cuda:0,cuda:1")
      ->check(CheckDevices)
      ->excludes(slots_option);
  app.add_option("--metrics-listen", options.metrics_listen, "HOST:PORT of /metrics; port 0: any")
      ->capture_default_str();
  app.add_option(
         "--rank-address", options.rank_address,
         "Address of this host for ranks of other hosts; the default reaches this host only")
      ->capture_default_str();
  double keep_series_seconds = absl::ToDoubleSeconds(options.keep_series);
  app.add_option("--keep-series", keep_series_seconds,
                 "Seconds that the metrics of a job stay after its end")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--rank-binary", options.rank_binary, "Program that runs a rank")
      ->capture_default_str();
  app.add_option("--trace-file", options.trace_file,
                 "File for traces of the ranks, as OTLP JSON lines; empty: none");
  std::string log_format = "text";
  app.add_option("--log-format", log_format, "Form of log lines, here and in the ranks")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? diffmoe::kExitOk : diffmoe::kExitUsage;
  }
  diffmoe::ParseLogFormat(log_format, &options.log_format);
  diffmoe::SetLogFormat(options.log_format);
  options.keep_series = absl::Seconds(keep_series_seconds);
  if (devices.empty()) {
    options.slot_devices.assign(static_cast<size_t>(slots), "cpu");
  } else {
    options.slot_devices = absl::StrSplit(devices, ',');
  }

  const absl::Status status = diffmoe::RunAgent(options);
  if (!status.ok()) {
    diffmoe::LogError("worker", "cannot go on", {{"error", std::string(status.message())}});
  }
  return diffmoe::ExitCodeOf(status);
}
