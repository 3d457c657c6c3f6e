#include "server/api/watch_hub.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"
#include "server/state/state.h"

namespace diffmoe::server {
namespace {

constexpr size_t kMaxWaitingBytes = size_t{2} << 20;  // well below gRPC's 4 MB

v1::WatchJobResponse Merge(v1::WatchJobResponse waiting, v1::WatchJobResponse newer) {
  *waiting.mutable_job() = std::move(*newer.mutable_job());
  waiting.mutable_events()->MergeFrom(newer.events());
  if (!newer.resume_token().empty()) waiting.set_resume_token(newer.resume_token());
  return waiting;
}

}  // namespace

std::string MakeResumeToken(const std::string& job_id, int64_t sequence) {
  return absl::StrCat(job_id, "/", sequence);
}

absl::StatusOr<int64_t> ParseResumeToken(const std::string& job_id, const std::string& token) {
  const size_t slash = token.rfind('/');
  int64_t sequence = 0;
  if (slash == std::string::npos || token.substr(0, slash) != job_id ||
      !absl::SimpleAtoi(token.substr(slash + 1), &sequence) || sequence < 0) {
    return MakeViolations(
        v1::INVALID_REQUEST,
        {Violation("resume_token",
                   absl::StrCat("expected the resume_token of a response about ", job_id))});
  }
  return sequence;
}

class JobWatcher final : public grpc::ServerWriteReactor<v1::WatchJobResponse>,
                         public std::enable_shared_from_this<JobWatcher> {
 public:
  explicit JobWatcher(WatchHub* hub) : hub_(hub), outbox_({.max_bytes = kMaxWaitingBytes}) {}

  void Begin() { self_ = shared_from_this(); }

  void Show(v1::WatchJobResponse response) {
    const bool last = HasEnded(response.job().state());
    OutboxAction action = OutboxAction::kNone;
    if (!outbox_.Merge(std::move(response), Merge, &action)) {
      End(ToGrpc(MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                                    "the watcher reads too slowly; watch again with the last "
                                    "resume_token",
                                    1000)),
          /*drop_queue=*/false);
      return;
    }
    Do(action);
    if (last) End(grpc::Status::OK, /*drop_queue=*/false);
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
    if (action == OutboxAction::kWriteAndFinish) {
      StartWriteAndFinish(&outbox_.in_flight(), {}, outbox_.end_status());
    }
    if (action == OutboxAction::kFinish) Finish(outbox_.end_status());
  }

  WatchHub* hub_;
  StreamOutbox<v1::WatchJobResponse> outbox_;
  // Both belong to the hub, under its lock.
  std::string job_id_;
  bool gone_ = false;  // the stream ended, perhaps before it was subscribed
  std::shared_ptr<JobWatcher> self_;
};

grpc::ServerWriteReactor<v1::WatchJobResponse>* Reactor(
    const std::shared_ptr<JobWatcher>& watcher) {
  return watcher.get();
}

std::shared_ptr<JobWatcher> WatchHub::NewWatcher() {
  auto watcher = std::make_shared<JobWatcher>(this);
  watcher->Begin();
  return watcher;
}

void WatchHub::Subscribe(const std::shared_ptr<JobWatcher>& watcher, v1::WatchJobResponse first) {
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
      watcher->job_id_ = first.job().id();
      watchers_[watcher->job_id_].insert(watcher);
      ++count_;
    }
  }
  if (refused.ok()) {
    watcher->Show(std::move(first));
  } else {
    Refuse(watcher, refused);
  }
}

void WatchHub::Refuse(const std::shared_ptr<JobWatcher>& watcher, const absl::Status& status) {
  watcher->End(ToGrpc(status), /*drop_queue=*/true);
}

void WatchHub::Publish(const v1::Job& job, const std::vector<v1::JobEvent>& events) {
  std::vector<std::shared_ptr<JobWatcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = watchers_.find(job.id());
    if (it == watchers_.end()) return;
    watchers.assign(it->second.begin(), it->second.end());
  }
  v1::WatchJobResponse response;
  *response.mutable_job() = job;
  for (const v1::JobEvent& event : events) *response.add_events() = event;
  if (!events.empty()) {
    response.set_resume_token(MakeResumeToken(job.id(), events.back().sequence()));
  }
  for (const auto& watcher : watchers) watcher->Show(response);
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
