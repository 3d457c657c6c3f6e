// The one writer. A single thread takes posted events, runs Step() for each, commits all resulting
// records in one synced write, and only then executes the other effects. See
// docs/adr/0003-one-writer.md.
//
// When the disk is full, the loop stalls: the records and effects of the batch stay pending and the
// commit is tried again; requests of the batch and new ones are answered RESOURCE_EXHAUSTED, worker
// messages stay queued, queries are answered. Any other failed commit is final: `on_fatal` is
// called once, nothing is executed any more, and the process must end.
//
// Thread safety: all methods from any thread. Order: construct, Start, use, Stop, destroy.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/base/clock.h"
#include "core/storage/record_store.h"
#include "server/state/step.h"

namespace diffmoe::server {

// What is done outside after a commit. Called from the loop thread only; must not block.
class EffectExecutor {
 public:
  virtual ~EffectExecutor() = default;
  virtual void Execute(Effect effect) = 0;
  // After each batch, for gauges.
  virtual void BatchDone(const State& state) = 0;
  virtual void Committed(absl::StatusCode code, int64_t records, double seconds) = 0;
};

struct LoopOptions {
  // Events and queries of RPCs are refused when so many are waiting.
  size_t max_requests = 4096;
  // Worker messages are refused (their stream is closed) when so many are waiting.
  size_t max_queue = 16'384;
  // Events handled before one commit.
  size_t max_batch = 512;
  // Between attempts of a commit that met a full disk.
  int64_t retry_ms = 500;
  // The loop looks at the clock at least so often. When it was away for longer than `away_ms`,
  // nobody is called silent.
  int64_t max_wait_ms = 1000;
  int64_t away_ms = 3000;
};

class Loop {
 public:
  // Makes records durable, all or none; errors as RecordStore::Commit.
  using Commit = std::function<absl::Status(const std::vector<RecordWrite>&)>;

  // Nothing is owned; all must outlive the object.
  Loop(State state, Commit commit, const Clock* clock, EffectExecutor* executor,
       std::function<void(absl::Status)> on_fatal, const LoopOptions& options = {});
  ~Loop();

  void Start();
  // Handles what is queued, commits, ends the thread. Later posts return UNAVAILABLE.
  void Stop();

  // Never blocks. UNAVAILABLE when stopping; RESOURCE_EXHAUSTED when the queue is full or, for
  // requests (submit, cancel, sample), the store can't be written.
  absl::Status Post(Event event);
  // As Post, but waits for room: for threads that may block.
  absl::Status PostWhenRoom(Event event);
  // Runs `query` on the loop thread, after everything posted before is durable. It must be quick
  // and must not post with PostWhenRoom.
  absl::Status Query(std::function<void(const State&)> query);

 private:
  using Item = std::variant<Event, std::function<void(const State&)>>;

  void Run();
  std::deque<Item> TakeItems();
  void Apply(const Event& event);
  void FailRequests(const absl::Status& status);
  void CommitBatch();
  bool RunBatch();  // false: the loop ends
  absl::Status CheckRoom(const Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  Now ReadClock() const;

  const Commit commit_;
  const Clock* clock_;
  EffectExecutor* executor_;
  const std::function<void(absl::Status)> on_fatal_;
  const LoopOptions options_;

  // Loop thread only.
  State state_;
  std::vector<RecordWrite> writes_;
  std::vector<Effect> effects_;
  int64_t last_seen_ms_ = 0;

  mutable absl::Mutex mutex_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;  // set by the loop thread only
  bool dead_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace diffmoe::server
