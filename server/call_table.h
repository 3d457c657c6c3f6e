// RPCs that wait for the loop's answer. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/state/effect.h"

namespace diffmoe::server {

class CallTable {
 public:
  using Callback = std::function<void(const Reply&)>;

  // Numbers of calls and sessions; never 0, never twice.
  uint64_t NewNumber() { return next_.fetch_add(1); }

  // `callback` runs exactly once: from Answer, or from FailAll, or at once when FailAll was called
  // before.
  void Add(uint64_t call, Callback callback);
  // Runs the callback of reply.call, when there is one.
  void Answer(const Reply& reply);
  // Answers all with `status`, and all that come later.
  void FailAll(const absl::Status& status);

 private:
  std::atomic<uint64_t> next_{1};
  absl::Mutex mutex_;
  std::map<uint64_t, Callback> callbacks_ ABSL_GUARDED_BY(mutex_);
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
