#include "worker/agent/oom_watch.h"

#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace diffmoe {
namespace {

constexpr int64_t kLatelyMs = 5'000;

// The value of the line "oom_kill N".
std::optional<int64_t> ReadCount(const std::string& path) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    int64_t count = 0;
    if (words.size() == 2 && words[0] == "oom_kill" && absl::SimpleAtoi(words[1], &count)) {
      return count;
    }
  }
  return std::nullopt;
}

// Where the counter may be, the best place first. A line of /proc/self/cgroup is
// "0::/path" (v2) or "4:memory:/path" (v1); in a container the path may be its root's.
std::vector<std::string> Candidates(const std::string& proc, const std::string& cgroups) {
  std::vector<std::string> out;
  std::ifstream in(absl::StrCat(proc, "/self/cgroup"));
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    for (const std::string& controller : controllers) {
      if (controller == "memory") {
        for (const std::string& path : {parts[2], std::string()}) {
          out.push_back(absl::StrCat(cgroups, "/memory", path, "/memory.oom_control"));
        }
      } else if (parts[0] == "0") {
        for (const std::string& path : {parts[2], std::string()}) {
          out.push_back(absl::StrCat(cgroups, path, "/memory.events"));
        }
      }
    }
  }
  out.push_back(absl::StrCat(proc, "/vmstat"));
  return out;
}

}  // namespace

OomWatch::OomWatch(const std::string& proc, const std::string& cgroups) {
  for (const std::string& path : Candidates(proc, cgroups)) {
    count_ = ReadCount(path);
    if (!count_.has_value()) continue;
    path_ = path;
    return;
  }
}

std::optional<int64_t> OomWatch::Count() const {
  return path_.empty() ? std::nullopt : ReadCount(path_);
}

void OomWatch::Poll(int64_t now_ms) {
  const std::optional<int64_t> count = Count();
  if (!count.has_value()) return;
  if (count_.has_value() && *count > *count_) grown_ms_ = now_ms;
  count_ = count;
}

bool OomWatch::KilledLately(int64_t now_ms) {
  Poll(now_ms);
  return grown_ms_.has_value() && now_ms - *grown_ms_ <= kLatelyMs;
}

}  // namespace diffmoe
