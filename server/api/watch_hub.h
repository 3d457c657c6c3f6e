// The watchers of jobs. A slow reader gets the newest state, not every state, but every event; when
// more than 2 MB of events wait for it, its stream ends with RESOURCE_EXHAUSTED and it may resume.
// At most 1,000 watchers at once. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {

class JobWatcher;

class WatchHub {
 public:
  explicit WatchHub(size_t max_watchers = 1000) : max_watchers_(max_watchers) {}

  // A stream that has not begun; Subscribe or Refuse it.
  std::shared_ptr<JobWatcher> NewWatcher();
  // Sends `first` and everything published later; ends the stream when the job has ended. Call it
  // from the loop thread, so that no publication is missed.
  void Subscribe(const std::shared_ptr<JobWatcher>& watcher, v1::WatchJobResponse first);
  void Refuse(const std::shared_ptr<JobWatcher>& watcher, const absl::Status& status);

  void Publish(const v1::Job& job, const std::vector<v1::JobEvent>& events);
  // Ends all streams, and all later ones.
  void CloseAll(const absl::Status& status);

 private:
  friend class JobWatcher;
  void Remove(const std::shared_ptr<JobWatcher>& watcher);

  const size_t max_watchers_;
  absl::Mutex mutex_;
  std::map<std::string, std::set<std::shared_ptr<JobWatcher>>> watchers_ ABSL_GUARDED_BY(mutex_);
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

// Stands for "all events up to this one"; INVALID_ARGUMENT for text that isn't a token of the job.
std::string MakeResumeToken(const std::string& job_id, int64_t sequence);
absl::StatusOr<int64_t> ParseResumeToken(const std::string& job_id, const std::string& token);

// The reactor as gRPC wants it.
grpc::ServerWriteReactor<v1::WatchJobResponse>* Reactor(const std::shared_ptr<JobWatcher>& watcher);

}  // namespace diffmoe::server
