// crash_test: see --help. Built as ./run crash.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/crash/corruption_run.h"
#include "tests/crash/crash_run.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

struct Flags {
  int cycles = 20;
  int corruptions = 0;
  uint64_t seed = 0;
  std::string point;
  std::string keep_dir;
  std::string full_on_append, full_on_sync;
  bool list = false;
};

std::string NameOf(const KillPointEntry& entry) {
  return absl::StrCat(entry.name, entry.victim == Victim::kWorker ? " (worker)" : "");
}

void Print(const CrashSummary& summary, absl::Duration duration) {
  std::string missed;
  int hit = 0;
  for (const KillPointEntry& entry : KillPoints()) {
    if (summary.hits.contains(NameOf(entry))) {
      ++hit;
    } else {
      absl::StrAppend(&missed, missed.empty() ? "" : ", ", NameOf(entry));
    }
  }
  const ExpectedTotals& totals = summary.totals;
  std::cout << summary.cycles << " cycles in "
            << absl::FormatDuration(absl::Trunc(duration, absl::Seconds(1))) << ": "
            << summary.at_points << " killed at their point, " << summary.at_random
            << " at another moment; " << summary.checks << " checks of everything acknowledged\n"
            << "acknowledged: " << totals.jobs << " jobs, " << totals.cancellations
            << " cancellations, " << totals.ended << " ends, " << totals.events << " events, "
            << totals.checkpoints << " checkpoints, " << totals.pauses << " pauses, "
            << totals.labels << " labels, " << totals.pins << " pins, " << totals.deletions
            << " deletions, " << totals.thresholds << " threshold points\n"
            << "kill points: " << hit << " of " << KillPoints().size() << " hit"
            << (missed.empty() ? "" : "; never: " + missed) << "\n";
}

void Print(const CorruptionSummary& summary, absl::Duration duration) {
  std::cout << summary.cases << " damaged files in "
            << absl::FormatDuration(absl::Trunc(duration, absl::Seconds(1)))
            << "\n  refused  named  harmless  file\n";
  std::vector<int> total(3);
  for (const auto& [kind, counts] : summary.outcomes) {
    for (size_t i = 0; i < 3; ++i) total[i] += counts[i];
    std::cout << absl::StrFormat("  %7d  %5d  %8d  %s\n", counts[0], counts[1], counts[2], kind);
  }
  std::cout << absl::StrFormat("  %7d  %5d  %8d  all\n", total[0], total[1], total[2]);
}

absl::Status RunCorruptions(const std::string& dir, uint64_t seed, int cases) {
  const absl::Time begin = absl::Now();
  // The stores warn about every damaged file.
  const std::string log = dir + "/log";
  if (std::freopen(log.c_str(), "w", stderr) == nullptr)
    return absl::InternalError("cannot write " + log);
  CorruptionRun run(dir, seed);
  const absl::Status status = run.Run(cases);
  Print(run.summary(), absl::Now() - begin);
  return status;
}

absl::Status RunCycles(const std::string& dir, const Flags& flags, uint64_t seed) {
  const absl::Time begin = absl::Now();
  CrashRun run(dir, seed);
  const absl::Status status = run.Run(flags.cycles, flags.point);
  Print(run.summary(), absl::Now() - begin);
  return status;
}

int Main(const Flags& flags) {
  if (!flags.full_on_append.empty()) return RunFullDiskChild(flags.full_on_append, false);
  if (!flags.full_on_sync.empty()) return RunFullDiskChild(flags.full_on_sync, true);
  if (flags.list) {
    for (const KillPointEntry& entry : KillPoints()) std::cout << NameOf(entry) << "\n";
    return 0;
  }
  const uint64_t seed = flags.seed != 0 ? flags.seed : std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::unique_ptr<TempDir> temporary;
  std::string dir = flags.keep_dir;
  if (dir.empty()) {
    temporary = std::make_unique<TempDir>();
    dir = temporary->path();
  }
  std::filesystem::create_directories(dir);
  const absl::Status status = flags.corruptions > 0 ? RunCorruptions(dir, seed, flags.corruptions)
                                                    : RunCycles(dir, flags, seed);
  if (!status.ok()) {
    std::cout << "FAILED: " << status.message() << "\n";
    return 1;
  }
  std::cout << (flags.corruptions > 0 ? "no silent loss\n" : "nothing lost, nothing doubled\n");
  return 0;
}

}  // namespace
}  // namespace diffmoe::test

int main(int argc, char** argv) {
  diffmoe::test::Flags flags;
  CLI::App app(
      "Kills a coordinator and a worker at named moments and at random ones, again and again, and "
      "checks that nothing that was acknowledged is lost, doubled or changed.");
  app.add_option("--cycles", flags.cycles, "Kills")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option(
         "--corruptions", flags.corruptions,
         "Instead of kills: flip, cut, overwrite or delete one file of a store so many times")
      ->check(CLI::Range(1, 10'000'000));
  app.add_option("--seed", flags.seed, "Of all choices; 0 draws one")->capture_default_str();
  app.add_option("--point", flags.point, "Only kill points whose name holds this");
  app.add_option("--keep-dir", flags.keep_dir, "Directory of everything, which stays")
      ->type_name("DIR");
  app.add_flag("--list", flags.list, "Print the names of all kill points and end");
  app.add_option("--full-on-append", flags.full_on_append)->group("");
  app.add_option("--full-on-sync", flags.full_on_sync)->group("");
  CLI11_PARSE(app, argc, argv);
  return diffmoe::test::Main(flags);
}
