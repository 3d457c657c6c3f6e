// Writes checkpoints behind the training loop: Save copies the state (the only stall) and a thread
// sends it.
//
// At most one checkpoint is on its way: all ranks ask busy() and agree to leave one out that is due
// meanwhile (train_role.cc), since a checkpoint needs the shards of all. One that fails is logged
// and dropped, training goes on; SaveDurably repeats until it is durable. Destroying the writer
// waits for what is on its way. Used by one thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "core/train/train_engine.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/rank_trace.h"

namespace diffmoe {

class CheckpointWriter {
 public:
  // link and the tracer outlive the writer.
  explicit CheckpointWriter(RankLink& link, const RankTrace& trace = {})
      : link_(link), trace_(trace) {}
  ~CheckpointWriter();

  // Takes the memory for the copy and touches its pages, which would otherwise make the first copy
  // several times slower. Throws std::bad_alloc.
  void Prepare(const std::vector<StateRun>& runs);
  // A checkpoint is on its way.
  bool busy() const { return busy_; }
  // summary: rank 0 only. Waits while busy().
  void Save(int64_t step, const std::vector<StateRun>& runs,
            std::optional<CheckpointSummaryData> summary);
  // As Save, but returns only when the checkpoint is durable. A step whose Save was the last one is
  // not sent again unless that failed. Errors: ABORTED, the attempt was replaced; CANCELLED, asked
  // to stop at once.
  absl::Status SaveDurably(int64_t step, const std::vector<StateRun>& runs,
                           const std::optional<CheckpointSummaryData>& summary);

  // True when this attempt has been replaced: the rank should stop.
  bool fenced() const { return fenced_; }

  // Copies the state into the buffer. Public for the benchmark.
  void Stage(const std::vector<StateRun>& runs);

 private:
  void Join();

  // One try, with its span.
  absl::Status Send(int64_t step, const std::optional<CheckpointSummaryData>& summary);

  RankLink& link_;
  const RankTrace trace_;
  std::unique_ptr<char[]> staging_;
  size_t staging_bytes_ = 0;
  std::vector<TensorRun> staged_;
  int64_t staged_step_ = -1;
  std::thread sender_;
  absl::Status sent_;  // of staged_step_, after Join
  std::atomic<bool> fenced_ = false, busy_ = false;
};

}  // namespace diffmoe
