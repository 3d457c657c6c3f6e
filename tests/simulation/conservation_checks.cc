// What the counters say: everything that came is somewhere, in every scrape.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/simulation/checker.h"

namespace diffmoe::simulation {

void Checker::CheckConservation(const server::State& state) {
  // Samples, as diffmoe_sample_* show them: counters of this life of the coordinator, and gauges.
  const auto queued = static_cast<int64_t>(state.sample_queue.size());
  const auto running = static_cast<int64_t>(state.samples.size()) - queued;
  int64_t ended = 0;
  for (const auto& [outcome, count] : sample_counts_.ended) ended += count;
  const std::string counts =
      absl::StrCat(sample_counts_.submitted, " submitted, ", ended, " counted as ended, ", running,
                   " running, ", queued, " queued");
  if (sample_counts_.submitted != ended + running + queued) {
    world_->Violate("submitted = done + failed + cancelled + refused + running + queued", counts);
  }
  if (sample_counts_.streams_ended != ended) {
    world_->Violate("a request that ends is counted once",
                    absl::StrCat(counts, ", ", sample_counts_.streams_ended, " streams ended"));
  }
  // Jobs, as diffmoe_jobs and diffmoe_jobs_submitted_total show them; those that are durable, too.
  const auto shown = static_cast<int64_t>(state.jobs.size());
  const int64_t submitted = std::max<int64_t>(0, state.header.next_job_number() - 1);
  if (submitted != shown || static_cast<int64_t>(ids_by_number_.size()) != shown) {
    world_->Violate("every submitted job is in one state",
                    absl::StrCat(submitted, " submitted, ", ids_by_number_.size(), " durable, ",
                                 shown, " in a state"));
  }
}

}  // namespace diffmoe::simulation
