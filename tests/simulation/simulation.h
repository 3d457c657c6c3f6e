// One simulated run: a cluster, its faults, and its checker. The same seed of the same program
// always gives the same run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/world.h"

namespace diffmoe::simulation {

struct RunResult {
  uint64_t seed = 0;
  std::optional<Violation> violation;
  uint64_t trace_hash = 0;
  int64_t trace_lines = 0;
  int64_t virtual_ms = 0;
  std::vector<std::string> tail;  // of the trace
};

// `print_trace`: every line goes to standard output.
RunResult RunSimulation(uint64_t seed, bool print_trace);

}  // namespace diffmoe::simulation
