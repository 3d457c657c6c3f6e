#include "client/log_cursor.h"

#include <algorithm>
#include <functional>
#include <string>

namespace diffmoe {
namespace {

// Lines of several ranks arrive in order to within less than this.
constexpr int64_t kOverlapMs = 5'000;

}  // namespace

bool LogCursor::Advance(const v1::LogLine& line) {
  epoch_ = std::max(epoch_, line.epoch());
  Position& at = positions_[{line.epoch(), line.rank()}];
  const int64_t own_ms =
      line.has_time() ? line.time().seconds() * 1000 + line.time().nanos() / 1'000'000 : 0;
  const size_t hash = std::hash<std::string>{}(line.text());
  if (at.repeats) {
    at.repeat_ms = std::max(at.repeat_ms, own_ms);
    if (at.repeat_ms < at.time_ms) return false;
    if (at.repeat_ms == at.time_ms) {
      const auto shown = at.to_skip.find(hash);
      if (shown != at.to_skip.end()) {
        at.to_skip.erase(shown);
        return false;
      }
    }
    at.repeats = false;
  }
  if (own_ms > at.time_ms) {
    at.time_ms = own_ms;
    at.at_time.clear();
  }
  at.at_time.insert(hash);
  return true;
}

void LogCursor::Rewind() {
  for (auto& [key, at] : positions_) {
    at.repeats = true;
    at.repeat_ms = 0;
    at.to_skip = at.at_time;
  }
}

std::optional<absl::Time> LogCursor::since() const {
  std::optional<int64_t> oldest_ms;
  for (const auto& [key, at] : positions_) {
    if (key.first != epoch_) continue;
    oldest_ms = std::min(oldest_ms.value_or(at.time_ms), at.time_ms);
  }
  if (!oldest_ms.has_value() || *oldest_ms <= kOverlapMs) return std::nullopt;
  return absl::FromUnixMillis(*oldest_ms - kOverlapMs);
}

}  // namespace diffmoe
