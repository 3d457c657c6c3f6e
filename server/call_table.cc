#include "server/call_table.h"

#include <utility>

namespace diffmoe::server {

void CallTable::Add(uint64_t call, Callback callback) {
  absl::Status failed;
  {
    absl::MutexLock lock(&mutex_);
    if (failed_.ok()) {
      callbacks_[call] = std::move(callback);
      return;
    }
    failed = failed_;
  }
  callback(Reply{call, failed, {}, false});
}

void CallTable::Answer(const Reply& reply) {
  Callback callback;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = callbacks_.find(reply.call);
    if (it == callbacks_.end()) return;
    callback = std::move(it->second);
    callbacks_.erase(it);
  }
  callback(reply);
}

void CallTable::FailAll(const absl::Status& status) {
  std::map<uint64_t, Callback> callbacks;
  {
    absl::MutexLock lock(&mutex_);
    failed_ = status;
    callbacks.swap(callbacks_);
  }
  for (auto& [call, callback] : callbacks) callback(Reply{call, status, {}, false});
}

}  // namespace diffmoe::server
