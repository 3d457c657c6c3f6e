// What was seen of a scenario, held against what should be seen. Each prints a table and fails the
// run when something is wrong.
#pragma once

#include "absl/time/time.h"
#include "tests/observe/scene.h"

namespace diffmoe::test {

// Every query of every dashboard and every input of every rule has data in [begin, end].
void CheckQueries(Scene& scene, absl::Time begin, absl::Time end);

// Alerts that fired are those that the scenario expected.
void CheckAlerts(Scene& scene, absl::Time begin, absl::Time end);

// Requests and jobs add up in every scrape.
void CheckConservation(Scene& scene, absl::Time begin, absl::Time end);

// promtool has nothing to say about /metrics of any process.
void CheckEndpoints(Scene& scene, const std::string& promtool);

// Processor time of a scrape of each process, as a share of one core at a scrape a second.
void MeasureScrapes(Scene& scene);

}  // namespace diffmoe::test
