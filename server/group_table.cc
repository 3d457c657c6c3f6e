#include "server/group_table.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace diffmoe::server {

void GroupTable::Start(const std::string& id, int64_t epoch) {
  absl::MutexLock lock(&mutex_);
  epochs_[id] = epoch;
}

void GroupTable::End(const std::string& id, int64_t epoch) {
  absl::MutexLock lock(&mutex_);
  const auto it = epochs_.find(id);
  if (it != epochs_.end() && it->second == epoch) epochs_.erase(it);
}

absl::Status GroupTable::Check(const std::string& id, int64_t epoch) const {
  absl::ReaderMutexLock lock(&mutex_);
  const auto it = epochs_.find(id);
  if (it != epochs_.end() && it->second == epoch) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAborted, v1::STALE_EPOCH,
                   it == epochs_.end()
                       ? absl::StrCat("group ", id, " epoch ", epoch, " doesn't run")
                       : absl::StrCat("group ", id, " is at epoch ", it->second, ", not ", epoch));
}

}  // namespace diffmoe::server
