#include "tests/support/cluster.h"

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(20);

void Append(std::vector<std::string>* to, const std::vector<std::string>& from) {
  to->insert(to->end(), from.begin(), from.end());
}

// Adds what the process said to an error of its start.
absl::Status Explain(const absl::Status& status, Process& process) {
  return absl::Status(status.code(), absl::StrCat(status.message(), "; stdout:\n", process.Out(),
                                                  "\nstderr:\n", process.Err()));
}

}  // namespace

std::string Program(const std::string& name) { return absl::StrCat(DIFFMOE_BIN_DIR, "/", name); }

absl::StatusOr<nlohmann::json> WaitForReadyFile(const std::string& path, pid_t pid,
                                                absl::Duration limit,
                                                absl::FunctionRef<bool()> running) {
  nlohmann::json content;
  bool ready = false;
  WaitUntil(limit, [&] {
    std::ifstream file(path);
    content = nlohmann::json::parse(file, nullptr, false);
    ready = content.is_object() && content.contains("pid") && content["pid"] == pid;
    return ready || !running();
  });
  if (!ready) {
    return absl::DeadlineExceededError(absl::StrCat("no ready file of process ", pid, " at ", path,
                                                    " after ", absl::FormatDuration(limit)));
  }
  return content;
}

Cluster::Cluster(ClusterOptions options)
    : options_(std::move(options)),
      dir_(options_.data_dir.empty() ? temp_dir_.path() : options_.data_dir) {}

Cluster::~Cluster() = default;

absl::Status Cluster::Start() {
  RETURN_IF_ERROR(StartCoordinator());
  return StartWorker();
}

absl::Status Cluster::StartCoordinator() {
  ProcessOptions process{.argv = {Program("diffmoe-coordinator"), "--data-dir", CoordinatorDir(),
                                  "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"},
                         .environment = options_.coordinator_environment,
                         .working_dir = ""};
  Append(&process.argv, options_.coordinator_flags);
  std::error_code ignored;
  std::filesystem::create_directories(CoordinatorDir(), ignored);
  ASSIGN_OR_RETURN(coordinator_, Process::Start(process));
  return ReadCoordinatorAddresses(coordinator_->pid());
}

absl::Status Cluster::StartWorker() {
  ProcessOptions process{
      .argv = {Program("diffmoe-worker"), "--dir", WorkerDir(), "--coordinator",
               worker_coordinator_.empty()
                   ? absl::StrCat("file:", CoordinatorDir(), "/coordinator.json")
                   : worker_coordinator_,
               "--slots", absl::StrCat(options_.slots), "--metrics-listen", "127.0.0.1:0"},
      .environment = {},
      .working_dir = ""};
  Append(&process.argv, options_.worker_flags);
  std::error_code ignored;
  std::filesystem::create_directories(WorkerDir(), ignored);
  ASSIGN_OR_RETURN(worker_, Process::Start(process));
  return ReadWorkerAddresses(worker_->pid());
}

absl::Status Cluster::StartUp() {
  ASSIGN_OR_RETURN(up_,
                   Process::Start({.argv = {Program("diffmoe"), "up", "--data-dir", dir_, "--slots",
                                            absl::StrCat(options_.slots), "--listen", "127.0.0.1:0",
                                            "--metrics-listen", "127.0.0.1:0"},
                                   .environment = {},
                                   .working_dir = ""}));
  // The ready files hold the pids of grandchildren: an old file is one whose process is gone.
  const auto fresh = [](const std::string& path, nlohmann::json* content) {
    std::ifstream file(path);
    *content = nlohmann::json::parse(file, nullptr, false);
    return content->is_object() && kill(content->value("pid", 0), 0) == 0;
  };
  nlohmann::json coordinator, worker;
  if (!WaitUntil(kStartLimit, [&] {
        return fresh(CoordinatorDir() + "/coordinator.json", &coordinator) &&
               fresh(WorkerDir() + "/worker.json", &worker);
      })) {
    return Explain(absl::DeadlineExceededError("diffmoe up isn't ready"), *up_);
  }
  grpc_address_ = coordinator.value("grpc_address", "");
  coordinator_metrics_ = coordinator.value("metrics_address", "");
  worker_metrics_ = worker.value("metrics_address", "");
  return absl::OkStatus();
}

absl::Status Cluster::ReadCoordinatorAddresses(pid_t pid) {
  const absl::StatusOr<nlohmann::json> ready =
      WaitForReadyFile(CoordinatorDir() + "/coordinator.json", pid, kStartLimit,
                       [this] { return coordinator_->Running(); });
  if (!ready.ok()) return Explain(ready.status(), *coordinator_);
  grpc_address_ = ready->value("grpc_address", "");
  coordinator_metrics_ = ready->value("metrics_address", "");
  return absl::OkStatus();
}

absl::Status Cluster::ReadWorkerAddresses(pid_t pid) {
  const absl::StatusOr<nlohmann::json> ready = WaitForReadyFile(
      WorkerDir() + "/worker.json", pid, kStartLimit, [this] { return worker_->Running(); });
  if (!ready.ok()) return Explain(ready.status(), *worker_);
  worker_metrics_ = ready->value("metrics_address", "");
  return absl::OkStatus();
}

void Cluster::KillCoordinator() {
  coordinator_->Signal(SIGKILL);
  (void)coordinator_->Wait(kStartLimit);
}

void Cluster::KillWorker() {
  worker_->Signal(SIGKILL);
  (void)worker_->Wait(kStartLimit);
}

ProcessOptions Cluster::CliOptions(const std::vector<std::string>& arguments) const {
  ProcessOptions process;
  process.argv.push_back(Program("diffmoe"));
  Append(&process.argv, arguments);
  process.environment = {{"DIFFMOE_SERVER", grpc_address_}};
  return process;
}

absl::StatusOr<RunResult> Cluster::Cli(const std::vector<std::string>& arguments,
                                       absl::Duration limit) {
  return RunProcess(CliOptions(arguments), limit);
}

absl::StatusOr<std::unique_ptr<Process>> Cluster::StartCli(
    const std::vector<std::string>& arguments) {
  return Process::Start(CliOptions(arguments));
}

absl::StatusOr<nlohmann::json> Cluster::CliJson(std::vector<std::string> arguments,
                                                absl::Duration limit) {
  arguments.insert(arguments.end(), {"-o", "json"});
  const std::string command = absl::StrJoin(arguments, " ");
  ASSIGN_OR_RETURN(const RunResult result, Cli(arguments, limit));
  nlohmann::json value = nlohmann::json::parse(result.out, nullptr, false);
  if (result.exit != ExitState{0, 0} || value.is_discarded()) {
    return absl::InternalError(absl::StrCat("diffmoe ", command, ": exit code ",
                                            result.exit.exit_code, ", signal ", result.exit.signal,
                                            "; stdout:\n", result.out, "\nstderr:\n", result.err));
  }
  return value;
}

}  // namespace diffmoe::test
