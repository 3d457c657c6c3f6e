// Logs of child processes: each child writes into a pipe, and one thread moves what comes into the
// child's LogFile, within its bounds. A child never waits for its log: with a full pipe its writes
// fail with EAGAIN. What is in a pipe when this process dies is lost.
//
// Thread-safe. Start order: block signals, construct, Start or the first Open, which starts the
// thread. The destructor closes every log; the children's further writes fail with EPIPE.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/base/clock.h"
#include "core/base/log_file.h"

namespace diffmoe {

// One child's log.
class ChildLog {
 public:
  ~ChildLog();
  ChildLog(const ChildLog&) = delete;
  ChildLog& operator=(const ChildLog&) = delete;

  const std::string& path() const { return path_; }
  // For the child's standard outputs. Close it here once the child has it.
  int write_fd() const { return write_fd_; }
  void CloseWriteEnd();
  // Takes what the child has written so far, and takes nothing more. Call it when the child is
  // dead. Returns the last bytes, at most 4 KiB.
  std::string Finish();
  // The last bytes so far.
  std::string Tail();
  // More may come.
  bool open() const;

 private:
  friend class LogPump;
  ChildLog(std::string path, std::unique_ptr<LogFile> file, int read_fd, int write_fd);
  // Reads up to `max_bytes`. False once nothing comes any more.
  bool Move(size_t max_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  int write_fd_;
  mutable absl::Mutex mutex_;
  int read_fd_ ABSL_GUARDED_BY(mutex_);
  const std::unique_ptr<LogFile> file_ ABSL_PT_GUARDED_BY(mutex_);
  int64_t counted_ ABSL_GUARDED_BY(mutex_) = 0;  // dropped lines that the pump knows of
};

class LogPump {
 public:
  // `dropped` is told how many lines were left out, on the pump's thread.
  explicit LogPump(const Clock* clock, std::function<void(int64_t)> dropped = {});
  ~LogPump();
  LogPump(const LogPump&) = delete;
  LogPump& operator=(const LogPump&) = delete;

  // Starts the thread, so that it is there when the system has no more. Idempotent. Errors:
  // RESOURCE_EXHAUSTED.
  absl::Status Start();
  // Errors: of the file or the pipe, naming the path; RESOURCE_EXHAUSTED without a thread.
  absl::StatusOr<std::shared_ptr<ChildLog>> Open(const std::string& path,
                                                 const LogFileOptions& options = {});
  // A log of this path is open.
  bool IsOpen(const std::string& path) const;

 private:
  void Run();
  // Moves what has come; logs that have ended go.
  void MoveAll(const std::vector<std::shared_ptr<ChildLog>>& logs);
  std::vector<std::shared_ptr<ChildLog>> Snapshot();
  void Wake();

  const Clock* const clock_;
  const std::function<void(int64_t)> dropped_;
  const int wake_fd_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<ChildLog>> logs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
  int64_t next_report_ms_ = 0;  // of the thread
};

}  // namespace diffmoe
