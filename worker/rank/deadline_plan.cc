#include "worker/rank/deadline_plan.h"

#include <algorithm>

namespace diffmoe {
namespace {

// Promised of the time until a deadline; the rest is for calls that take longer than they did.
constexpr double kPromised = 0.95;
// From here on the work due by a deadline comes first.
constexpr double kTight = 0.8;

}  // namespace

void DeadlinePlan::Commit(const std::string& id, absl::Time deadline, double seconds,
                          double in_turn_seconds) {
  const auto place = std::ranges::upper_bound(promises_, deadline, {}, &Promise::deadline);
  promises_.insert(place, {id, deadline, seconds, in_turn_seconds});
}

bool DeadlinePlan::Fits(absl::Time deadline, double seconds, double in_turn_seconds) const {
  double before = 0;
  for (const Promise& promise : promises_) {
    if (promise.deadline <= deadline) before += promise.seconds;
  }
  if (before + std::max(seconds, in_turn_seconds) > kPromised * TimeUntil(deadline)) return false;
  before += seconds;
  for (const Promise& promise : promises_) {
    if (promise.deadline <= deadline) continue;
    if (before + promise.longest() > kPromised * TimeUntil(promise.deadline)) return false;
    before += promise.seconds;
  }
  return true;
}

std::vector<std::string> DeadlinePlan::Urgent() const {
  size_t tight = 0;  // promises up to the last one whose turn comes hardly early enough
  double before = 0;
  for (size_t i = 0; i < promises_.size(); ++i) {
    if (before + promises_[i].longest() >= kTight * TimeUntil(promises_[i].deadline)) tight = i + 1;
    before += promises_[i].seconds;
  }
  std::vector<std::string> urgent;
  for (size_t i = 0; i < tight; ++i) urgent.push_back(promises_[i].id);
  return urgent;
}

}  // namespace diffmoe
