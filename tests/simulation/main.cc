// diffmoe-sim: runs simulated clusters, one per seed, and looks for broken promises.
// docs/simulation.md says what is simulated and checked.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "core/base/planted_faults.h"
#include "tests/simulation/canaries.h"
#include "tests/simulation/simulation.h"

namespace diffmoe::simulation {
namespace {

constexpr int kGreen = 0;
constexpr int kRed = 1;
constexpr int kUsage = 2;
// Every so many seeds one is run twice.
constexpr uint64_t kTwiceEvery = 100;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void PrintViolation(const RunResult& result, const std::string& canary) {
  for (const std::string& line : result.tail) std::printf("  %s\n", line.c_str());
  std::printf("seed %llu: broken promise at %lld ms: %s: %s\n",
              static_cast<unsigned long long>(result.seed),
              static_cast<long long>(result.violation->time_ms), result.violation->rule.c_str(),
              result.violation->what.c_str());
  std::printf("replay: ./run sim --seed %llu --trace%s%s\n",
              static_cast<unsigned long long>(result.seed), canary.empty() ? "" : " --canary ",
              canary.c_str());
}

// One seed, twice: the same program must do the same.
bool SameAgain(const RunResult& first) {
  const RunResult second = RunSimulation(first.seed, /*print_trace=*/false);
  if (first.trace_hash == second.trace_hash) return true;
  std::printf("seed %llu: two runs differ: trace hashes %016llx and %016llx\n",
              static_cast<unsigned long long>(first.seed),
              static_cast<unsigned long long>(first.trace_hash),
              static_cast<unsigned long long>(second.trace_hash));
  return false;
}

int RunSeeds(uint64_t first, uint64_t count) {
  const double begin = Seconds();
  double shown = begin;
  int64_t virtual_ms = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const RunResult result = RunSimulation(seed, /*print_trace=*/false);
    virtual_ms += result.virtual_ms;
    if (result.violation) {
      PrintViolation(result, "");
      return kRed;
    }
    if ((seed - first) % kTwiceEvery == 0 && !SameAgain(result)) return kRed;
    if (Seconds() - shown < 10) continue;
    shown = Seconds();
    std::printf("%llu of %llu seeds\n", static_cast<unsigned long long>(seed - first + 1),
                static_cast<unsigned long long>(count));
    std::fflush(stdout);
  }
  const double seconds = Seconds() - begin;
  std::printf("%llu seeds green: %.1f s, %.0f seeds/s, %.0f hours of cluster time\n",
              static_cast<unsigned long long>(count), seconds, static_cast<double>(count) / seconds,
              static_cast<double>(virtual_ms) / 3.6e6);
  return kGreen;
}

int RunSeed(uint64_t seed, bool trace, const std::string& canary) {
  const RunResult result = RunSimulation(seed, trace);
  if (result.violation) {
    PrintViolation(result, canary);
    return kRed;
  }
  std::printf("seed %llu green: %lld trace lines, hash %016llx, %.1f s of cluster time\n",
              static_cast<unsigned long long>(seed), static_cast<long long>(result.trace_lines),
              static_cast<unsigned long long>(result.trace_hash),
              static_cast<double>(result.virtual_ms) / 1000);
  return SameAgain(result) ? kGreen : kRed;
}

const Canary* FindCanary(const std::string& name) {
  for (const Canary& canary : Canaries()) {
    if (name == canary.name) return &canary;
  }
  return nullptr;
}

// Green when the planted fault is found.
int RunCanary(const Canary& canary, uint64_t first, uint64_t count) {
  planted_fault = canary.fault;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const RunResult result = RunSimulation(seed, /*print_trace=*/false);
    if (!result.violation) continue;
    std::printf("canary %s: found at seed %llu after %llu seeds: %s: %s\n", canary.name,
                static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(seed - first + 1), result.violation->rule.c_str(),
                result.violation->what.c_str());
    std::fflush(stdout);
    return kGreen;
  }
  std::printf("canary %s: not found in %llu seeds\n", canary.name,
              static_cast<unsigned long long>(count));
  return kRed;
}

int RunAllCanaries(uint64_t first, uint64_t count) {
  int result = kGreen;
  for (const Canary& canary : Canaries()) {
    if (RunCanary(canary, first, count) != kGreen) result = kRed;
  }
  return result;
}

void ListCanaries() {
  for (const Canary& canary : Canaries()) std::printf("%-26s %s\n", canary.name, canary.what);
}

int Main(int argc, char** argv) {
  CLI::App app("Simulated clusters, one per seed, and checkers that look for broken promises.");
  uint64_t seeds = 1000, first = 1, seed = 0;
  bool trace = false, list = false, all = false;
  std::string canary_name;
  app.add_option("--seeds", seeds, "How many seeds to run")->capture_default_str();
  app.add_option("--first-seed", first, "The first of them")->capture_default_str();
  auto* one = app.add_option("--seed", seed, "Run this seed only, twice");
  app.add_flag("--trace", trace, "With --seed: print every line of its trace");
  app.add_option(
      "--canary", canary_name,
      "Plant this fault and look for it, in at most 1000 seeds; with --seed in that one");
  app.add_flag("--canaries", all, "Plant every fault, one after the other");
  app.add_flag("--list-canaries", list, "Name the faults that can be planted");
  CLI11_PARSE(app, argc, argv);
  if (list) {
    ListCanaries();
    return kGreen;
  }
  constexpr uint64_t kCanarySeeds = 1000;
  if (all) return RunAllCanaries(first, kCanarySeeds);
  if (canary_name.empty()) {
    return *one ? RunSeed(seed, trace, "") : RunSeeds(first, seeds);
  }
  const Canary* canary = FindCanary(canary_name);
  if (canary == nullptr) {
    std::fprintf(stderr, "unknown canary '%s'; --list-canaries names them\n", canary_name.c_str());
    return kUsage;
  }
  if (!*one) return RunCanary(*canary, first, kCanarySeeds);
  planted_fault = canary->fault;
  return RunSeed(seed, trace, canary_name);
}

}  // namespace
}  // namespace diffmoe::simulation

int main(int argc, char** argv) { return diffmoe::simulation::Main(argc, argv); }
