// invariance_bench: trains every family for 50 deterministic steps under six layouts and prints one
// SHA-256 of all weights, averages, moments and thresholds per layout. One value per family, or the
// program fails.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <set>
#include <string>

#include "tests/multiprocess/training_run.h"

namespace diffmoe {
namespace {

struct NamedFamily {
  const char* name;
  Family family;
};
constexpr NamedFamily kFamilies[] = {{"dense", Family::kDense},
                                     {"token_choice", Family::kTokenChoice},
                                     {"expert_choice", Family::kExpertChoice},
                                     {"diffmoe", Family::kDiffMoe}};
constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};

int Main(int argc, char** argv) {
  int64_t steps = 50;
  CLI::App app{"Trains the same model under six layouts and compares every bit of the result."};
  app.add_option("--steps", steps, "Optimiser steps")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  bool same = true;
  for (const NamedFamily& family : kFamilies) {
    TrainingConfig config = SmallConfig(family.family);
    config.steps = steps;
    std::set<std::string> digests;
    for (const Layout& layout : kLayouts) {
      const TrainingRun run = Train(config, layout);
      const std::string digest = run.Sha256();
      digests.insert(digest);
      std::printf("%-14s ranks %d  expert_parallel %d  loss %.6f  %s\n", family.name, layout.ranks,
                  static_cast<int>(layout.expert_parallel), run.losses.back(), digest.c_str());
      std::fflush(stdout);
    }
    same = same && digests.size() == 1;
    std::printf("%-14s %s\n", family.name, digests.size() == 1 ? "one value" : "LAYOUTS DIFFER");
  }
  return same ? 0 : 1;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) { return diffmoe::Main(argc, argv); }
