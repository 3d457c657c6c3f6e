#include "worker/agent/hang_watch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace diffmoe {

void HangWatch::Begin(int64_t now_ms) {
  watching_ = true;
  heard_ms_ = moved_ms_ = now_ms;
}

void HangWatch::Hear(const worker::v1::RankHeartbeat& heartbeat, int64_t now_ms) {
  heard_ms_ = now_ms;
  // The time that peers took isn't this rank's.
  if (heartbeat.position() != last_.position() || last_.waits_for_peers()) moved_ms_ = now_ms;
  last_ = heartbeat;
}

void HangWatch::Forgive(int64_t ms) {
  heard_ms_ += ms;
  moved_ms_ += ms;
}

int64_t HangWatch::silence_due_ms() const {
  return heard_ms_ + std::max(kShortestSilenceMs, last_.limit_ms());
}

int64_t HangWatch::position_due_ms() const {
  return last_.limit_ms() <= 0 || last_.waits_for_peers() ? kNever : moved_ms_ + last_.limit_ms();
}

int64_t HangWatch::due_ms() const {
  return watching_ ? std::min(silence_due_ms(), position_due_ms()) : kNever;
}

std::optional<std::string> HangWatch::Verdict(int64_t now_ms) const {
  if (now_ms < due_ms()) return std::nullopt;
  const bool silent = now_ms >= silence_due_ms();
  const int64_t since_ms = silent ? heard_ms_ : moved_ms_;
  return absl::StrCat(silent ? "no sign of life" : "no progress", " for ",
                      absl::StrFormat("%.1f", static_cast<double>(now_ms - since_ms) / 1000),
                      " s, in ", last_.doing().empty() ? "its start" : last_.doing(),
                      " after step ", last_.step());
}

}  // namespace diffmoe
