// What happens while the cluster is watched.
#pragma once

#include "absl/time/time.h"
#include "tests/observe/scene.h"

namespace diffmoe::test {

// Training with several MoE layers, sampling, a calibration, checkpoints, an ended job, and faults
// one after the other, each held until its alerts have fired: refused requests, ranks that are
// killed, a job whose loss is not a number, dead experts, a worker that dies, a coordinator that
// stands still and one that dies. Lasts until `end` at least.
void RunScenario(Scene& scene, absl::Time end);

}  // namespace diffmoe::test
