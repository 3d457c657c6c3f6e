// How far the lines of a job have been shown, so that a stream that broke goes on without doubled
// lines. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/time/time.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

class LogCursor {
 public:
  // Counts the line as shown; false when it was shown before.
  bool Advance(const v1::LogLine& line);
  // The stream begins anew, at since() of the newest attempt: what comes may have been shown.
  void Rewind();

  // The newest attempt with a line; 0: none.
  int64_t epoch() const { return epoch_; }
  // Where to go on in that attempt: a little before the last lines of its ranks.
  std::optional<absl::Time> since() const;

 private:
  // Of one rank in one attempt. Lines without a time belong to the line before them.
  struct Position {
    int64_t time_ms = 0;
    std::multiset<size_t> at_time;  // hashes of the lines shown that belong to time_ms
    bool repeats = false;           // what comes may have been shown
    int64_t repeat_ms = 0;
    std::multiset<size_t> to_skip = {};
  };
  std::map<std::pair<int64_t, int>, Position> positions_;
  int64_t epoch_ = 0;
};

}  // namespace diffmoe
