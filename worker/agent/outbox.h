// Messages on their way to the coordinator. They wait here while it is away.
//
// Bounds: of reports the newest progress per rank and 200,000 step records in all (the oldest of
// the same rank go first). Rank starts and exits are never dropped: there are at
// most a few per slot, since nothing starts without a session.
//
// The stream gives no acknowledgement, so exits and reports sent within the last 10 s are sent
// again after a lost session; the receiver tells them by group, epoch, rank and step.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"

namespace diffmoe {

class Outbox {
 public:
  // `clock` outlives the outbox.
  explicit Outbox(const Clock* clock) : clock_(clock) {}

  void AddStarted(worker::v1::RankStarted started);
  // Whatever the rank reported goes before it.
  void AddExited(worker::v1::RankExited exited);
  void AddReport(worker::v1::RankReport report);

  enum class NextResult { kMessage, kTimeout, kInterrupted };
  // Waits up to `timeout` for a message. For the one sender.
  NextResult Next(absl::Duration timeout, worker::v1::WorkerMessage* message);
  // Makes Next return kInterrupted until BeginSession.
  void Interrupt();
  void BeginSession();
  void SessionLost();
  // Waits until everything has been taken by Next.
  bool WaitEmpty(absl::Duration timeout);

 private:
  using RankKey = std::tuple<std::string, int64_t, int32_t>;
  struct Report {
    bool has_progress = false;
    v1::Progress progress;
    std::deque<v1::StepRecord> records;
  };

  bool Empty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return messages_.empty() && reports_.empty();
  }
  // Moves a part of the rank's reports into `message`.
  void TakeReport(std::map<RankKey, Report>::iterator entry, worker::v1::WorkerMessage* message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remember(const worker::v1::WorkerMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  absl::Mutex mutex_;
  std::deque<worker::v1::WorkerMessage> messages_ ABSL_GUARDED_BY(mutex_);
  std::map<RankKey, Report> reports_ ABSL_GUARDED_BY(mutex_);
  size_t records_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::pair<int64_t, worker::v1::WorkerMessage>> sent_ ABSL_GUARDED_BY(mutex_);
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace diffmoe
