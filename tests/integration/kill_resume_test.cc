// A run that is killed over and over is the same run, bit for bit: weights, their average, the
// thresholds and every step record equal those of a run that nobody disturbed.
//
//   kill_resume_test [--kills=N] [--steps-between=N] [--seed=N] [--full]
//
// Default: 5 kills, a random seed, which is printed, and a small network. --full: the demo's own.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

int kills = 5;
uint64_t seed = 0;
bool full = false;

constexpr absl::Duration kJobLimit = absl::Minutes(5);
constexpr absl::Duration kRestartLimit = absl::Seconds(60);
// From a kill to the first new step.
constexpr absl::Duration kRestartTarget = absl::Seconds(10);
// With fewer steps between kills, checkpoints are as many times closer.
int64_t steps_between_kills = 25;
int64_t StepsBetweenCheckpoints() { return std::max<int64_t>(1, steps_between_kills * 2 / 5); }

// What a finished run leaves behind.
struct Outcome {
  std::string model, average;  // safetensors files
  nlohmann::json thresholds, records;
};

class KillResumeTest : public ::testing::Test {
 protected:
  // The demo job without its time limit, which would make a run depend on the machine's speed.
  std::string DemoJob() {
    std::ifstream in(DIFFMOE_SOURCE_DIR "/deploy/jobs/fashion-demo.yaml");
    std::ostringstream text;
    for (std::string line; std::getline(in, line);) {
      if (line.find("minutes:") == std::string::npos) text << line << '\n';
    }
    std::string path = temp_.Sub("job.yaml");
    WriteFile(path, text.str());
    return path;
  }

  static std::string Submit(Cluster& cluster, const std::string& file,
                            const std::vector<std::string>& overrides) {
    std::vector<std::string> arguments = {"submit", file};
    for (const std::string& assignment : overrides) {
      arguments.insert(arguments.end(), {"--set", assignment});
    }
    const auto result = cluster.Cli(arguments);
    EXPECT_TRUE(result.ok() && result->exit == (ExitState{0, 0}))
        << result.status() << (result.ok() ? result->err : "");
    return result.ok() ? std::string(absl::StripAsciiWhitespace(result->out)) : "";
  }

  static std::vector<std::string> Overrides(int64_t steps) {
    std::vector<std::string> overrides = {
        absl::StrCat("train.steps=", steps),
        absl::StrCat("checkpoint.every_steps=", StepsBetweenCheckpoints()),
        // A rank that is killed counts as a failure of the job.
        absl::StrCat("parallel.max_restarts=", 10 * kills)};
    if (!full) {
      overrides.insert(overrides.end(), {"model.width=64", "model.depth=4", "model.heads=2"});
    }
    return overrides;
  }

  // A step in the window of that kill.
  static int64_t RandomStep(int kill_number, std::mt19937_64& random) {
    return steps_between_kills * kill_number + 1 +
           static_cast<int64_t>(random() % (steps_between_kills - 1));
  }

  Outcome Finish(Cluster& cluster, const std::string& id, int64_t steps) {
    Outcome out;
    const auto job = AwaitState(cluster, id, "SUCCEEDED", kJobLimit);
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return out;
    EXPECT_EQ(Int((*job)["progress"], "step"), steps);
    for (auto [weights, bytes] : {std::pair("model", &out.model), std::pair("ema", &out.average)}) {
      const std::string path = temp_.Sub(absl::StrCat(id, "-", weights));
      const auto result = cluster.Cli({"ckpt", "export", id, "--weights", weights, "--out", path});
      EXPECT_TRUE(result.ok() && result->exit == (ExitState{0, 0}))
          << result.status() << (result.ok() ? result->err : "");
      *bytes = ReadFile(path);
      EXPECT_FALSE(bytes->empty());
    }
    const auto checkpoint = cluster.CliJson({"ckpt", "get", id});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (checkpoint.ok()) out.thresholds = (*checkpoint)["thresholds"];
    EXPECT_FALSE(out.thresholds.empty());
    const auto records = cluster.CliJson({"metrics", id, "--points", "10000"});
    EXPECT_TRUE(records.ok()) << records.status();
    if (records.ok()) out.records = (*records)["records"];
    EXPECT_EQ(static_cast<int64_t>(out.records.size()), steps);
    return out;
  }

  static void ExpectSame(const Outcome& disturbed, const Outcome& undisturbed) {
    EXPECT_TRUE(disturbed.model == undisturbed.model) << "other weights";
    EXPECT_TRUE(disturbed.average == undisturbed.average) << "another average";
    EXPECT_EQ(disturbed.thresholds, undisturbed.thresholds);
    ASSERT_EQ(disturbed.records.size(), undisturbed.records.size());
    for (size_t i = 0; i < undisturbed.records.size(); ++i) {
      ASSERT_EQ(disturbed.records[i], undisturbed.records[i]);
    }
  }

  // Waits until the job has made at least `step` steps; what it was like then.
  static v1::Job AwaitStep(Cluster& cluster, const std::string& id, int64_t step) {
    v1::Job job;
    EXPECT_TRUE(WaitUntil(kJobLimit,
                          [&] {
                            job = LookAtJob(cluster, id);
                            return job.progress().step() >= step;
                          }))
        << "step " << step << ": " << job.ShortDebugString();
    return job;
  }

  // Time from the kill until a step of a newer attempt than `before`'s or, without new_attempt, any
  // step after `before`.
  static absl::Duration AwaitNewStep(Cluster& cluster, const std::string& id, const v1::Job& before,
                                     absl::Time killed, bool new_attempt) {
    v1::Job job;
    EXPECT_TRUE(WaitUntil(kRestartLimit, [&] {
      job = LookAtJob(cluster, id);
      if (job.state() == v1::SUCCEEDED) return true;
      if (!new_attempt) return job.progress().step() > before.progress().step();
      if (job.epoch() <= before.epoch() || job.attempts_size() == 0) return false;
      const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
      return attempt.epoch() > before.epoch() && attempt.last_step() > attempt.restored_step();
    })) << job.ShortDebugString();
    return absl::Now() - killed;
  }

  TempDir temp_;
};

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
}

// Kills the victim, 0 or 1: that rank, 2: the worker, 3: the coordinator; starts again what nobody
// else starts.
void Kill(Cluster& cluster, const std::string& id, int victim) {
  if (victim < 2) {
    const auto ranks =
        ChildrenOf(cluster.worker()->pid(), {"diffmoe-rank", id, absl::StrCat("--rank ", victim)});
    ASSERT_EQ(ranks.size(), 1u);
    ASSERT_EQ(kill(ranks[0], SIGKILL), 0);
  } else if (victim == 2) {
    cluster.KillWorker();
    ASSERT_TRUE(cluster.StartWorker().ok());
  } else {
    cluster.KillCoordinator();
    ASSERT_TRUE(cluster.StartCoordinator().ok());
  }
}

TEST_F(KillResumeTest, AnyKillAtAnyStepChangesNoBit) {
  std::printf("seed %llu, %d kills\n", static_cast<unsigned long long>(seed), kills);
  std::mt19937_64 random(seed);
  const int64_t steps = steps_between_kills * (kills + 1);
  const std::string file = DemoJob();
  const std::vector<std::string> overrides = Overrides(steps);
  ClusterOptions options;
  options.slots = 2;
  Cluster cluster(options);
  ASSERT_TRUE(cluster.Start().ok());
  const Outcome undisturbed = Finish(cluster, Submit(cluster, file, overrides), steps);
  ASSERT_FALSE(HasFailure());

  const std::string id = Submit(cluster, file, overrides);
  std::vector<double> seconds;
  for (int kill_number = 0; kill_number < kills; ++kill_number) {
    const v1::Job before = AwaitStep(cluster, id, RandomStep(kill_number, random));
    const int victim = static_cast<int>(random() % 4);
    const absl::Time killed = absl::Now();
    ASSERT_NO_FATAL_FAILURE(Kill(cluster, id, victim));
    const absl::Duration took = AwaitNewStep(cluster, id, before, killed, victim != 3);
    seconds.push_back(absl::ToDoubleSeconds(took));
    const char* const names[] = {"rank 0", "rank 1", "worker", "coordinator"};
    std::printf("killed %s at step %lld, new step after %.2f s\n", names[victim],
                static_cast<long long>(before.progress().step()), seconds.back());
    std::fflush(stdout);
    ASSERT_FALSE(HasFailure());
  }
  ExpectSame(Finish(cluster, id, steps), undisturbed);
  std::printf("from kill to new step: median %.2f s, p95 %.2f s, most %.2f s; target p95 %.0f s\n",
              Percentile(seconds, 0.5), Percentile(seconds, 0.95), Percentile(seconds, 1),
              absl::ToDoubleSeconds(kRestartTarget));
  RecordProperty("restart_p95_ms", static_cast<int>(1000 * Percentile(seconds, 0.95)));
}

// The worker dies and comes back with another number of slots.
TEST_F(KillResumeTest, OtherNumbersOfRanksOnTheWayChangeNoBit) {
  const std::vector<int> slots = {4, 2, 1, 2};
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  const int64_t steps = steps_between_kills * static_cast<int64_t>(slots.size());
  const std::string file = DemoJob();
  std::vector<std::string> overrides = Overrides(steps);
  overrides.insert(overrides.end(), {"parallel.ranks=4", "parallel.min_ranks=1"});
  ClusterOptions options;
  options.slots = slots[0];
  Cluster cluster(options);
  ASSERT_TRUE(cluster.Start().ok());
  const Outcome undisturbed = Finish(cluster, Submit(cluster, file, overrides), steps);
  ASSERT_FALSE(HasFailure());

  const std::string id = Submit(cluster, file, overrides);
  for (size_t i = 1; i < slots.size(); ++i) {
    const v1::Job before = AwaitStep(cluster, id, RandomStep(static_cast<int>(i) - 1, random));
    const absl::Time killed = absl::Now();
    cluster.set_slots(slots[i]);
    ASSERT_NO_FATAL_FAILURE(Kill(cluster, id, 2));
    const absl::Duration took = AwaitNewStep(cluster, id, before, killed, true);
    const v1::Job after = LookAtJob(cluster, id);
    ASSERT_GT(after.attempts_size(), 0);
    const int ranks = after.attempts(after.attempts_size() - 1).placements_size();
    std::printf("killed worker at step %lld, %d ranks after %.2f s\n",
                static_cast<long long>(before.progress().step()), ranks,
                absl::ToDoubleSeconds(took));
    std::fflush(stdout);
    EXPECT_EQ(ranks, slots[i]);
    ASSERT_FALSE(HasFailure());
  }
  ExpectSame(Finish(cluster, id, steps), undisturbed);
}

}  // namespace
}  // namespace diffmoe::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    bool known = argument == "--full";
    if (known) diffmoe::test::full = true;
    if (absl::ConsumePrefix(&argument, "--kills=")) {
      known = absl::SimpleAtoi(argument, &diffmoe::test::kills);
    } else if (absl::ConsumePrefix(&argument, "--steps-between=")) {
      known = absl::SimpleAtoi(argument, &diffmoe::test::steps_between_kills) &&
              diffmoe::test::steps_between_kills > 1;
    } else if (absl::ConsumePrefix(&argument, "--seed=")) {
      known = absl::SimpleAtoi(argument, &diffmoe::test::seed);
    }
    if (!known || diffmoe::test::kills < 1 || diffmoe::test::kills > 100) {
      std::fprintf(stderr, "usage: %s [--kills=N] [--steps-between=N] [--seed=N] [--full]\n",
                   argv[0]);
      return 2;
    }
  }
  if (diffmoe::test::seed == 0) diffmoe::test::seed = std::random_device()() % 1'000'000 + 1;
  return RUN_ALL_TESTS();
}
