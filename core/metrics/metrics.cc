#include "core/metrics/metrics.h"

#include <algorithm>
#include <cctype>
#include <span>
#include <utility>
#include <vector>

namespace diffmoe::metrics {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return lower;
}

std::string_view Label(SampleOutcome outcome) {
  switch (outcome) {
    case SampleOutcome::kOk:
      return "ok";
    case SampleOutcome::kRefused:
      return "refused";
    case SampleOutcome::kFailed:
      return "failed";
    case SampleOutcome::kCancelled:
      return "cancelled";
    case SampleOutcome::kDeadline:
      return "deadline";
  }
  return "unknown";
}

std::string_view Label(RankExitCause cause) {
  switch (cause) {
    case RankExitCause::kDone:
      return "done";
    case RankExitCause::kStopped:
      return "stopped";
    case RankExitCause::kError:
      return "error";
    case RankExitCause::kSignal:
      return "signal";
    case RankExitCause::kExitCode:
      return "exit_code";
    case RankExitCause::kHang:
      return "hang";
    case RankExitCause::kOutOfMemory:
      return "out_of_memory";
    case RankExitCause::kSpawn:
      return "spawn";
  }
  return "unknown";
}

// So that alerts on an increase see the first event too: a series that begins at 1 has not risen.
void ShowZeros(CounterSeries& counters, std::span<const std::string_view> values) {
  for (const std::string_view value : values) counters.Add({value}, 0);
}

// Of v1.EndCause, those after which an attempt may begin again.
constexpr std::string_view kRestartCauses[] = {
    "error",     "exit_code", "hang",   "not_a_number", "out_of_memory", "peer_lost",
    "preempted", "resized",   "signal", "spawn",        "worker_lost",   "worker_stopped"};

// Of the service's own faults, and of success.
constexpr std::string_view kStoreCodes[] = {"ok",          "aborted",  "cancelled",
                                            "data_loss",   "internal", "resource_exhausted",
                                            "unavailable", "unknown"};

double Seconds(int64_t unix_ms) { return static_cast<double>(unix_ms) / 1000; }

}  // namespace

std::string_view CodeLabel(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return "ok";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kInvalidArgument:
      return "invalid_argument";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case absl::StatusCode::kNotFound:
      return "not_found";
    case absl::StatusCode::kAlreadyExists:
      return "already_exists";
    case absl::StatusCode::kPermissionDenied:
      return "permission_denied";
    case absl::StatusCode::kResourceExhausted:
      return "resource_exhausted";
    case absl::StatusCode::kFailedPrecondition:
      return "failed_precondition";
    case absl::StatusCode::kAborted:
      return "aborted";
    case absl::StatusCode::kOutOfRange:
      return "out_of_range";
    case absl::StatusCode::kUnimplemented:
      return "unimplemented";
    case absl::StatusCode::kInternal:
      return "internal";
    case absl::StatusCode::kUnavailable:
      return "unavailable";
    case absl::StatusCode::kDataLoss:
      return "data_loss";
    case absl::StatusCode::kUnauthenticated:
      return "unauthenticated";
    default:
      return "unknown";
  }
}

ClusterMetrics::ClusterMetrics(Registry& registry)
    : jobs_(registry),
      restarts_(registry.get(), kJobRestarts),
      workers_(registry.get(), kWorkers),
      slots_(registry.get(), kSlots),
      loop_time_(registry.get(), kLoopTime) {
  ShowZeros(restarts_, kRestartCauses);
}

void ClusterMetrics::SetJobs(const std::map<std::string, int64_t>& by_state, int64_t submitted) {
  std::vector<Ledger::Entry> entries;
  for (const auto& [state, jobs] : by_state) {
    entries.push_back({&kJobs, {Lower(state)}, static_cast<double>(jobs)});
  }
  entries.push_back({&kJobsSubmitted, {}, static_cast<double>(submitted)});
  jobs_.Publish(std::move(entries));
}
void ClusterMetrics::SetLoopTime(int64_t unix_ms) { loop_time_.Set(Seconds(unix_ms)); }
void ClusterMetrics::CountRestart(std::string_view cause) { restarts_.Add({std::string(cause)}); }
void ClusterMetrics::SetWorkers(int64_t connected, int64_t lost) {
  workers_.Set({"connected"}, static_cast<double>(connected));
  workers_.Set({"lost"}, static_cast<double>(lost));
}
void ClusterMetrics::SetSlots(int64_t busy, int64_t free) {
  slots_.Set({"busy"}, static_cast<double>(busy));
  slots_.Set({"free"}, static_cast<double>(free));
}

CheckpointMetrics::CheckpointMetrics(Registry& registry)
    : commits_(registry.get(), kCheckpointCommits),
      commit_duration_(registry.get(), kCheckpointCommitDuration),
      received_bytes_(registry.get(), kCheckpointReceivedBytes),
      read_bytes_(registry.get(), kCheckpointReadBytes),
      damaged_(registry.get(), kCheckpointDamaged),
      pending_(registry.get(), kCheckpointPending),
      last_step_(registry.get(), kCheckpointLastStep),
      last_time_(registry.get(), kCheckpointLastTime) {
  ShowZeros(commits_, kStoreCodes);
  damaged_.Add(0);
}

void CheckpointMetrics::CountReceived(int64_t bytes) {
  received_bytes_.Add(static_cast<double>(bytes));
}
void CheckpointMetrics::CountRead(int64_t bytes) { read_bytes_.Add(static_cast<double>(bytes)); }
void CheckpointMetrics::CountDamaged() { damaged_.Add(1); }
void CheckpointMetrics::SetPending(int64_t checkpoints) {
  pending_.Set(static_cast<double>(checkpoints));
}
void CheckpointMetrics::Committed(const std::string& job_id, int64_t step, int64_t unix_ms,
                                  double seconds) {
  commits_.Add({CodeLabel(absl::StatusCode::kOk)});
  commit_duration_.Observe(seconds);
  SetLast(job_id, step, unix_ms);
}
void CheckpointMetrics::GivenUp(absl::StatusCode code) { commits_.Add({CodeLabel(code)}); }
void CheckpointMetrics::SetLast(const std::string& job_id, int64_t step, int64_t unix_ms) {
  last_step_.Set({job_id}, static_cast<double>(step));
  last_time_.Set({job_id}, Seconds(unix_ms));
}
void CheckpointMetrics::Remove(const std::string& job_id) {
  last_step_.RemoveFirst(job_id);
  last_time_.RemoveFirst(job_id);
}

SampleMetrics::SampleMetrics(Registry& registry)
    : requests_(registry),
      images_(registry.get(), kSampleImages),
      queue_wait_(registry.get(), kSampleQueueWait),
      step_duration_(registry.get(), kSampleStepDuration),
      latency_(registry.get(), kSampleLatency) {
  SetInWork(0, 0);
}

void SampleMetrics::SetInWork(int64_t queued, int64_t running) {
  std::vector<Ledger::Entry> entries;
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < kSampleOutcomes; ++i) {
    entries.push_back({&kSampleRequests,
                       {std::string(Label(static_cast<SampleOutcome>(i)))},
                       static_cast<double>(ended_.at(i))});
  }
  entries.push_back({&kSampleSubmitted, {}, static_cast<double>(submitted_)});
  entries.push_back({&kSampleQueued, {}, static_cast<double>(queued)});
  entries.push_back({&kSampleRunning, {}, static_cast<double>(running)});
  requests_.Publish(std::move(entries));
}
void SampleMetrics::CountSubmitted() {
  std::lock_guard lock(mutex_);
  ++submitted_;
}
void SampleMetrics::ObserveQueueWait(double seconds) { queue_wait_.Observe(seconds); }
void SampleMetrics::ObserveStep(double seconds) { step_duration_.Observe(seconds); }
void SampleMetrics::CountImage() { images_.Add(1); }
void SampleMetrics::Ended(SampleOutcome outcome, double seconds) {
  {
    std::lock_guard lock(mutex_);
    ++ended_.at(static_cast<size_t>(outcome));
  }
  latency_.Observe(seconds);
}

RpcMetrics::RpcMetrics(Registry& registry)
    : requests_(registry.get(), kRpcRequests), duration_(registry.get(), kRpcDuration) {}
void RpcMetrics::Ended(std::string_view method, absl::StatusCode code, double seconds) {
  requests_.Add({method, CodeLabel(code)});
  duration_.Observe({method}, seconds);
}

StoreMetrics::StoreMetrics(Registry& registry)
    : commits_(registry.get(), kStoreCommits),
      commit_duration_(registry.get(), kStoreCommitDuration),
      records_(registry.get(), kStoreRecords),
      bytes_(registry.get(), kStoreBytes),
      disk_free_(registry.get(), kStoreDiskFree) {
  ShowZeros(commits_, kStoreCodes);
}
void StoreMetrics::Commit(absl::StatusCode code, int64_t records, double seconds) {
  commits_.Add({CodeLabel(code)});
  commit_duration_.Observe(seconds);
  if (code == absl::StatusCode::kOk) records_.Add(static_cast<double>(records));
}
void StoreMetrics::SetBytes(int64_t records_bytes, int64_t chunks_bytes) {
  bytes_.Set({"records"}, static_cast<double>(records_bytes));
  bytes_.Set({"chunks"}, static_cast<double>(chunks_bytes));
}
void StoreMetrics::SetDiskFree(int64_t bytes) { disk_free_.Set(static_cast<double>(bytes)); }

WorkerMetrics::WorkerMetrics(Registry& registry)
    : connected_(registry.get(), kWorkerConnected),
      reconnects_(registry.get(), kWorkerReconnects),
      slots_(registry.get(), kWorkerSlots),
      disk_free_(registry.get(), kWorkerDiskFree),
      rank_starts_(registry.get(), kWorkerRankStarts),
      rank_exits_(registry.get(), kWorkerRankExits),
      bulk_bytes_(registry.get(), kWorkerBulkBytes),
      log_lines_dropped_(registry.get(), kWorkerLogLinesDropped) {
  connected_.Set(0);
  reconnects_.Add(0);
  log_lines_dropped_.Add(0);
  for (const RankExitCause cause :
       {RankExitCause::kDone, RankExitCause::kStopped, RankExitCause::kError,
        RankExitCause::kSignal, RankExitCause::kExitCode, RankExitCause::kSpawn,
        RankExitCause::kHang, RankExitCause::kOutOfMemory}) {
    rank_exits_.Add({Label(cause)}, 0);
  }
}
void WorkerMetrics::SetConnected(bool connected) { connected_.Set(connected ? 1 : 0); }
void WorkerMetrics::CountReconnect() { reconnects_.Add(1); }
void WorkerMetrics::SetSlots(int64_t busy, int64_t free) {
  slots_.Set({"busy"}, static_cast<double>(busy));
  slots_.Set({"free"}, static_cast<double>(free));
}
void WorkerMetrics::SetDiskFree(int64_t bytes) { disk_free_.Set(static_cast<double>(bytes)); }
void WorkerMetrics::CountRankStart(bool sampler) {
  rank_starts_.Add({sampler ? "sample" : "train"});
}
void WorkerMetrics::CountRankExit(RankExitCause cause) { rank_exits_.Add({Label(cause)}); }
void WorkerMetrics::CountBulkSent(int64_t bytes) {
  bulk_bytes_.Add({"sent"}, static_cast<double>(bytes));
}
void WorkerMetrics::CountBulkReceived(int64_t bytes) {
  bulk_bytes_.Add({"received"}, static_cast<double>(bytes));
}
void WorkerMetrics::CountLogLinesDropped(int64_t lines) {
  log_lines_dropped_.Add(static_cast<double>(lines));
}

}  // namespace diffmoe::metrics
