// Ranks under limits of the system, and their crashes, seen from the coordinator.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/worker/worker_fixture.h"

namespace diffmoe::test {
namespace {

using worker::v1::RankExited;

// A control group of its own for the worker, cgroup v1 or v2; invalid where this user may make
// none.
class ControlGroup {
 public:
  // controller: "memory" or "pids".
  explicit ControlGroup(const std::string& controller) {
    const std::string name = absl::StrCat("/diffmoe-test-", controller, "-", getpid());
    for (const std::string& root :
         {absl::StrCat("/sys/fs/cgroup/", controller), std::string("/sys/fs/cgroup")}) {
      std::error_code error;
      if (!std::filesystem::create_directory(root + name, error) || error) continue;
      path_ = root + name;
      if (std::filesystem::exists(path_ + "/" + controller + ".max") ||
          std::filesystem::exists(path_ + "/" + controller + ".limit_in_bytes")) {
        return;
      }
      std::filesystem::remove(path_, error);
      path_.clear();
    }
  }
  ~ControlGroup() {
    std::error_code error;
    if (valid()) {
      WaitUntil(kLimit, [&] { return std::filesystem::remove(path_, error) && !error; });
    }
  }

  bool valid() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  bool Set(const std::string& file, const std::string& value) const {
    std::ofstream out(path_ + "/" + file);
    out << value << std::flush;
    return out.good();
  }
  std::string Get(const std::string& file) const {
    std::ifstream in(path_ + "/" + file);
    std::string value;
    in >> value;
    return value;
  }

 private:
  std::string path_;
};

class LimitsTest : public WorkerTest {
 protected:
  // A worker that is born in a group of its own, with an open session. False where this user may
  // make no group.
  bool StartInGroup(const std::string& controller) {
    group_ = std::make_unique<ControlGroup>(controller);
    if (!group_->valid()) return false;
    coordinator_.Start();
    auto worker = Process::Start(Options(
        {"/bin/sh", "-c", absl::StrCat("echo $$ > ", group_->path(), "/cgroup.procs; exec \"$@\""),
         "sh", Binary("diffmoe-worker"), "--dir", dir(), "--coordinator", coordinator_.address(),
         "--rank-binary", Binary("diffmoe-test-rank"), "--slots", "2"}));
    EXPECT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    EXPECT_TRUE(coordinator_.WaitForSession(1)) << worker_->Err();
    return true;
  }
  // The group can go when nobody is in it.
  void TearDown() override {
    worker_.reset();
    group_.reset();
  }

  std::unique_ptr<ControlGroup> group_;
};

TEST_F(LimitsTest, MemoryLimitIsNamedAndTheWorkerLives) {
  if (!StartInGroup("memory")) GTEST_SKIP() << "this user may not make a memory control group";
  ASSERT_TRUE(group_->Set("memory.limit_in_bytes", "128M") || group_->Set("memory.max", "128M"));
  ASSERT_TRUE(coordinator_.Send(Start("eat-memory")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_OUT_OF_MEMORY) << exited.DebugString();
  EXPECT_EQ(exited.signal(), SIGKILL);
  EXPECT_NE(exited.message().find("memory ran out"), std::string::npos) << exited.message();
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-2", 1)));
  EXPECT_EQ(WaitForExit("job-2").cause(), worker::v1::EXIT_CAUSE_DONE);
}

TEST_F(LimitsTest, ProcessLimitIsNamedAndTheWorkerLives) {
  if (!StartInGroup("pids")) GTEST_SKIP() << "this user may not make a control group of processes";
  ASSERT_TRUE(group_->Set("pids.max", group_->Get("pids.current")));
  ASSERT_TRUE(coordinator_.Send(Start("finish")));
  const RankExited refused = WaitForExit();
  EXPECT_EQ(refused.cause(), worker::v1::EXIT_CAUSE_SPAWN) << refused.DebugString();
  EXPECT_EQ(refused.status_code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_NE(refused.message().find("fork: Resource temporarily unavailable"), std::string::npos)
      << refused.message();
  ASSERT_TRUE(group_->Set("pids.max", "max"));
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-2", 1)));
  EXPECT_EQ(WaitForExit("job-2").cause(), worker::v1::EXIT_CAUSE_DONE);
}

// Room for the rank's process, but for none of its threads: whatever happens to the rank, the
// worker lives and serves again.
TEST_F(LimitsTest, ThreadLimitOfARankEndsTheRankAlone) {
  if (!StartInGroup("pids")) GTEST_SKIP() << "this user may not make a control group of processes";
  int current = 0;
  ASSERT_TRUE(absl::SimpleAtoi(group_->Get("pids.current"), &current));
  ASSERT_TRUE(group_->Set("pids.max", absl::StrCat(current + 1)));
  ASSERT_TRUE(coordinator_.Send(Start("finish")));
  WaitForPid();
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 500)));
  const RankExited exited = WaitForExit();
  EXPECT_NE(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
  ASSERT_TRUE(group_->Set("pids.max", "max"));
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-2", 1)));
  EXPECT_EQ(WaitForExit("job-2").cause(), worker::v1::EXIT_CAUSE_DONE);
}

TEST_F(LimitsTest, CrashNamesRankStepAndPlace) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("abort-in-kernel")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_SIGNAL) << exited.DebugString();
  EXPECT_EQ(exited.signal(), SIGABRT);
  for (const char* part :
       {"crash: rank 0 of job-1 epoch 3 died of SIGABRT after step 7, in forward "
        "of block 3",
        "an assertion of the kernel"}) {
    EXPECT_NE(exited.message().find(part), std::string::npos) << part << ": " << exited.message();
  }
}

TEST_F(LimitsTest, StackOverflowNamesThePlaceAsWell) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("overflow-the-stack")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.signal(), SIGSEGV) << exited.DebugString();
  EXPECT_NE(exited.message().find("died of SIGSEGV after step 7, in forward of block 3"),
            std::string::npos)
      << exited.message();
}

}  // namespace
}  // namespace diffmoe::test
