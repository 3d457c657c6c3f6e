// What a load generator saw, and its summary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json_fwd.hpp"

namespace diffmoe {

struct LoadOutcome {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  double start_seconds = 0;            // since the start of the run
  double latency_seconds = 0;          // to the end of the call
  double first_progress_seconds = -1;  // to the first denoise step that was reported; -1: none came
  int images = 0;                      // complete ones
};

struct LoadResult {
  std::string arrivals;         // "closed, 8 at a time" or "Poisson, 4 a second"
  double window_seconds = 0;    // in which requests were started
  double wall_seconds = 0;      // until the last one ended
  double deadline_seconds = 0;  // of each request; 0: none
  int images_per_request = 0;
  int most_in_flight = 0;
  int in_flight_bound = 0;
  int64_t not_started = 0;  // arrivals while the bound was reached
  std::vector<LoadOutcome> outcomes;
  std::vector<double> unary_seconds;  // small calls on the same connection, nothing else running
};

struct Percentiles {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p95 = 0;
  double p99 = 0;
};

// By nearest rank; zeros for no values.
Percentiles PercentilesOf(std::vector<double> values);

// Rates count requests that ended with success inside the window.
nlohmann::ordered_json LoadReportJson(const LoadResult& result);
std::string LoadReportText(const LoadResult& result);

}  // namespace diffmoe
