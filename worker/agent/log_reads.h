// Answers the coordinator's ReadLogs: reads log files of ranks and pushes their lines over the bulk
// plane. A read has a thread of its own and holds at most 256 KiB of lines; a reader that is slow
// holds it back, never the worker. At most 64 reads at a time; more are not answered.
//
// Thread-safe. The destructor cuts off all reads.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"

namespace diffmoe {

class LogReads {
 public:
  struct Parts {
    // Log file of a rank.
    std::function<std::string(const worker::v1::GroupId&, int rank)> path;
    // Its rank may still write to it.
    std::function<bool(const std::string& path)> open;
    // Where the lines go; null while there is no coordinator.
    std::function<std::shared_ptr<worker::v1::BulkPlane::Stub>()> coordinator;
    std::string worker_id;
  };
  explicit LogReads(Parts parts);
  ~LogReads();
  LogReads(const LogReads&) = delete;
  LogReads& operator=(const LogReads&) = delete;

  void Start(const worker::v1::ReadLogs& request);
  void Stop(const std::string& read_id);
  // Waits until all reads have ended by themselves, as those of dead ranks do.
  void Drain(absl::Duration limit);

 private:
  struct Read;
  void Run(Read* read, const worker::v1::ReadLogs& request);
  // Joins threads that have ended.
  void Reap();

  const Parts parts_;
  absl::Mutex mutex_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::unique_ptr<Read>> reads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe
