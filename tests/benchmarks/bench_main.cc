// diffmoe-bench: benchmarks of the training code. One JSON object on standard output, a table for
// people on standard error. Figures and their targets come from the same run on one thread a rank.
#include <ATen/Parallel.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "absl/strings/str_join.h"
#include "tests/benchmarks/collectives_bench.h"
#include "tests/benchmarks/rank_runs.h"
#include "tests/benchmarks/train_report.h"

namespace diffmoe::bench {
namespace {

int TrainMain(const TrainOptions& options) {
  const TrainReport report = RunTrainBenchmark(options);
  Json out{{"figures", Json::array()}, {"disturbed", report.disturbed}, {"runs", report.runs}};
  for (const Figure& figure : report.figures) out["figures"].push_back(ToJson(figure));
  std::printf("%s\n", out.dump(2).c_str());
  std::fprintf(stderr, "%s", Table(report.figures).c_str());
  if (!report.disturbed.empty()) {
    std::fprintf(stderr, "Other programs took CPU time; too slow are: %s ranks.\n",
                 absl::StrJoin(report.disturbed, ", ").c_str());
  }
  return 0;
}

int Main(int argc, char** argv) {
  // As diffmoe-rank does: freed memory is kept.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  at::set_num_threads(1);
  CLI::App app{
      "Benchmarks of the training code. JSON on standard output, a table on standard error."};
  app.require_subcommand(1);
  TrainOptions options;
  options.workloads = {"demo"};
  CLI::App* train = app.add_subcommand("train", "Training steps on 1 and 2 ranks, and a MoE layer");
  train->add_option("--workloads", options.workloads, "demo s-e8 s-e16 s-e8-32 dense-s");
  train->add_option("--steps", options.steps, "Timed steps a run");
  train->add_option("--repetitions", options.repetitions, "Of all runs, in turn")
      ->check(CLI::PositiveNumber);
  train->add_flag("--sockets", options.sockets, "Gloo between ranks instead of shared memory");
  app.add_subcommand("collectives", "Collectives over shared memory and over sockets");
  CLI::App* one = app.add_subcommand("rank", "One rank of `train`; figures go to file 3");
  std::string workload = "demo", store;
  int rank = 0, ranks = 1, steps = 1;
  bool sockets = false;
  one->add_option("--workload", workload);
  one->add_option("--rank", rank);
  one->add_option("--ranks", ranks);
  one->add_option("--steps", steps);
  one->add_option("--store", store);
  one->add_flag("--sockets", sockets);
  CLI11_PARSE(app, argc, argv);
  try {
    if (train->parsed()) return TrainMain(options);
    if (one->parsed()) return RankMain(workload, rank, ranks, steps, sockets, store);
    std::printf("%s\n", MeasureCollectives().dump(2).c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "diffmoe-bench: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace diffmoe::bench

int main(int argc, char** argv) { return diffmoe::bench::Main(argc, argv); }
