// Lines of several workers as one sequence in order of time. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"

namespace diffmoe::server {

// What one worker sends.
struct LogSource {
  std::string worker_id;
  uint64_t session = 0;
  std::string ranks;  // for notices: "rank 2", "ranks 0, 1"
  absl::Time heard;   // when it was asked, or its last message
  bool begun = false;
  bool ended = false;
  struct Line {
    int64_t time_ms = 0;  // of the newest line of the source up to it
    absl::Time come;
    v1::LogLine line;
  };
  std::deque<Line> lines = {};
  size_t bytes = 0;
  int64_t time_ms = 0;  // of its newest line
};

class LogMerge {
 public:
  std::map<std::string, LogSource>& sources() { return sources_; }
  bool AllEnded() const;
  bool Empty() const;
  // Bytes that may wait of one source.
  size_t SourceLimit() const;

  void Add(const std::string& read_id, int64_t epoch, worker::v1::LogLines lines, absl::Time now);
  // Moves lines into `out` as long as their order is known: every source that has not ended has a
  // line that is no older; or, with `delay`, the line has waited for so long. When lines wait for
  // their delay, `wake` becomes the earliest time at which the next one is due.
  void Take(absl::Time now, const absl::Duration* delay, v1::ReadJobLogsResponse* out,
            absl::Time* wake);

 private:
  std::map<std::string, LogSource> sources_;  // by read_id of the worker
};

}  // namespace diffmoe::server
