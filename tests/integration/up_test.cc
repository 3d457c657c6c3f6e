// `diffmoe up`: both services as one group.
#include <signal.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(90);

TEST(UpTest, StopsCleanlyAndGoesOnWithTheJob) {
  Cluster cluster;
  absl::Status started = cluster.StartUp();
  ASSERT_TRUE(started.ok()) << started;
  const auto id = SubmitSmoke(cluster, {"train.steps=500", "checkpoint.every_steps=20"});
  ASSERT_TRUE(id.ok()) << id.status();
  const auto before =
      AwaitJob(cluster, *id, kJobLimit, [](const nlohmann::json& j) { return RunsPast(j, 20); });
  ASSERT_TRUE(before.ok()) << before.status();

  std::vector<pid_t> processes = ChildrenOf(cluster.up()->pid());
  ASSERT_EQ(processes.size(), 2);
  for (const pid_t rank : ChildrenOf(processes[1], {"diffmoe-rank"})) processes.push_back(rank);
  cluster.up()->Signal(SIGINT);
  const auto end = cluster.up()->Wait(absl::Seconds(30));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(*end, (ExitState{0, 0})) << cluster.up()->Err();
  for (const pid_t process : processes) EXPECT_NE(kill(process, 0), 0) << process << " is left";

  started = cluster.StartUp();
  ASSERT_TRUE(started.ok()) << started;
  const auto job = AwaitState(cluster, *id, "SUCCEEDED", kJobLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(Int((*job)["progress"], "step"), 500);
  // It went on from a checkpoint of the first run.
  const auto& attempts = (*job)["attempts"];
  EXPECT_GE(Int(attempts[attempts.size() - 1], "restored_step"), 20);
}

TEST(UpTest, StartsAKilledCoordinatorAgain) {
  Cluster cluster;
  const absl::Status started = cluster.StartUp();
  ASSERT_TRUE(started.ok()) << started;
  const auto coordinator = ChildrenOf(cluster.up()->pid(), {"diffmoe-coordinator"});
  ASSERT_EQ(coordinator.size(), 1);
  ASSERT_EQ(kill(coordinator[0], SIGKILL), 0);
  ASSERT_TRUE(cluster.up()->WaitForText("the coordinator runs again", absl::Seconds(20)))
      << cluster.up()->Err();
  // At the same address, so that clients and the worker find it.
  EXPECT_TRUE(WaitUntil(absl::Seconds(20), [&] {
    const auto workers = cluster.CliJson({"workers"});
    return workers.ok() && (*workers)["workers"].size() == 1 &&
           (*workers)["workers"][0]["state"] == "CONNECTED";
  }));
}

TEST(UpTest, SaysWhyItCannotStart) {
  const HeldPort port;
  const TempDir dir;
  const auto result =
      RunProcess({.argv = {Program("diffmoe"), "up", "--data-dir", dir.path(), "--listen",
                           port.address(), "--metrics-listen", "127.0.0.1:0"},
                  .environment = {},
                  .working_dir = ""},
                 absl::Seconds(30));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{6, 0}));
  EXPECT_THAT(result->out + result->err, HasSubstr(port.address()));
}

}  // namespace
}  // namespace diffmoe::test
