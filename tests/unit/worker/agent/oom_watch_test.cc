#include "worker/agent/oom_watch.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

class OomWatchTest : public ::testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::string full = temp_.Sub(path);
    std::filesystem::create_directories(std::filesystem::path(full).parent_path());
    test::WriteFile(full, text);
  }
  OomWatch Watch() const { return OomWatch(temp_.Sub("proc"), temp_.Sub("cgroup")); }

  test::TempDir temp_;
};

TEST_F(OomWatchTest, CountsInTheGroupOfCgroupV2) {
  Write("proc/self/cgroup", "0::/pod/worker\n");
  Write("proc/vmstat", "oom_kill 9\n");
  const std::string events = "cgroup/pod/worker/memory.events";
  Write(events, "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n");
  OomWatch watch = Watch();
  EXPECT_EQ(watch.path(), temp_.Sub(events));
  EXPECT_FALSE(watch.KilledLately(1'000));
  Write(events, "max 8\noom 2\noom_kill 2\n");
  EXPECT_TRUE(watch.KilledLately(2'000));
  EXPECT_TRUE(watch.KilledLately(7'000));
  EXPECT_FALSE(watch.KilledLately(7'001));
}

TEST_F(OomWatchTest, CountsInTheGroupOfCgroupV1) {
  Write("proc/self/cgroup", "9:name=systemd:/\n4:memory:/pod/worker\n0::/\n");
  const std::string control = "cgroup/memory/pod/worker/memory.oom_control";
  Write(control, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
  OomWatch watch = Watch();
  EXPECT_EQ(watch.path(), temp_.Sub(control));
  Write(control, "oom_kill_disable 0\nunder_oom 1\noom_kill 1\n");
  watch.Poll(1'000);
  EXPECT_TRUE(watch.KilledLately(5'000));
}

// Inside a container the path in /proc may be the host's.
TEST_F(OomWatchTest, FallsBackToTheRootOfTheMountAndToTheMachine) {
  Write("proc/self/cgroup", "0::/../other\n");
  Write("cgroup/memory.events", "oom_kill 0\n");
  EXPECT_EQ(Watch().path(), temp_.Sub("cgroup/memory.events"));
  std::filesystem::remove(temp_.Sub("cgroup/memory.events"));
  EXPECT_EQ(Watch().path(), "");
  Write("proc/vmstat", "nr_free_pages 12\noom_kill 3\n");
  EXPECT_EQ(Watch().path(), temp_.Sub("proc/vmstat"));
}

TEST_F(OomWatchTest, WithoutACounterNothingIsClaimed) {
  OomWatch watch = Watch();
  watch.Poll(1'000);
  EXPECT_FALSE(watch.KilledLately(1'000));
}

}  // namespace
}  // namespace diffmoe
