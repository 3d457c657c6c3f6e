// Lines of text in files of bounded size: PATH, and the older ones PATH.1 (the newest of them),
// PATH.2, ... What comes faster than the limits is left out, and a line says how much. A line of
// more than `max_line_bytes` is cut.
//
// Not thread-safe; one process writes a PATH. Others may read: lines are only ever appended, and
// rotation renames the files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/clock.h"

namespace diffmoe {

struct LogFileOptions {
  int64_t file_bytes = 8 << 20;
  int files = 4;  // PATH among them
  // Limits on what is kept: a steady rate, and what may come at once.
  double lines_per_second = 1000;
  double burst_lines = 5000;
  double bytes_per_second = 1 << 20;
  double burst_bytes = 8 << 20;
  size_t max_line_bytes = 16 << 10;
  size_t tail_bytes = 4 << 10;
};

class LogFile {
 public:
  // Goes on at the end of what is there. `clock` outlives the file. Errors name the path.
  static absl::StatusOr<std::unique_ptr<LogFile>> Open(const std::string& path,
                                                       const LogFileOptions& options,
                                                       const Clock* clock);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  // The next bytes, wherever they were cut. A line is written once its end has come.
  void Append(std::string_view bytes);
  // Writes a line about those that were left out since the last one. Call it about once a second.
  void ReportDropped();
  // Also what has no end yet. Nothing may be appended afterwards.
  void Finish();

  // Since the file was opened.
  int64_t dropped_lines() const { return dropped_; }
  // The last bytes that were appended, kept or not, at most `tail_bytes` of them.
  std::string Tail() const;

 private:
  LogFile(std::string path, const LogFileOptions& options, const Clock* clock, int fd,
          int64_t bytes);
  // A line without its end.
  void AddLine(std::string_view line);
  bool TakeBudget(size_t bytes);
  // Writes `pending_`.
  void WritePending();
  void Rotate();

  const std::string path_;
  const LogFileOptions options_;
  const Clock* const clock_;
  int fd_;
  int64_t bytes_;        // in the file
  std::string partial_;  // a line whose end has not come
  size_t cut_ = 0;       // bytes of it that are left out
  std::string pending_;  // whole lines on their way to the file
  int64_t pending_lines_ = 0;
  std::string tail_;
  double lines_left_, line_bytes_left_;
  int64_t refilled_ms_;
  int64_t dropped_ = 0;
  int64_t reported_ = 0;  // of `dropped_`
};

}  // namespace diffmoe
