#include "tests/crash/crash_cluster.h"

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(60);
constexpr size_t kLastWordsBytes = 2000;

std::vector<std::pair<std::string, std::string>> EnvironmentOf(const Armed& armed) {
  return {{"DIFFMOE_KILL_POINT",
           armed.point.empty() ? "" : absl::StrCat(armed.point, ":", armed.visit)}};
}

absl::StatusOr<std::unique_ptr<Process>> Launch(std::vector<std::string> argv,
                                                const std::string& directory, const Armed& armed) {
  std::error_code ignored;
  std::filesystem::create_directories(directory, ignored);
  return Process::Start(
      {.argv = std::move(argv), .environment = EnvironmentOf(armed), .working_dir = ""});
}

nlohmann::json ReadyFile(const std::string& path, pid_t pid) {
  std::ifstream file(path);
  nlohmann::json content = nlohmann::json::parse(file, nullptr, false);
  return content.is_object() && content.value("pid", 0) == pid ? content : nlohmann::json();
}

void Kill(Process* process) {
  if (process == nullptr) return;
  process->Signal(SIGKILL);
  process->Wait(kStartLimit).status().IgnoreError();
}

absl::Status Await(Process& process, const std::string& what, absl::FunctionRef<bool()> condition) {
  bool ready = false;
  WaitUntil(kStartLimit, [&] {
    ready = condition();
    return ready || !process.Running();
  });
  if (ready) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(what, " did not become ready; its last words:\n", LastWords(process)));
}

}  // namespace

absl::Status CrashCluster::LaunchCoordinator(const Armed& armed,
                                             const std::vector<std::string>& flags) {
  KillCoordinator();
  std::vector<std::string> argv = {Program("diffmoe-coordinator-crash"),
                                   "--data-dir",
                                   CoordinatorDir(),
                                   "--listen",
                                   "127.0.0.1:0",
                                   "--metrics-listen",
                                   ""};
  argv.insert(argv.end(), flags.begin(), flags.end());
  ASSIGN_OR_RETURN(coordinator_, Launch(std::move(argv), CoordinatorDir(), armed));
  return absl::OkStatus();
}

absl::Status CrashCluster::LaunchWorker(const Armed& armed) {
  KillWorker();
  ASSIGN_OR_RETURN(
      worker_, Launch({Program("diffmoe-worker-crash"), "--dir", WorkerDir(), "--coordinator",
                       absl::StrCat("file:", CoordinatorDir(), "/coordinator.json"), "--slots", "3",
                       "--metrics-listen", "127.0.0.1:0"},
                      WorkerDir(), armed));
  return absl::OkStatus();
}

absl::Status CrashCluster::StartCoordinator(const std::vector<std::string>& flags) {
  RETURN_IF_ERROR(LaunchCoordinator({}, flags));
  return Await(*coordinator_, "the coordinator", [this] { return CoordinatorReady(); });
}

absl::Status CrashCluster::StartWorker() {
  RETURN_IF_ERROR(LaunchWorker({}));
  return Await(*worker_, "the worker", [this] {
    return ReadyFile(WorkerDir() + "/worker.json", worker_->pid()).is_object();
  });
}

bool CrashCluster::CoordinatorReady() {
  if (coordinator_ == nullptr) return false;
  if (connected_pid_ == coordinator_->pid()) return true;
  const nlohmann::json ready =
      ReadyFile(CoordinatorDir() + "/coordinator.json", coordinator_->pid());
  if (!ready.is_object()) return false;
  channel_ =
      grpc::CreateChannel(ready.value("grpc_address", ""), grpc::InsecureChannelCredentials());
  jobs_ = v1::TrainingJobService::NewStub(channel_);
  checkpoints_ = v1::CheckpointService::NewStub(channel_);
  sampling_ = v1::SamplingService::NewStub(channel_);
  cluster_ = v1::ClusterService::NewStub(channel_);
  connected_pid_ = coordinator_->pid();
  return true;
}

void CrashCluster::KillCoordinator() { Kill(coordinator_.get()); }
void CrashCluster::KillWorker() { Kill(worker_.get()); }

bool EndedAt(Process& process, const std::string& point) {
  if (process.Running()) return false;
  const auto exit = process.Wait(kStartLimit);
  return exit.ok() && exit->signal == SIGKILL &&
         process.Err().find(absl::StrCat("kill point ", point, "\n")) != std::string::npos;
}

std::string LastWords(const Process& process) {
  const std::string text = process.Err();
  return text.size() <= kLastWordsBytes ? text : text.substr(text.size() - kLastWordsBytes);
}

}  // namespace diffmoe::test
