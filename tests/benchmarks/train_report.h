// Runs the training benchmark and judges it.
#pragma once

#include <string>
#include <vector>

#include "tests/benchmarks/report.h"

namespace diffmoe::bench {

struct TrainOptions {
  std::vector<std::string> workloads;  // of WorkloadNames()
  int steps = 0;                       // timed steps a run, 0: each workload's own number
  int repetitions = 3;                 // of all runs, in turn
  bool sockets = false;                // Gloo also between ranks of one host
};

struct TrainReport {
  std::vector<Figure> figures;
  Json runs;  // every run of every workload
  // "demo on 2": workloads and ranks that did not have their cores for themselves.
  std::vector<std::string> disturbed;
};

// Ratios are medians over repetitions of two runs that followed one another. Throws
// std::runtime_error.
TrainReport RunTrainBenchmark(const TrainOptions& options);

}  // namespace diffmoe::bench
