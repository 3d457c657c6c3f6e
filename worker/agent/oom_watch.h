// Tells whether the system killed a process of this one's memory group lately: it counts such kills
// in the group (cgroup v2 memory.events, cgroup v1 memory.oom_control), or for the whole machine in
// /proc/vmstat when there is no group. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace diffmoe {

class OomWatch {
 public:
  // proc, cgroups: "/proc" and "/sys/fs/cgroup" but in tests. Reads where this process belongs.
  explicit OomWatch(const std::string& proc = "/proc",
                    const std::string& cgroups = "/sys/fs/cgroup");

  // Looks at the counter; to be called about once a second, times are monotonic.
  void Poll(int64_t now_ms);
  // Looks at the counter; whether it has grown within the last 5 s.
  bool KilledLately(int64_t now_ms);
  // The file that is read; empty when there is none.
  const std::string& path() const { return path_; }

 private:
  std::optional<int64_t> Count() const;

  std::string path_;
  std::optional<int64_t> count_;
  std::optional<int64_t> grown_ms_;
};

}  // namespace diffmoe
