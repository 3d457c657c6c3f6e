// Whether requests with deadlines can all be in time, and which of them must come first so that
// they are. Work is counted in seconds of a machine that does nothing else; what it has promised is
// the set of requests that were begun. Served by earliest deadline a request's turn comes when the
// work due before it is done, at the latest; then it needs its own time, of which its calls, one
// after the other, may be the larger part (Graham's bound for list schedules).
//
// Made anew for every step. Not thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace diffmoe {

class DeadlinePlan {
 public:
  explicit DeadlinePlan(absl::Time now) : now_(now) {}

  // `seconds`: of its remaining work on the whole machine. `in_turn_seconds`: of the calls that
  // must follow each other, however much of the machine it gets.
  void Commit(const std::string& id, absl::Time deadline, double seconds, double in_turn_seconds);
  // A further request leaves all of them in time.
  bool Fits(absl::Time deadline, double seconds, double in_turn_seconds) const;
  // Those that must be served before everybody else, earliest deadline first.
  std::vector<std::string> Urgent() const;
  bool empty() const { return promises_.empty(); }

 private:
  struct Promise {
    std::string id;
    absl::Time deadline;
    double seconds = 0, in_turn_seconds = 0;
    double longest() const { return seconds > in_turn_seconds ? seconds : in_turn_seconds; }
  };
  double TimeUntil(absl::Time deadline) const { return absl::ToDoubleSeconds(deadline - now_); }

  const absl::Time now_;
  std::vector<Promise> promises_;  // earliest deadline first
};

}  // namespace diffmoe
