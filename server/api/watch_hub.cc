#include "server/api/watch_hub.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"
#include "server/state/state.h"

namespace diffmoe::server {

class JobWatcher final : public grpc::ServerWriteReactor<v1::Job>,
                         public std::enable_shared_from_this<JobWatcher> {
 public:
  explicit JobWatcher(WatchHub* hub) : hub_(hub), outbox_({}) {}

  void Begin() { self_ = shared_from_this(); }

  void Show(const v1::Job& job) {
    Do(outbox_.Replace(job));
    if (HasEnded(job.state())) End(grpc::Status::OK, /*drop_queue=*/false);
  }
  void End(const grpc::Status& status, bool drop_queue) { Do(outbox_.End(status, drop_queue)); }

 private:
  friend class WatchHub;
  void OnWriteDone(bool ok) override { Do(outbox_.WriteDone(ok)); }
  void OnCancel() override { End(grpc::Status::CANCELLED, /*drop_queue=*/true); }
  void OnDone() override {
    hub_->Remove(shared_from_this());
    self_.reset();
  }
  void Do(OutboxAction action) {
    if (action == OutboxAction::kWrite) StartWrite(&outbox_.in_flight());
    if (action == OutboxAction::kFinish) Finish(outbox_.end_status());
  }

  WatchHub* hub_;
  StreamOutbox<v1::Job> outbox_;
  // Both belong to the hub, under its lock.
  std::string job_id_;
  bool gone_ = false;  // the stream ended, perhaps before it was subscribed
  std::shared_ptr<JobWatcher> self_;
};

grpc::ServerWriteReactor<v1::Job>* Reactor(const std::shared_ptr<JobWatcher>& watcher) {
  return watcher.get();
}

std::shared_ptr<JobWatcher> WatchHub::NewWatcher() {
  auto watcher = std::make_shared<JobWatcher>(this);
  watcher->Begin();
  return watcher;
}

void WatchHub::Subscribe(const std::shared_ptr<JobWatcher>& watcher, const v1::Job& job) {
  absl::Status refused;
  {
    absl::MutexLock lock(&mutex_);
    if (watcher->gone_) return;
    refused = closed_;
    if (refused.ok() && count_ >= max_watchers_) {
      refused =
          MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                             absl::StrCat("at most ", max_watchers_, " watchers at once"), 5000);
    }
    if (refused.ok()) {
      watcher->job_id_ = job.id();
      watchers_[job.id()].insert(watcher);
      ++count_;
    }
  }
  if (refused.ok()) {
    watcher->Show(job);
  } else {
    Refuse(watcher, refused);
  }
}

void WatchHub::Refuse(const std::shared_ptr<JobWatcher>& watcher, const absl::Status& status) {
  watcher->End(ToGrpc(status), /*drop_queue=*/true);
}

void WatchHub::Publish(const v1::Job& job) {
  std::vector<std::shared_ptr<JobWatcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = watchers_.find(job.id());
    if (it == watchers_.end()) return;
    watchers.assign(it->second.begin(), it->second.end());
  }
  for (const auto& watcher : watchers) watcher->Show(job);
}

void WatchHub::CloseAll(const absl::Status& status) {
  std::vector<std::shared_ptr<JobWatcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = status;
    for (const auto& [id, of_job] : watchers_) {
      watchers.insert(watchers.end(), of_job.begin(), of_job.end());
    }
  }
  for (const auto& watcher : watchers) watcher->End(ToGrpc(status), /*drop_queue=*/true);
}

void WatchHub::Remove(const std::shared_ptr<JobWatcher>& watcher) {
  absl::MutexLock lock(&mutex_);
  watcher->gone_ = true;
  const auto it = watchers_.find(watcher->job_id_);
  if (it == watchers_.end() || it->second.erase(watcher) == 0) return;
  --count_;
  if (it->second.empty()) watchers_.erase(it);
}

}  // namespace diffmoe::server
