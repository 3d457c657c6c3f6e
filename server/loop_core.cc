#include "server/loop_core.h"

#include <utility>
#include <variant>

#include "core/base/kill_point.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"

namespace diffmoe::server {

LoopCore::LoopCore(State state, Commit commit, const Clock* clock, EffectExecutor* executor,
                   int64_t away_ms)
    : state_(std::move(state)),
      commit_(std::move(commit)),
      clock_(clock),
      executor_(executor),
      away_ms_(away_ms) {}

absl::Status LoopCore::Begin() {
  last_seen_ms_ = clock_->MonotonicMs();
  Apply(Restarted{});
  Apply(Schedule{});
  wakeup_ms_ = NextWakeupMs(state_);
  return CommitBatch();
}

absl::Status LoopCore::RunBatch(const std::vector<Event>& events) {
  const int64_t now_ms = clock_->MonotonicMs();
  if (!stalled_ && now_ms - last_seen_ms_ > away_ms_) Apply(Resumed{});
  last_seen_ms_ = now_ms;
  if (!stalled_) ApplyBatch(events, now_ms);
  return CommitBatch();
}

// A heartbeat moves no wakeup forward, and they are most of the events of a large cluster: after
// heartbeats alone the wakeup that is known stays, at the price of one look too many later.
void LoopCore::ApplyBatch(const std::vector<Event>& events, int64_t now_ms) {
  bool heartbeats_only = !events.empty();
  for (const Event& event : events) {
    heartbeats_only = heartbeats_only && std::holds_alternative<WorkerHeartbeat>(event);
    Apply(event);
  }
  if (heartbeats_only && now_ms < wakeup_ms_ && !ScheduleDue(state_)) return;
  if (NextWakeupMs(state_) <= now_ms) Apply(Tick{});
  if (ScheduleDue(state_)) Apply(Schedule{});
  wakeup_ms_ = NextWakeupMs(state_);
}

void LoopCore::Apply(const Event& event) {
  const Now now{clock_->MonotonicMs(), clock_->UnixMs()};
  for (Effect& effect : Step(state_, event, now)) {
    if (auto* write = std::get_if<WriteRecord>(&effect)) {
      writes_.push_back({std::move(write->key), std::move(write->value)});
    } else if (auto* erase = std::get_if<DeleteRecord>(&effect)) {
      writes_.push_back({std::move(erase->key), std::nullopt});
    } else {
      effects_.push_back(std::move(effect));
    }
  }
}

void LoopCore::FailRequests(const absl::Status& status) {
  std::vector<Effect> kept;
  for (Effect& effect : effects_) {
    Reply* reply = std::get_if<Reply>(&effect);
    if (reply == nullptr || reply->waits_for_store || !reply->status.ok()) {
      kept.push_back(std::move(effect));
      continue;
    }
    executor_->Execute(Reply{reply->call,
                             StorageError(status,
                                          "the request may still take effect; ask again with the "
                                          "same request_id"),
                             {},
                             false});
  }
  effects_ = std::move(kept);
}

void LoopCore::ExecuteEffects() {
  for (Effect& effect : effects_) executor_->Execute(std::move(effect));
  effects_.clear();
  KillPoint("loop.effects_done");
}

absl::Status LoopCore::CommitBatch() {
  if (Planted(Fault::kEffectsBeforeCommit)) ExecuteEffects();
  const bool was_stalled = stalled_;
  if (!writes_.empty()) {
    const int64_t begin_ms = clock_->MonotonicMs();
    KillPoint("loop.before_commit");
    const absl::Status status = commit_(writes_);
    executor_->Committed(status.code(), static_cast<int64_t>(writes_.size()),
                         static_cast<double>(clock_->MonotonicMs() - begin_ms) / 1000.0);
    if (!status.ok() && !Planted(Fault::kFailedCommitIgnored)) {
      FailRequests(status);
      stalled_ = true;
      return status;
    }
    writes_.clear();
    KillPoint("loop.committed");
  }
  stalled_ = false;
  ExecuteEffects();
  if (was_stalled) Apply(Resumed{});
  return absl::OkStatus();
}

}  // namespace diffmoe::server
