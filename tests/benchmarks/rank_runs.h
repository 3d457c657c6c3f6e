// Training steps in one process per rank.
#pragma once

#include <cstdint>
#include <string>

#include "tests/benchmarks/report.h"
#include "tests/benchmarks/workload.h"

namespace diffmoe::bench {

// Medians over the timed steps of rank 0.
struct RunFigures {
  int ranks = 1;
  // GemmRate before the steps; with several ranks all measure at the same time.
  double gemm_flops_per_second = 0;
  double seconds_per_step = 0;
  double forward = 0, backward = 0, exchange = 0, reduce = 0, optimizer = 0;  // seconds
  // CPU time over elapsed time: below 0.95 other programs disturbed the run.
  double cpu_share = 0;
  double cpu_seconds_per_step = 0;  // mean, spinning for a peer included
  double bytes_sent_per_step = 0, collectives_per_step = 0;
  int64_t peak_bytes = 0;  // resident memory of the process, largest so far
  std::string transport;
};

Json ToJson(const RunFigures& run);

// FLOP per second of this thread's CPU time, of at::mm at 2048 x 384 x 1536.
double GemmRate();

// Starts the ranks, waits for them. Throws std::runtime_error when one fails.
RunFigures RunRanks(const Workload& workload, int ranks, int steps, bool sockets);

// What a rank process does (`diffmoe-bench rank`): writes its figures to file 3.
int RankMain(const std::string& workload, int rank, int ranks, int steps, bool sockets,
             const std::string& store_path);

}  // namespace diffmoe::bench
