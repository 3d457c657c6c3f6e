// diffmoe-coordinator: the control plane of one cluster.
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <string>
#include <thread>

#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/log_setup.h"
#include "core/base/mutex_checks.h"
#include "core/base/version.h"
#include "server/checkpoints/store_maintenance.h"
#include "server/coordinator.h"

namespace diffmoe::server {
namespace {

// SIGTERM and SIGINT are taken by a thread of their own; the first one stops the coordinator, the
// second one ends the process at once (every acknowledged record is on disk already).
void BlockSignals(sigset_t* signals) {
  sigemptyset(signals);
  sigaddset(signals, SIGTERM);
  sigaddset(signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

// gRPC's own messages in the format of all others.
void RouteGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* args) {
    const bool error = args->severity == GPR_LOG_SEVERITY_ERROR;
    Log(error ? Severity::kWarning : Severity::kInfo, "grpc", args->message);
  });
}

int ExitCodeOfStart(const absl::Status& status) {
  // A wrong address is a wrong flag.
  return absl::IsInvalidArgument(status) ? kExitUsage : ExitCodeOf(status);
}

int Run(const CoordinatorOptions& options) {
  sigset_t signals;
  BlockSignals(&signals);
  RouteGrpcLog();
  std::atomic<bool> store_failed{false};
  auto coordinator = Coordinator::Start(options, [&store_failed](const absl::Status& status) {
    LogError("coordinator", "records can't be written any more; stopping",
             {{"error", status.ToString()}});
    store_failed = true;
    kill(getpid(), SIGTERM);
  });
  if (!coordinator.ok()) {
    LogError("coordinator", "can't start",
             {{"error", std::string(coordinator.status().message())}});
    return ExitCodeOfStart(coordinator.status());
  }
  int number = 0;
  sigwait(&signals, &number);
  LogInfo("coordinator", "stopping", {{"signal", number}});
  std::thread([signals] {
    int second = 0;
    sigwait(&signals, &second);
    LogWarning("coordinator", "second signal: ending at once");
    _exit(kExitInterrupted);
  }).detach();
  (*coordinator)->Stop();
  coordinator->reset();
  return store_failed ? kExitInternal : kExitOk;
}

int Restore(const std::string& backup, const std::string& data_dir) {
  const absl::StatusOr<BackupSummary> summary = RestoreBackup(backup, data_dir);
  if (!summary.ok()) {
    LogError("coordinator", "can't restore",
             {{"backup", backup}, {"error", std::string(summary.status().message())}});
    return ExitCodeOf(summary.status());
  }
  LogInfo("coordinator", "restored and verified",
          {{"backup", backup},
           {"data_dir", data_dir},
           {"commit", summary->commit},
           {"jobs", summary->jobs},
           {"checkpoints", summary->checkpoints},
           {"bytes", summary->bytes}});
  return kExitOk;
}

}  // namespace
}  // namespace diffmoe::server

int main(int argc, char** argv) {
  diffmoe::TurnOffMutexChecks();
  diffmoe::server::CoordinatorOptions options;
  std::string backup;
  CLI::App app("Control plane of a DiffMoE cluster: jobs, checkpoints, sampling.");
  app.set_version_flag("--version", diffmoe::kVersion);
  app.add_option("--data-dir", options.data_dir, "Directory of all state; one coordinator each")
      ->required();
  app.add_option("--listen", options.listen,
                 "HOST:PORT of the gRPC server; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--metrics-listen", options.metrics_listen,
                 "HOST:PORT of the web console, its HTTP API and GET /metrics; empty: none")
      ->capture_default_str();
  app.add_flag("--console-writes", options.console_writes,
               "Let the console and the HTTP API sample and cancel, pause and resume jobs");
  app.add_option("--sampling-slots", options.state.sampling_slots,
                 "Slots that jobs leave to samplers; 0: samplers take what jobs don't use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--max-samplers", options.state.max_samplers, "Samplers that run at a time")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--max-sample-requests", options.state.max_sample_requests,
                 "Sampling requests that wait; more are refused")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--max-sample-requests-per-user", options.state.max_sample_requests_per_user,
                 "Of them, those of one user")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_flag("--accept-data-loss", options.accept_data_loss,
               "Open damaged stores, once, and keep what is left of them");
  app.add_option("--restore-from", backup,
                 "Make an empty --data-dir of this backup, verify every byte of it, and end")
      ->type_name("DIR");
  app.add_option("--trace-file", options.trace_file,
                 "File for traces of calls and jobs, as OTLP JSON lines; empty: none");
  std::string log_format = "text";
  app.add_option("--log-format", log_format, "Form of log lines")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? diffmoe::kExitOk : diffmoe::kExitUsage;
  }
  diffmoe::LogFormat format = diffmoe::LogFormat::kText;
  diffmoe::ParseLogFormat(log_format, &format);
  diffmoe::SetLogFormat(format);
  if (!backup.empty()) return diffmoe::server::Restore(backup, options.data_dir);
  return diffmoe::server::Run(options);
}
