#include "core/base/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/atomic_file.h"
#include "core/base/log_setup.h"

namespace diffmoe {
namespace {

constexpr size_t kCutNoteBytes = 48;  // room for what is said about a line that was cut

int OpenForAppend(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

int64_t SizeOf(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? static_cast<int64_t>(info.st_size) : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogFile>> LogFile::Open(const std::string& path,
                                                       const LogFileOptions& options,
                                                       const Clock* clock) {
  const int fd = OpenForAppend(path);
  if (fd < 0) return FileError(errno, "open", path);
  return std::unique_ptr<LogFile>(new LogFile(path, options, clock, fd, SizeOf(fd)));
}

LogFile::LogFile(std::string path, const LogFileOptions& options, const Clock* clock, int fd,
                 int64_t bytes)
    : path_(std::move(path)),
      options_(options),
      clock_(clock),
      fd_(fd),
      bytes_(bytes),
      lines_left_(options.burst_lines),
      line_bytes_left_(options.burst_bytes),
      refilled_ms_(clock->MonotonicMs()) {}

LogFile::~LogFile() { close(fd_); }

void LogFile::Append(std::string_view bytes) {
  const size_t kept = std::min(bytes.size(), options_.tail_bytes);
  tail_.append(bytes.substr(bytes.size() - kept));
  if (tail_.size() > 2 * options_.tail_bytes) tail_.erase(0, tail_.size() - options_.tail_bytes);
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    std::string_view piece = bytes.substr(0, end);
    const bool whole = end != std::string_view::npos;
    bytes.remove_prefix(whole ? end + 1 : bytes.size());
    if (whole && partial_.empty() && piece.size() <= options_.max_line_bytes) {
      AddLine(piece);
      continue;
    }
    const size_t room = options_.max_line_bytes - partial_.size();
    partial_.append(piece.substr(0, room));
    if (piece.size() > room) cut_ += piece.size() - room;
    if (!whole) break;
    if (cut_ > 0) {
      partial_.resize(partial_.size() - std::min(partial_.size(), kCutNoteBytes));
      absl::StrAppend(&partial_, " ... ", cut_ + kCutNoteBytes, " bytes left out");
    }
    AddLine(partial_);
    partial_.clear();
    cut_ = 0;
  }
  WritePending();
}

bool LogFile::TakeBudget(size_t bytes) {
  const int64_t now_ms = clock_->MonotonicMs();
  const double seconds = static_cast<double>(now_ms - refilled_ms_) * 1e-3;
  refilled_ms_ = now_ms;
  lines_left_ = std::min(options_.burst_lines, lines_left_ + seconds * options_.lines_per_second);
  line_bytes_left_ =
      std::min(options_.burst_bytes, line_bytes_left_ + seconds * options_.bytes_per_second);
  const double size = static_cast<double>(bytes);
  if (lines_left_ < 1 || line_bytes_left_ < size) return false;
  lines_left_ -= 1;
  line_bytes_left_ -= size;
  return true;
}

void LogFile::AddLine(std::string_view line) {
  if (!TakeBudget(line.size() + 1)) {
    ++dropped_;
    return;
  }
  pending_.append(line);
  pending_ += '\n';
  ++pending_lines_;
}

void LogFile::ReportDropped() {
  if (dropped_ == reported_) return;
  const int64_t lines = dropped_ - reported_;
  reported_ = dropped_;
  pending_ += FormatLogLine(absl::FromUnixMillis(clock_->UnixMs()), Severity::kWarning, "log",
                            "lines dropped: they came too fast", {{"lines", lines}});
  WritePending();
}

void LogFile::WritePending() {
  if (pending_.empty()) return;
  if (bytes_ > 0 && bytes_ + static_cast<int64_t>(pending_.size()) > options_.file_bytes) Rotate();
  std::string_view left = pending_;
  while (!left.empty()) {
    const ssize_t written = write(fd_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    bytes_ += written;
    left.remove_prefix(static_cast<size_t>(written));
  }
  // A full disk, for example. A line that was cut there ends with the next one.
  if (!left.empty()) dropped_ += pending_lines_;
  pending_.clear();
  pending_lines_ = 0;
}

void LogFile::Rotate() {
  for (int i = options_.files - 1; i > 0; --i) {
    const std::string from = i == 1 ? path_ : absl::StrCat(path_, ".", i - 1);
    std::rename(from.c_str(), absl::StrCat(path_, ".", i).c_str());
  }
  if (options_.files <= 1) unlink(path_.c_str());
  const int fd = OpenForAppend(path_);
  if (fd < 0) {
    // Without a new file the old one is emptied, so that it stays bounded.
    if (ftruncate(fd_, 0) == 0) bytes_ = 0;
    return;
  }
  close(fd_);
  fd_ = fd;
  bytes_ = SizeOf(fd);
}

void LogFile::Finish() {
  if (!partial_.empty()) Append("\n");
  ReportDropped();
  WritePending();
}

std::string LogFile::Tail() const {
  return tail_.size() <= options_.tail_bytes ? tail_
                                             : tail_.substr(tail_.size() - options_.tail_bytes);
}

}  // namespace diffmoe
