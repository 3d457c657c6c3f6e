// diffmoe-rank: one process per slot of an attempt. Started by diffmoe-worker, never by hand.
#include <ATen/Parallel.h>
#include <malloc.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/base/crash_report.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/log_setup.h"
#include "core/base/mutex_checks.h"
#include "core/base/status_macros.h"
#include "core/kernels/cuda_plugin.h"
#include "worker/error_boundary.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/rank_trace.h"
#include "worker/rank/sample_role.h"
#include "worker/rank/train_role.h"

namespace diffmoe {
namespace {

constexpr int kNice = 5;

// Freed activations stay in the heap: mapping them anew in every step costs a fifth of a MoE
// layer's time.
void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
}

// What keeps the cluster answering needs little time, but at once: ranks, which take all there is,
// make room for it.
void GiveWayToServices() {
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) {
    LogWarning("rank", "the priority stays", {{"error", std::strerror(errno)}});
  }
}

// Loads the CUDA plugin and takes the device of a rank that was given a GPU.
absl::Status PrepareDevice(const std::string& device) {
  if (device == "cpu") return absl::OkStatus();
  ASSIGN_OR_RETURN(const int index, ParseCudaDevice(device));
  ASSIGN_OR_RETURN(const std::unique_ptr<CudaPlugin> plugin, CudaPlugin::Load());
  RETURN_IF_ERROR(plugin->SelectDevice(index));
  return absl::FailedPreconditionError(
      "this version trains and samples on CPU slots only: set parallel.device to cpu");
}

absl::Status RunRole(RankLink& link, int64_t* step, const RankTrace& trace) {
  RETURN_IF_ERROR(PrepareDevice(link.assignment().device));
  return link.assignment().role == RankRole::kTrain ? RunTrainRole(link, step, trace)
                                                    : RunSampleRole(link, trace);
}

// Null without a file, or when it can't be used: work goes on without traces.
std::unique_ptr<Tracer> OpenTracer(const std::string& path, const std::string& group, int64_t epoch,
                                   int rank) {
  if (path.empty()) return nullptr;
  auto tracer = Tracer::Open(
      {.path = path,
       .service = "diffmoe-rank",
       .resource = {{"diffmoe.group", group},
                    {"diffmoe.epoch", epoch},
                    {"diffmoe.rank", int64_t{rank}}}},
      [engine = std::mt19937_64(std::random_device()())]() mutable { return engine(); });
  if (tracer.ok()) return *std::move(tracer);
  LogWarning("rank", "no traces are written", {{"error", tracer.status().message()}});
  return nullptr;
}

int Main(int argc, char** argv) {
  CLI::App app{"One rank of a DiffMoE job. Started by diffmoe-worker."};
  std::string socket_path, group;
  int64_t epoch = 0;
  int rank = 0;
  app.add_option("--socket", socket_path, "Unix socket of the worker")->required();
  app.add_option("--group", group, "Job or sampler id")->required();
  app.add_option("--epoch", epoch, "Attempt")->required();
  app.add_option("--rank", rank, "Rank in the group")->required();
  std::string log_format = "text", trace_file, traceparent;
  app.add_option("--trace-file", trace_file, "File for traces, as OTLP JSON lines");
  app.add_option("--traceparent", traceparent, "The trace that the work belongs to");
  app.add_option("--log-format", log_format, "Form of log lines")
      ->check(CLI::IsMember({"text", "json"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  LogFormat format = LogFormat::kText;
  ParseLogFormat(log_format, &format);
  SetLogFormat(format);
  SetLogContext({{"group", group}, {"epoch", epoch}, {"rank", rank}});
  KeepFreedMemory();
  GiveWayToServices();
  at::set_num_threads(1);

  InstallCrashReport(absl::StrCat("rank ", rank, " of ", group, " epoch ", epoch), nullptr);
  auto link = RankLink::Connect(socket_path, group, epoch, rank);
  if (!link.ok()) {
    LogError("rank", "no connection to the worker",
             {{"socket", socket_path}, {"error", link.status().message()}});
    return ExitCodeOf(link.status());
  }
  const bool trains = (*link)->assignment().role == RankRole::kTrain;
  SetLogContext({{trains ? "job" : "sampler", group}, {"epoch", epoch}, {"rank", rank}});
  InstallCrashReport(absl::StrCat("rank ", rank, " of ", group, " epoch ", epoch),
                     &(*link)->activity());
  // It goes with the link.
  const auto forget = absl::MakeCleanup([] { ForgetActivity(); });
  const std::unique_ptr<Tracer> tracer = OpenTracer(trace_file, group, epoch, rank);
  int64_t step = (*link)->assignment().restore_step;
  absl::Status status = CatchErrors([&] {
    return RunRole(**link, &step, {tracer.get(), ParseTraceparent(traceparent)});
  });
  // A peer that was stopped with this rank looks like a lost peer.
  if ((*link)->stop_requested() && !status.ok()) status = absl::CancelledError("asked to stop");
  if (status.ok()) {
    (*link)->SayDone(step);
    return kExitOk;
  }
  const bool asked = (*link)->stop_requested() || (*link)->save_requested();
  if (absl::IsCancelled(status) && asked) return kExitOk;
  LogError("rank", "ended with an error", {{"step", step}, {"error", status.message()}});
  (*link)->SayFailure(status, step);
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) {
  diffmoe::TurnOffMutexChecks();
  const int code = diffmoe::Main(argc, argv);
  // Skip destructors of libraries that still own threads.
  std::fflush(nullptr);
  std::_Exit(code);
}
