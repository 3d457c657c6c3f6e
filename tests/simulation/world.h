// What all parts of one simulated run share: its random numbers, its time, its trace and its
// verdict. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/simulation/random.h"
#include "tests/simulation/virtual_time.h"

namespace diffmoe::simulation {

// What happened, a line each. The hash covers every line, so two runs with the same hash did the
// same.
class Trace {
 public:
  // `print`: every line goes to standard output, too.
  Trace(const VirtualTime* time, bool print) : time_(time), print_(print) {}

  template <typename... Parts>
  void Line(absl::string_view who, const Parts&... parts) {
    Add(absl::StrCat(time_->now_ms(), " ", who, ": ", parts...));
  }
  uint64_t hash() const { return hash_; }
  int64_t lines() const { return lines_; }
  // The newest lines, oldest first.
  std::vector<std::string> Tail() const;

 private:
  static constexpr int kKeptLines = 60;
  void Add(std::string line);

  const VirtualTime* time_;
  const bool print_;
  uint64_t hash_ = 0xcbf29ce484222325u;
  int64_t lines_ = 0;
  std::array<std::string, kKeptLines> kept_;
};

// A promise that was broken.
struct Violation {
  std::string rule;  // for example "terminal states never change"
  std::string what;
  int64_t time_ms = 0;
};

struct World {
  World(uint64_t seed, bool print) : random(seed), trace(&time, print) {}

  // The first violation counts.
  void Violate(const std::string& rule, const std::string& what) {
    if (violation) return;
    violation = Violation{rule, what, time.now_ms()};
    trace.Line("VIOLATION", rule, ": ", what);
  }

  Random random;
  VirtualTime time;
  Trace trace;
  std::optional<Violation> violation;
  int64_t unix_jump_ms = 0;
  bool unix_jumped = false;
};

}  // namespace diffmoe::simulation
