#include "tests/benchmarks/train_report.h"

#include <algorithm>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/benchmarks/layer_bench.h"
#include "tests/benchmarks/rank_runs.h"
#include "tests/benchmarks/timing.h"
#include "tests/benchmarks/workload.h"

namespace diffmoe::bench {
namespace {

constexpr double kTwoRanksOverOne = 1.7, kMoeTax = 1.10, kLayerShare = 0.80, kMemory = 1.10;
constexpr double kUndisturbed = 0.95;  // CPU time over elapsed time

// [repetition] of runs of one workload on 1 or 2 ranks.
using Runs = std::vector<RunFigures>;

double MedianOf(const Runs& runs, const std::function<double(const RunFigures&)>& value) {
  std::vector<double> values;
  for (const RunFigures& run : runs) values.push_back(value(run));
  return Median(values);
}

// Median over repetitions of the ratio of two runs of the same repetition.
double MedianRatio(const Runs& over, const Runs& under,
                   const std::function<double(const RunFigures&)>& value) {
  std::vector<double> ratios;
  for (size_t i = 0; i < over.size(); ++i) ratios.push_back(value(over[i]) / value(under[i]));
  return Median(ratios);
}

double StepSeconds(const RunFigures& run) { return run.seconds_per_step; }

class Judge {
 public:
  explicit Judge(const TrainOptions& options) : options_(options) {}

  TrainReport Run() {
    for (const int64_t experts : {8, 16}) {
      Add(absl::StrCat("MoE layer, width 384, ", experts, " experts: share of its own GEMMs"),
          MeasureMoeLayer(384, experts).share(), "", kLayerShare, {});
    }
    Measure();
    Add("GEMM rate of one thread", gemm_rate_ / 1e9, "GFLOP/s", {}, {});
    for (const std::string& name : options_.workloads) Training(MakeWorkload(name));
    CompareWithDense();
    return std::move(report_);
  }

 private:
  void Add(const std::string& name, double value, const std::string& unit,
           std::optional<double> at_least, std::optional<double> at_most) {
    report_.figures.push_back({name, value, unit, at_least, at_most});
  }

  void Measure() {
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      for (const std::string& name : options_.workloads) {
        std::vector<std::string> variants{name};
        if (MakeWorkload(name).compare_fast) variants.push_back(name + "+fast");
        for (const std::string& variant : variants) {
          for (const int ranks : {1, 2}) RunOnce(MakeWorkload(variant), ranks);
        }
      }
    }
  }

  void RunOnce(const Workload& workload, int ranks) {
    const int steps = options_.steps > 0 ? options_.steps : workload.steps;
    const RunFigures run = RunRanks(workload, ranks, steps, options_.sockets);
    runs_[{workload.name, ranks}].push_back(run);
    if (ranks == 1) gemm_rate_ = std::max(gemm_rate_, run.gemm_flops_per_second);
    Json entry{{"workload", workload.name}};
    entry.update(ToJson(run));
    entry["images_per_second"] =
        static_cast<double>(workload.config.global_batch) / run.seconds_per_step;
    report_.runs.push_back(entry);
  }

  const Runs& RunsOf(const std::string& name, int ranks) const { return runs_.at({name, ranks}); }

  void Training(const Workload& workload) {
    const std::string& name = workload.name;
    const Runs& one = RunsOf(name, 1);
    for (const int ranks : {1, 2}) {
      const Runs& runs = RunsOf(name, ranks);
      const std::string prefix =
          absl::StrCat(name, ", ", ranks, ranks == 1 ? " rank: " : " ranks: ");
      const double images = static_cast<double>(workload.config.global_batch);
      Add(prefix + "images/s",
          MedianOf(runs, [&](const RunFigures& run) { return images / run.seconds_per_step; }),
          "images/s", {}, {});
      const double flops = FlopsPerImage(workload.config.model) * images / gemm_rate_;
      Add(prefix + "share of GEMM rate",
          MedianOf(runs,
                   [&](const RunFigures& run) { return flops / (ranks * run.seconds_per_step); }),
          "", ranks == 1 ? workload.one_rank_share : workload.two_ranks_share, {});
      Add(prefix + "share of AdamW and average",
          MedianOf(runs,
                   [](const RunFigures& run) { return run.optimizer / run.seconds_per_step; }),
          "", {}, {});
      const double cpu = MedianOf(runs, [](const RunFigures& run) { return run.cpu_share; });
      Add(prefix + "CPU time over elapsed time", cpu, "", {}, {});
      if (cpu < kUndisturbed) report_.disturbed.push_back(absl::StrCat(name, " on ", ranks));
      if (workload.compare_fast) {
        Add(prefix + "deterministic step over fast step",
            MedianRatio(runs, RunsOf(name + "+fast", ranks), StepSeconds), "", {}, {});
      }
    }
    Add(name + ": collectives, 2 ranks, share of the step",
        MedianOf(RunsOf(name, 2),
                 [](const RunFigures& run) {
                   return (run.exchange + run.reduce) / run.seconds_per_step;
                 }),
        "", {}, {});
    Add(name + ": GEMM rate of 2 ranks at a time over one",
        MedianRatio(RunsOf(name, 2), one,
                    [](const RunFigures& run) { return run.gemm_flops_per_second * run.ranks; }),
        "", {}, {});
    Add(name + ": 2 ranks over 1", MedianRatio(one, RunsOf(name, 2), StepSeconds), "",
        kTwoRanksOverOne, {});
  }

  // s-e8-32 does dense-s's work per token and adds routing and exchange.
  void CompareWithDense() {
    if (!runs_.contains({"s-e8-32", 1}) || !runs_.contains({"dense-s", 1})) return;
    const TrainingConfig experts = MakeWorkload("s-e8-32").config,
                         dense = MakeWorkload("dense-s").config;
    for (const int ranks : {1, 2}) {
      const Runs &with = RunsOf("s-e8-32", ranks), &without = RunsOf("dense-s", ranks);
      const std::string prefix =
          absl::StrCat("s-e8-32 and dense-s, ", ranks, ranks == 1 ? " rank: " : " ranks: ");
      Add(prefix + "MoE tax", MedianRatio(with, without, StepSeconds), "", {}, kMoeTax);
      const auto peak = [](const RunFigures& run) { return static_cast<double>(run.peak_bytes); };
      const double states =
          static_cast<double>(StateBytes(experts, 0, ranks) - StateBytes(dense, 0, ranks));
      Add(prefix + "peak memory with experts", MedianOf(with, peak) / 1e6, "MB", {},
          kMemory * (MedianOf(without, peak) + states) / 1e6);
    }
  }

  const TrainOptions options_;
  std::map<std::pair<std::string, int>, Runs> runs_;
  double gemm_rate_ = 0;  // the best that a rank alone reached
  TrainReport report_;
};

}  // namespace

TrainReport RunTrainBenchmark(const TrainOptions& options) { return Judge(options).Run(); }

}  // namespace diffmoe::bench
