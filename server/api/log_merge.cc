#include "server/api/log_merge.h"

#include <algorithm>
#include <utility>

namespace diffmoe::server {
namespace {

constexpr size_t kAllBytes = 4 << 20;
constexpr size_t kLeastBytes = 256 << 10;
constexpr size_t kResponseBytes = 256 << 10;
constexpr int kResponseLines = 2000;

size_t BytesOf(const v1::LogLine& line) { return line.text().size() + 128; }

}  // namespace

bool LogMerge::AllEnded() const {
  return std::all_of(sources_.begin(), sources_.end(),
                     [](const auto& source) { return source.second.ended; });
}

bool LogMerge::Empty() const {
  return std::all_of(sources_.begin(), sources_.end(),
                     [](const auto& source) { return source.second.lines.empty(); });
}

size_t LogMerge::SourceLimit() const {
  return std::max(kLeastBytes, kAllBytes / std::max<size_t>(1, sources_.size()));
}

void LogMerge::Add(const std::string& read_id, int64_t epoch, worker::v1::LogLines lines,
                   absl::Time now) {
  LogSource& source = sources_.at(read_id);
  source.heard = now;
  for (v1::LogLine& line : *lines.mutable_lines()) {
    line.set_worker_id(source.worker_id);
    line.set_epoch(epoch);
    if (line.has_time()) {
      source.time_ms =
          std::max(source.time_ms, line.time().seconds() * 1000 + line.time().nanos() / 1'000'000);
    }
    source.bytes += BytesOf(line);
    source.lines.push_back({source.time_ms, now, std::move(line)});
  }
}

void LogMerge::Take(absl::Time now, const absl::Duration* delay, v1::ReadJobLogsResponse* out,
                    absl::Time* wake) {
  size_t bytes = 0;
  while (bytes < kResponseBytes && out->lines_size() < kResponseLines) {
    LogSource* oldest = nullptr;
    bool complete = true;
    for (auto& [id, source] : sources_) {
      if (source.lines.empty()) {
        complete = complete && source.ended;
      } else if (oldest == nullptr ||
                 source.lines.front().time_ms < oldest->lines.front().time_ms) {
        oldest = &source;
      }
    }
    if (oldest == nullptr) return;
    if (!complete) {
      if (delay == nullptr) return;
      const absl::Time due = oldest->lines.front().come + *delay;
      if (now < due) {
        *wake = std::min(*wake, due);
        return;
      }
    }
    v1::LogLine& line = oldest->lines.front().line;
    const size_t size = BytesOf(line);
    *out->add_lines() = std::move(line);
    bytes += size;
    oldest->bytes -= std::min(oldest->bytes, size);
    oldest->lines.pop_front();
    if (oldest->lines.empty()) oldest->heard = now;  // it may have waited for room until now
  }
}

}  // namespace diffmoe::server
