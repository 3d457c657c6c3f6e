// The training runs that the benchmark knows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/spec/training_config.h"

namespace diffmoe::bench {

struct Workload {
  std::string name;
  TrainingConfig config;
  int steps = 4;  // timed, unless the caller says otherwise
  // Least share of the machine's GEMM rate on one and on two ranks.
  std::optional<double> one_rank_share, two_ranks_share;
  bool compare_fast = false;  // also run with config.deterministic = false
};

// "demo", "s-e8", "s-e16", "s-e8-32", "dense-s", or one of them with "+fast" for
// config.deterministic = false. Throws std::invalid_argument that lists the names.
Workload MakeWorkload(const std::string& name);

// The names, in the order in which they are run.
const std::vector<std::string>& WorkloadNames();

// Floating-point operations of the matrix products per image, linear layers and attention, forward
// and backward (three times forward).
double FlopsPerImage(const ModelConfig& model);

// Bytes of weights, gradients, two moments and average that one rank holds, fp32.
int64_t StateBytes(const TrainingConfig& config, int rank, int ranks);

}  // namespace diffmoe::bench
