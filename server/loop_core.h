// The part of the one writer that has no thread, queue or lock: a batch of events goes through
// Step(), all resulting records are committed in one synced write, and only then the other effects
// are executed. Loop drives it on a thread, the simulator on a virtual clock.
//
// When a commit meets a full disk, the core stalls: records and effects of the batch stay pending,
// waiting requests are answered RESOURCE_EXHAUSTED, and the next RunBatch tries the commit again.
// After any other failed commit nothing may be called any more but state().
//
// Not thread-safe: one thread owns it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "core/base/clock.h"
#include "core/storage/record_store.h"
#include "server/state/step.h"

namespace diffmoe::server {

// What is done outside after a commit. Called from the thread of the core only; must not block.
class EffectExecutor {
 public:
  virtual ~EffectExecutor() = default;
  virtual void Execute(Effect effect) = 0;
  // After each batch, for gauges.
  virtual void BatchDone(const State& state) = 0;
  virtual void Committed(absl::StatusCode code, int64_t records, double seconds) = 0;
};

class LoopCore {
 public:
  // Makes records durable, all or none; errors as RecordStore::Commit.
  using Commit = std::function<absl::Status(const std::vector<RecordWrite>&)>;

  // Nothing is owned; all must outlive the object. `state` comes from LoadState. When nothing was
  // called for longer than `away_ms`, nobody is called silent for that time.
  LoopCore(State state, Commit commit, const Clock* clock, EffectExecutor* executor,
           int64_t away_ms);

  // Call first, once: applies the restore rules and commits. The result is the commit's.
  absl::Status Begin();
  // Applies `events`, a Tick when one is due and Schedule when slots or the queue have changed,
  // then commits and executes. While stalled() only the commit is tried again, and `events` must be
  // empty. The result is the commit's.
  absl::Status RunBatch(const std::vector<Event>& events);

  bool stalled() const { return stalled_; }
  // Monotonic time at which RunBatch is due although nothing has come; never later than
  // NextWakeupMs(state()).
  int64_t wakeup_ms() const { return wakeup_ms_; }
  const State& state() const { return state_; }

 private:
  void Apply(const Event& event);
  void ApplyBatch(const std::vector<Event>& events, int64_t now_ms);
  absl::Status CommitBatch();
  void ExecuteEffects();
  void FailRequests(const absl::Status& status);

  State state_;
  const Commit commit_;
  const Clock* clock_;
  EffectExecutor* executor_;
  const int64_t away_ms_;
  std::vector<RecordWrite> writes_;
  std::vector<Effect> effects_;
  int64_t last_seen_ms_ = 0;
  int64_t wakeup_ms_ = 0;
  bool stalled_ = false;
};

}  // namespace diffmoe::server
