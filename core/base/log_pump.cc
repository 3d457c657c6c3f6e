#include "core/base/log_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kPipeBytes = 256 << 10;
constexpr size_t kPieceBytes = 64 << 10;
// Of one log before the next has its turn, and after the child's death.
constexpr size_t kTurnBytes = 1 << 20;
constexpr size_t kLastBytes = 4 << 20;
constexpr int kReportMs = 1000;

void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

}  // namespace

ChildLog::ChildLog(std::string path, std::unique_ptr<LogFile> file, int read_fd, int write_fd)
    : path_(std::move(path)), write_fd_(write_fd), read_fd_(read_fd), file_(std::move(file)) {}

ChildLog::~ChildLog() {
  CloseWriteEnd();
  absl::MutexLock lock(&mutex_);
  End();
}

void ChildLog::CloseWriteEnd() { CloseFd(&write_fd_); }

void ChildLog::End() {
  if (read_fd_ < 0) return;
  CloseFd(&read_fd_);
  file_->Finish();
}

bool ChildLog::Move(size_t max_bytes) {
  std::string piece(kPieceBytes, '\0');
  size_t moved = 0;
  while (read_fd_ >= 0 && moved < max_bytes) {
    const ssize_t got = read(read_fd_, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) {
      End();
      break;
    }
    file_->Append(std::string_view(piece.data(), static_cast<size_t>(got)));
    moved += static_cast<size_t>(got);
  }
  return read_fd_ >= 0;
}

std::string ChildLog::Finish() {
  CloseWriteEnd();
  absl::MutexLock lock(&mutex_);
  Move(kLastBytes);
  End();
  return file_->Tail();
}

std::string ChildLog::Tail() {
  absl::MutexLock lock(&mutex_);
  Move(kTurnBytes);
  return file_->Tail();
}

bool ChildLog::open() const {
  absl::MutexLock lock(&mutex_);
  return read_fd_ >= 0;
}

LogPump::LogPump(const Clock* clock, std::function<void(int64_t)> dropped)
    : clock_(clock),
      dropped_(std::move(dropped)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

LogPump::~LogPump() {
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  Wake();
  if (thread.joinable()) thread.join();
  for (const std::shared_ptr<ChildLog>& log : Snapshot()) log->Finish();
  close(wake_fd_);
}

void LogPump::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

absl::Status LogPump::Start() {
  absl::MutexLock lock(&mutex_);
  if (thread_.joinable()) return absl::OkStatus();
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for the logs of child processes: ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ChildLog>> LogPump::Open(const std::string& path,
                                                        const LogFileOptions& options) {
  RETURN_IF_ERROR(Start());
  ASSIGN_OR_RETURN(std::unique_ptr<LogFile> file, LogFile::Open(path, options, clock_));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return FileError(errno, "open a pipe for", path);
  // A user with many pipes gets smaller ones.
  fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes);
  std::shared_ptr<ChildLog> log(new ChildLog(path, std::move(file), ends[0], ends[1]));
  {
    absl::MutexLock lock(&mutex_);
    logs_[path] = log;
  }
  Wake();
  return log;
}

bool LogPump::IsOpen(const std::string& path) const {
  std::shared_ptr<ChildLog> log;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = logs_.find(path);
    if (found == logs_.end()) return false;
    log = found->second;
  }
  return log->open();
}

std::vector<std::shared_ptr<ChildLog>> LogPump::Snapshot() {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<ChildLog>> logs;
  for (const auto& [path, log] : logs_) logs.push_back(log);
  return logs;
}

void LogPump::MoveAll(const std::vector<std::shared_ptr<ChildLog>>& logs) {
  const bool report = clock_->MonotonicMs() >= next_report_ms_;
  if (report) next_report_ms_ = clock_->MonotonicMs() + kReportMs;
  int64_t dropped = 0;
  for (const std::shared_ptr<ChildLog>& log : logs) {
    bool ended = false;
    {
      absl::MutexLock lock(&log->mutex_);
      ended = !log->Move(kTurnBytes);
      if (report && !ended) log->file_->ReportDropped();
      const int64_t all = log->file_->dropped_lines();
      dropped += all - std::exchange(log->counted_, all);
    }
    if (!ended) continue;
    absl::MutexLock lock(&mutex_);
    const auto found = logs_.find(log->path());
    if (found != logs_.end() && found->second == log) logs_.erase(found);
  }
  if (dropped > 0 && dropped_) dropped_(dropped);
}

void LogPump::Run() {
  while (true) {
    const std::vector<std::shared_ptr<ChildLog>> logs = Snapshot();
    std::vector<pollfd> fds = {{wake_fd_, POLLIN, 0}};
    for (const std::shared_ptr<ChildLog>& log : logs) {
      absl::MutexLock lock(&log->mutex_);
      // A negative descriptor is left out: MoveAll removes the log.
      fds.push_back({log->read_fd_, POLLIN, 0});
    }
    // Lines that were dropped are told about a second later, also when nothing comes any more.
    poll(fds.data(), fds.size(), logs.empty() ? -1 : kReportMs);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_fd_, &count, sizeof(count));
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    MoveAll(logs);
  }
}

}  // namespace diffmoe
