// ReadJobLogs: finds the workers that hold the logs of an attempt, has them read, and merges what
// they push into one stream in order of time. With `follow` and no epoch it goes on with the job's
// next attempts.
//
// Bounds: 64 reads at a time, more are refused; lines of a read wait in up to 4 MiB (and one
// message per worker). A client that reads slowly holds its workers back through their streams; it
// costs no lines, unless a worker has to make room, which it says. A worker that doesn't answer
// within 5 s, or of several one that is silent for 10 s in the middle of what it has, is named in a
// notice and left out; in a `follow` a worker that breaks off ends the stream with UNAVAILABLE.
//
// A read's lines are merged and written by one thread for all reads. Thread-safe. Order: construct,
// Start, serve; CloseAll; shut the server down; destroy.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "server/checkpoints/log_sink.h"
#include "server/loop.h"

namespace diffmoe::server {

class LogRead;

struct LogReadOptions {
  size_t max_reads = 64;
  size_t max_pushes = 512;  // streams of workers
  absl::Duration answer_limit = absl::Seconds(5);
  absl::Duration silence_limit = absl::Seconds(10);
  // A line that is followed waits so long for older lines of other workers.
  absl::Duration merge_delay = absl::Milliseconds(150);
};

class LogReads final : public LogSink {
 public:
  // Sends to a worker's session.
  using Send = std::function<void(uint64_t session, worker::v1::CoordinatorMessage message)>;

  // `loop` outlives the object.
  LogReads(Loop* loop, Send send, const LogReadOptions& options = {});
  ~LogReads() override;

  void Start();
  // Ends all streams, and all later ones.
  void CloseAll(const absl::Status& status);

  grpc::ServerWriteReactor<v1::ReadJobLogsResponse>* Read(const v1::ReadJobLogsRequest& request);
  // Job has changed: reads that wait for its next attempt or its end go on. From the loop thread.
  void JobChanged(const v1::Job& job);

  absl::Status Take(worker::v1::LogLines lines, const std::function<bool()>& cancelled) override;
  void End(const std::string& read_id, bool whole) override;

 private:
  friend class LogRead;
  struct Assignment {
    uint64_t session = 0;
    worker::v1::CoordinatorMessage message;
  };

  void Run();
  // What a read does next, outside the lock.
  struct Step {
    std::shared_ptr<LogRead> read;
    bool write = false;
    bool finish = false;
    bool resolve = false;
    absl::Status status = {};  // of `finish`
    std::vector<Assignment> stop = {};
  };
  Step Advance(const std::shared_ptr<LogRead>& read, absl::Time now, absl::Time* wake)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Leaves out workers that say nothing.
  void DropSilent(LogRead& read, absl::Time now, absl::Time* wake)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The read takes nothing more; what has come is still written, unless the client is gone.
  void Close(LogRead& read, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Do(const Step& step) ABSL_LOCKS_EXCLUDED(mutex_);
  // Looks for the attempt that the read is to read next, on the loop thread.
  void Resolve(const std::shared_ptr<LogRead>& read) ABSL_LOCKS_EXCLUDED(mutex_);
  void Resolved(const std::shared_ptr<LogRead>& read, const State& state)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Notes the workers of the attempt; returns what they are to be told.
  std::vector<Assignment> Assign(const std::shared_ptr<LogRead>& read, const State& state,
                                 const v1::Attempt& attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Written(LogRead* read, bool ok);
  void Gone(LogRead* read);
  void Ended(LogRead* read);

  Loop* const loop_;
  const Send send_;
  const LogReadOptions options_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;  // something has come since the thread's last look
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  std::set<std::shared_ptr<LogRead>> reads_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<LogRead>> by_id_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> pushes_ ABSL_GUARDED_BY(mutex_);  // read_id of workers that push now
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::thread thread_;
};

}  // namespace diffmoe::server
