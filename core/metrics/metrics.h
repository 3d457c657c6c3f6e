// Typed access to the families of catalogue.h, one class per concern. All methods are thread-safe
// and never fail. Label values are the lower-case names of the enums below, so that their set stays
// closed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/metrics/ledger.h"
#include "core/metrics/metrics_server.h"
#include "core/metrics/series.h"

namespace diffmoe::v1 {
class LayerStats;
class Progress;
class TrainingSpec;
}  // namespace diffmoe::v1

namespace diffmoe::metrics {

// diffmoe_train_* and diffmoe_moe_*. Served by the worker that hosts rank 0.
class TrainMetrics {
 public:
  explicit TrainMetrics(Registry& registry);
  // A report of rank 0. Samples are counted from one report to the next; a step that goes back
  // (restart) counts nothing.
  void Update(const std::string& job_id, const v1::Progress& progress,
              const v1::TrainingSpec& spec);
  // A rank has ended because the loss is not a finite number: diffmoe_train_loss says so until the
  // next report.
  void LossNotFinite(const std::string& job_id);
  // All series of the job go away. Call it when its group has ended.
  void Remove(const std::string& job_id);

 private:
  void UpdateLayer(const std::string& job_id, const v1::LayerStats& layer);
  // How far the thresholds moved since the last report; 0 at the first one.
  void UpdateDrift(const std::string& job_id, const v1::LayerStats& layer);
  GaugeSeries loss_, predictor_loss_, balance_loss_, grad_norm_, learning_rate_, step_,
      planned_steps_, step_duration_;
  CounterSeries samples_;
  GaugeSeries samples_per_second_, bad_files_, checkpoint_interval_, target_capacity_;
  GaugeSeries capacity_, expert_load_, dead_experts_, threshold_, threshold_drift_,
      predictor_accuracy_, zero_expert_tokens_, gate_entropy_, exchange_bytes_, exchange_calls_,
      exchange_rows_;
  std::mutex mutex_;
  std::map<std::string, int64_t> last_step_;  // by job; guarded by mutex_
  // By job and block; guarded by mutex_.
  std::map<std::string, std::map<int, std::vector<float>>> last_thresholds_;
};

// diffmoe_jobs, diffmoe_job_*, diffmoe_workers, diffmoe_slots.
class ClusterMetrics {
 public:
  explicit ClusterMetrics(Registry& registry);
  // by_state: by the name of a diffmoe.v1.JobState, any case; every state, those with 0 jobs too.
  // submitted: jobs that were ever accepted. A scrape sees both or neither.
  void SetJobs(const std::map<std::string, int64_t>& by_state, int64_t submitted);
  void SetLoopTime(int64_t unix_ms);
  // cause: of a diffmoe.v1.EndCause, in lower case without prefix.
  void CountRestart(std::string_view cause);
  void SetWorkers(int64_t connected, int64_t lost);
  void SetSlots(int64_t busy, int64_t free);

 private:
  Ledger jobs_;
  CounterSeries restarts_;
  GaugeSeries workers_, slots_, loop_time_;
};

// diffmoe_checkpoint_*. Kept by the bulk plane.
class CheckpointMetrics {
 public:
  explicit CheckpointMetrics(Registry& registry);
  void CountReceived(int64_t bytes);
  void CountRead(int64_t bytes);
  void CountDamaged();
  void SetPending(int64_t checkpoints);
  void Committed(const std::string& job_id, int64_t step, int64_t unix_ms, double seconds);
  void GivenUp(absl::StatusCode code);
  // After a restart of the coordinator, from the newest manifest.
  void SetLast(const std::string& job_id, int64_t step, int64_t unix_ms);
  void Remove(const std::string& job_id);

 private:
  CounterSeries commits_;
  HistogramSeries commit_duration_;
  CounterSeries received_bytes_, read_bytes_, damaged_;
  GaugeSeries pending_, last_step_, last_time_;
};

enum class SampleOutcome { kOk, kRefused, kFailed, kCancelled, kDeadline };
inline constexpr size_t kSampleOutcomes = 5;

// diffmoe_sample_*. Requests are counted when SetInWork is called, all at once, so that every
// scrape finds each of them at one place: ended, queued or running.
class SampleMetrics {
 public:
  explicit SampleMetrics(Registry& registry);
  // Shows what was counted since the call before.
  void SetInWork(int64_t queued, int64_t running);
  // A request has come; it is queued, running or ended at the next SetInWork.
  void CountSubmitted();
  void ObserveQueueWait(double seconds);
  void ObserveStep(double seconds);
  void CountImage();
  // A request has ended; latency from its acceptance.
  void Ended(SampleOutcome outcome, double seconds);

 private:
  Ledger requests_;
  CounterSeries images_;
  HistogramSeries queue_wait_, step_duration_, latency_;
  std::mutex mutex_;
  int64_t submitted_ = 0;                         // guarded by mutex_
  std::array<int64_t, kSampleOutcomes> ended_{};  // guarded by mutex_
};

// diffmoe_rpc_*.
class RpcMetrics {
 public:
  explicit RpcMetrics(Registry& registry);
  // method: "TrainingJobService/SubmitJob"; only names from the protos.
  void Ended(std::string_view method, absl::StatusCode code, double seconds);

 private:
  CounterSeries requests_;
  HistogramSeries duration_;
};

// diffmoe_store_*.
class StoreMetrics {
 public:
  explicit StoreMetrics(Registry& registry);
  void Commit(absl::StatusCode code, int64_t records, double seconds);
  void SetBytes(int64_t records_bytes, int64_t chunks_bytes);
  void SetDiskFree(int64_t bytes);

 private:
  CounterSeries commits_;
  HistogramSeries commit_duration_;
  CounterSeries records_;
  GaugeSeries bytes_, disk_free_;
};

// Mirrors worker.v1.ExitCause.
enum class RankExitCause {
  kDone,
  kStopped,
  kError,
  kSignal,
  kExitCode,
  kSpawn,
  kHang,
  kOutOfMemory
};

// diffmoe_worker_*. Served by each worker.
class WorkerMetrics {
 public:
  explicit WorkerMetrics(Registry& registry);
  void SetConnected(bool connected);
  void CountReconnect();
  void SetSlots(int64_t busy, int64_t free);
  void SetDiskFree(int64_t bytes);
  void CountRankStart(bool sampler);
  void CountRankExit(RankExitCause cause);
  void CountBulkSent(int64_t bytes);      // to the coordinator
  void CountBulkReceived(int64_t bytes);  // from the coordinator
  void CountLogLinesDropped(int64_t lines);

 private:
  GaugeSeries connected_;
  CounterSeries reconnects_;
  GaugeSeries slots_;
  GaugeSeries disk_free_;
  CounterSeries rank_starts_, rank_exits_, bulk_bytes_, log_lines_dropped_;
};

// "invalid_argument" for kInvalidArgument: the label value of a status code.
std::string_view CodeLabel(absl::StatusCode code);

}  // namespace diffmoe::metrics
