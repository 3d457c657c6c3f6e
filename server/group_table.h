// Which (group, epoch) is alive, for threads of the bulk plane. Follows the loop through its
// effects. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace diffmoe::server {

class GroupTable {
 public:
  void Start(const std::string& id, int64_t epoch);
  // Ends this epoch only; a newer one stays.
  void End(const std::string& id, int64_t epoch);
  // ABORTED STALE_EPOCH unless it is alive.
  absl::Status Check(const std::string& id, int64_t epoch) const;

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, int64_t> epochs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
