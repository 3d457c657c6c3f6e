// The one writer. A single thread takes posted events and hands them in batches to a LoopCore,
// which commits all resulting records in one synced write and only then executes the other effects.
// See docs/adr/0003-one-writer.md.
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
#include "server/loop_core.h"

namespace diffmoe::server {

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
  using Commit = LoopCore::Commit;

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
  // Commits, and notes for Post whether the store can be written.
  absl::Status CommitRecords(const std::vector<RecordWrite>& writes);
  bool RunBatch();  // false: the loop ends
  void EndOnFatal(const absl::Status& status);
  absl::Status CheckRoom(const Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const Commit commit_;
  const Clock* clock_;
  EffectExecutor* executor_;
  const std::function<void(absl::Status)> on_fatal_;
  const LoopOptions options_;

  LoopCore core_;  // loop thread only

  mutable absl::Mutex mutex_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;  // set by the loop thread only
  bool dead_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace diffmoe::server
