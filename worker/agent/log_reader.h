// Reads the log of one rank through its files (core/base/log_file.h), also while it grows and
// rotates. Several of them can be read as one, in order of time.
//
// Not thread-safe; any number of readers may read one log.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "re2/re2.h"

namespace diffmoe {

// A line counts as written when the newest line up to it was: one without a time belongs to the
// line before it.
struct LogEntry {
  absl::Time written = absl::InfinitePast();
  std::optional<absl::Time> time;  // its own
  std::string text;                // valid UTF-8, at most 16 KiB
};

struct LogFilter {
  absl::Time since = absl::InfinitePast();
  std::shared_ptr<const RE2> grep;  // null: every line
};

// A pattern with bounded memory. Errors: INVALID_ARGUMENT that quotes it and says what is wrong.
absl::StatusOr<std::shared_ptr<const RE2>> CompileLogPattern(const std::string& pattern);

class LogReader {
 public:
  LogReader(std::string path, LogFilter filter);
  ~LogReader();
  LogReader(const LogReader&) = delete;
  LogReader& operator=(const LogReader&) = delete;

  // The next line that the filter takes; false at the present end, where more may come later.
  bool Next(LogEntry* entry);
  // Reads to the present end and keeps the last `lines` lines (and at most 8 MiB of them) for Next.
  void SkipToLast(int lines);
  // There is, or was, a file.
  bool found() const { return found_; }
  // Lines were rotated away before they could be read, since the last call.
  bool TakeGap();

 private:
  struct File {
    int fd = -1;
    dev_t device = 0;
    ino_t inode = 0;
  };
  // Open files of the log, the oldest first.
  std::vector<File> OpenFiles() const;
  bool OpenFirst();
  // Behind the end of the file: goes on to the next one when there is one.
  bool OpenNext();
  bool Rotated() const;
  bool ReadMore();
  bool NextLine(std::string* line);
  void Use(const File& file);

  const std::string path_;
  const LogFilter filter_;
  File file_;
  bool found_ = false;
  bool rotated_ = false;  // the file at hand isn't the newest; it may have a last piece
  bool gap_ = false;
  std::string buffer_;
  size_t begin_ = 0;  // of what has not been returned, in buffer_
  absl::Time written_ = absl::InfinitePast();
  std::deque<LogEntry> kept_;
};

// Several logs as one.
class MergedLogs {
 public:
  // `ranks` is parallel to `readers`.
  MergedLogs(std::vector<int> ranks, std::vector<std::unique_ptr<LogReader>> readers);
  // The oldest next line; false at the present end of all.
  bool Next(int* rank, LogEntry* entry);

  size_t size() const { return readers_.size(); }
  int rank(size_t i) const { return ranks_[i]; }
  LogReader& reader(size_t i) { return *readers_[i]; }

 private:
  const std::vector<int> ranks_;
  const std::vector<std::unique_ptr<LogReader>> readers_;
  std::vector<std::optional<LogEntry>> heads_;
};

}  // namespace diffmoe
