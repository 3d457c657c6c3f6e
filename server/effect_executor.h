// Carries effects out: answers RPCs, writes to workers, samplers and watchers, ends groups, counts.
// Loop thread only.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"
#include "server/api/call_traces.h"
#include "server/api/log_reads.h"
#include "server/api/sample_streams.h"
#include "server/api/sampler_plane_service.h"
#include "server/api/watch_hub.h"
#include "server/api/worker_plane_service.h"
#include "server/call_table.h"
#include "server/checkpoint_deleter.h"
#include "server/checkpoints/bulk_plane_service.h"
#include "server/group_table.h"
#include "server/loop.h"

namespace diffmoe::server {

// All must outlive the executor's last use.
struct ExecutorParts {
  const Clock* clock = nullptr;
  std::string data_dir;
  const RecordStore* records = nullptr;
  const ChunkStore* chunks = nullptr;
  CallTable* calls = nullptr;
  GroupTable* groups = nullptr;
  WatchHub* hub = nullptr;
  LogReads* logs = nullptr;
  CallTraces* traces = nullptr;
  SampleStreams* samples = nullptr;
  CalibrationStreams* calibrations = nullptr;
  WorkerPlaneService* workers = nullptr;
  SamplerPlaneService* samplers = nullptr;
  BulkPlaneService* bulk = nullptr;
  CheckpointDeleter* deleter = nullptr;
  metrics::ClusterMetrics* cluster_metrics = nullptr;
  metrics::SampleMetrics* sample_metrics = nullptr;
  metrics::StoreMetrics* store_metrics = nullptr;
  metrics::CheckpointMetrics* checkpoint_metrics = nullptr;
};

// How far a sampling call was when it last said so.
struct SampleStepMark {
  int step = 0;
  int64_t time_ms = 0;  // monotonic
};

class LoopEffectExecutor final : public EffectExecutor {
 public:
  // Call it before the loop starts.
  void SetParts(const ExecutorParts& parts) { parts_ = parts; }

  void Execute(Effect effect) override;
  void BatchDone(const State& state) override;
  void Committed(absl::StatusCode code, int64_t records, double seconds) override;

 private:
  void ShowJobs(const State& state);
  void ShowStore();
  void ForgetEndedJobs(const State& state, int64_t now_ms);

  ExecutorParts parts_;
  std::map<std::string, int64_t> ended_;             // jobs whose series go away, and when
  std::map<uint64_t, SampleStepMark> sample_steps_;  // by call, until it ends
  int64_t next_gauges_ms_ = 0;
  int64_t next_store_size_ms_ = 0;
};

}  // namespace diffmoe::server
