// Writes checkpoints behind the training loop: Save copies the state (the only stall) and a thread
// sends it.
//
// At most one checkpoint is on its way; the next Save waits for it. A failed one is logged and
// dropped, training goes on; the last one is repeated until it is durable. Destroying the writer
// waits for what is on its way. Used by one thread.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "core/train/train_engine.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

class CheckpointWriter {
 public:
  explicit CheckpointWriter(RankLink& link) : link_(link) {}
  ~CheckpointWriter();

  // summary: rank 0 only.
  void Save(int64_t step, const std::vector<StateRun>& runs,
            std::optional<CheckpointSummaryData> summary);
  // As Save, but returns only when the checkpoint is durable. ABORTED when the attempt was
  // replaced, CANCELLED when asked to stop.
  absl::Status SaveLast(int64_t step, const std::vector<StateRun>& runs,
                        std::optional<CheckpointSummaryData> summary);

  // True when this attempt has been replaced: the rank should stop.
  bool fenced() const { return fenced_; }

 private:
  void Stage(const std::vector<StateRun>& runs);
  void Join();

  RankLink& link_;
  std::vector<char> staging_;
  std::vector<TensorRun> staged_;
  std::thread sender_;
  std::atomic<bool> fenced_ = false;
};

}  // namespace diffmoe
