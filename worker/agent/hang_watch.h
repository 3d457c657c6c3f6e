// Watches one rank for hangs by its heartbeats. A rank hangs when
// - no heartbeat comes for its last known limit, at least 10 s: the process doesn't run, or
// - heartbeats come, but for its limit it did no piece of work and didn't wait for peers.
// A rank that waits for its peers is left alone: its own collective has a deadline, and the culprit
// is watched as well, here or on another host.
//
// Times are monotonic milliseconds. Not thread-safe.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "diffmoe/worker/v1/rank_plane.pb.h"

namespace diffmoe {

class HangWatch {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  static constexpr int64_t kShortestSilenceMs = 10'000;

  // The rank's session is open: from now on it must be heard.
  void Begin(int64_t now_ms);
  // Its session has ended: whatever it does now is no hang.
  void End() { watching_ = false; }
  void Hear(const worker::v1::RankHeartbeat& heartbeat, int64_t now_ms);
  // The watcher itself didn't run for that long: nobody is blamed for it.
  void Forgive(int64_t ms);

  // When Verdict may have something to say; kNever without a session.
  int64_t due_ms() const;
  // What is wrong and what the rank was doing: "no sign of life for 10.2 s, in all-to-all dispatch
  // of block 3 after step 42". Nothing while all is well.
  std::optional<std::string> Verdict(int64_t now_ms) const;

 private:
  int64_t silence_due_ms() const;
  int64_t position_due_ms() const;

  bool watching_ = false;
  int64_t heard_ms_ = 0;  // the last heartbeat
  int64_t moved_ms_ = 0;  // the first heartbeat with the last position
  worker::v1::RankHeartbeat last_;
};

}  // namespace diffmoe
