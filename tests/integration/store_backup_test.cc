// Backup of a running cluster's store, its verification, and a cluster that goes on from the copy.
#include <filesystem>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

constexpr absl::Duration kJobLimit = absl::Seconds(90);

// Of the checkpoints that aren't marked as damaged.
std::set<int64_t> CheckpointSteps(Cluster& cluster, const std::string& id) {
  const auto list = cluster.CliJson({"ckpt", "ls", id});
  EXPECT_TRUE(list.ok()) << list.status();
  std::set<int64_t> steps;
  if (!list.ok()) return steps;
  for (const auto& checkpoint : (*list)["checkpoints"]) {
    if (!checkpoint.value("damaged", false)) steps.insert(Int(checkpoint, "step"));
  }
  return steps;
}

// The bytes of the newest weights.
std::string Weights(Cluster& cluster, const std::string& id, const std::string& file) {
  const auto result = cluster.Cli({"ckpt", "export", id, "--out", file});
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{0, 0})) << result->err;
  return ReadFile(file);
}

// Damages the largest table file below `directory`; returns its path.
std::string DamageLargestTable(const std::string& directory) {
  std::string path;
  uintmax_t size = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() != ".sst" || entry.file_size() <= size) continue;
    path = entry.path();
    size = entry.file_size();
  }
  std::string bytes = ReadFile(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  fs::remove(path);  // the other end of a hard link stays whole
  WriteFile(path, bytes);
  return path;
}

class StoreBackupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = cluster_.Start();
    ASSERT_TRUE(status.ok()) << status;
    const auto id = SubmitSmoke(
        cluster_, {"train.steps=150", "checkpoint.every_steps=10", "checkpoint.keep=3"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
    const auto job =
        AwaitJob(cluster_, id_, kJobLimit, [](const nlohmann::json& j) { return RunsPast(j, 30); });
    ASSERT_TRUE(job.ok()) << job.status();
  }

  TempDir dir_;
  const std::string backup_ = dir_.Sub("backup");
  Cluster cluster_;
  std::string id_;
};

TEST_F(StoreBackupTest, AClusterGoesOnFromACopyOfARunningOne) {
  // A retention of three and a save every ten steps: checkpoints come and go while the copy is
  // made.
  const auto written = cluster_.CliJson({"admin", "backup", backup_});
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(Int(*written, "jobs"), 1);
  EXPECT_EQ(Int(*written, "checkpoints"), 3);
  EXPECT_GT(Int(*written, "commit"), 1);
  const auto again = cluster_.Cli({"admin", "backup", backup_});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->exit.exit_code, 6) << again->err;
  const auto verified = cluster_.Cli({"admin", "verify"});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->exit, (ExitState{0, 0})) << verified->err;
  EXPECT_THAT(verified->out, HasSubstr("0 damaged"));

  const auto finished = AwaitState(cluster_, id_, "SUCCEEDED", kJobLimit);
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(Int(*finished, "restarts"), 0);

  const auto restored = cluster_.Cli({"admin", "restore", backup_, dir_.Sub("new/coordinator")});
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_EQ(restored->exit, (ExitState{0, 0})) << restored->err;
  ClusterOptions options;
  options.data_dir = dir_.Sub("new");
  Cluster other(options);
  absl::Status started = other.StartCoordinator();
  ASSERT_TRUE(started.ok()) << started;
  const std::set<int64_t> copied = CheckpointSteps(other, id_);
  EXPECT_EQ(copied.size(), 3);
  started = other.StartWorker();
  ASSERT_TRUE(started.ok()) << started;
  const auto job = AwaitState(other, id_, "SUCCEEDED", kJobLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  // From the newest checkpoint of the copy, to the very same weights.
  const auto& attempts = (*job)["attempts"];
  ASSERT_GE(attempts.size(), 2);
  EXPECT_EQ(Int(attempts[attempts.size() - 1], "restored_step"), *copied.rbegin());
  EXPECT_TRUE(Weights(cluster_, id_, dir_.Sub("a.safetensors")) ==
              Weights(other, id_, dir_.Sub("b.safetensors")));
  // Its ids go on where those of the original were.
  const auto next = SubmitSmoke(other);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_NE(*next, id_);
}

TEST_F(StoreBackupTest, DamageIsNamedAndNeverRestored) {
  const auto written = cluster_.CliJson({"admin", "backup", backup_});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto finished = AwaitState(cluster_, id_, "SUCCEEDED", kJobLimit);
  ASSERT_TRUE(finished.ok()) << finished.status();

  const std::set<int64_t> before = CheckpointSteps(cluster_, id_);
  const std::string damaged = DamageLargestTable(cluster_.CoordinatorDir() + "/chunks/db");
  const auto verified = cluster_.Cli({"admin", "verify"});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->exit.exit_code, 20) << verified->err;
  EXPECT_THAT(verified->err, HasSubstr(damaged));
  EXPECT_THAT(verified->err, HasSubstr(absl::StrCat("job ", id_, " step ")));
  EXPECT_THAT(verified->out, HasSubstr("1 damaged"));
  // It is flagged, and the others are still there.
  const std::set<int64_t> after = CheckpointSteps(cluster_, id_);
  EXPECT_EQ(after.size() + 1, before.size());

  DamageLargestTable(backup_ + "/chunks/db");
  const auto restored = cluster_.Cli({"admin", "restore", backup_, dir_.Sub("new")});
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->exit.exit_code, 20) << restored->err;
  EXPECT_THAT(restored->err, HasSubstr("step "));
  EXPECT_FALSE(fs::exists(dir_.Sub("new")));

  const auto none = cluster_.Cli({"admin", "restore", dir_.path(), dir_.Sub("new")});
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->exit.exit_code, 4) << none->err;
  for (const std::string& bad : {cluster_.CoordinatorDir() + "/inside"}) {
    const auto refused = cluster_.Cli({"admin", "backup", bad});
    ASSERT_TRUE(refused.ok()) << refused.status();
    EXPECT_EQ(refused->exit.exit_code, 3) << refused->err;
    EXPECT_THAT(refused->err, HasSubstr("data directory"));
  }
}

}  // namespace
}  // namespace diffmoe::test
