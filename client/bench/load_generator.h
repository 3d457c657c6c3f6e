// Sends sampling requests at a cluster and measures what comes back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/api_client.h"
#include "client/bench/load_report.h"
#include "client/interrupt.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

struct LoadOptions {
  v1::SampleRequest request;     // with seed; request i takes seed + i
  std::vector<int32_t> classes;  // request i asks for classes[i mod size]
  // Closed loop: so many at a time; 0: open loop with Poisson arrivals of `rate` a second.
  int closed = 1;
  double rate = 0;
  uint64_t arrival_seed = 1;
  absl::Duration window = absl::Seconds(10);            // in which requests are started
  int64_t max_requests = 1'000'000;                     // outcomes that are kept in memory
  absl::Duration deadline = absl::InfiniteDuration();   // of each request
  absl::Duration drain_limit = absl::Seconds(60);       // after the window; then they are cancelled
  int in_flight_bound = 4096;                           // of the open loop
  int unary_calls = 100;                                // before and after
  std::function<void(const std::string&)> on_progress;  // about twice a second
};

// Times of Poisson arrivals within the window, in seconds; a function of the seed.
class PoissonArrivals {
 public:
  PoissonArrivals(double rate, uint64_t seed) : rate_(rate), state_(seed) {}
  double Next();

 private:
  const double rate_;
  uint64_t state_;
  double now_ = 0;
};

// Blocks until every request has ended. An open loop never waits for replies. Errors: those of the
// unary calls; requests that fail are outcomes. An interrupt ends the run early.
absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, ApiClient* client,
                                   Interrupt* interrupt);

}  // namespace diffmoe
