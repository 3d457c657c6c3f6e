// The real `diffmoe up` with stand-ins for the daemons beside it.
#include "client/local/local_cluster.h"

#include <csignal>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(30);

class UpTest : public testing::Test {
 protected:
  UpTest() {
    for (const char* name : {"bin", "data/coordinator", "data/worker"}) {
      std::filesystem::create_directories(dir_.Sub(name));
    }
    std::filesystem::copy_file(test::Program("diffmoe"), dir_.Sub("bin/diffmoe"));
    for (const char* name : {"bin/diffmoe-coordinator", "bin/diffmoe-worker"}) {
      std::filesystem::copy_file(test::Program("fake_daemon"), dir_.Sub(name));
    }
    Behave("coordinator", "run");
    Behave("worker", "run");
  }

  void Behave(const std::string& daemon, const std::string& how) {
    test::WriteFile(dir_.Sub("data/" + daemon + "/behaviour"), how);
  }

  void StartUp(std::vector<std::string> arguments = {"--listen", "127.0.0.1:0"}) {
    arguments.insert(arguments.begin(), {dir_.Sub("bin/diffmoe"), "up", "--data-dir",
                                         dir_.Sub("data"), "--slots", "3"});
    auto process = test::Process::Start({.argv = arguments, .environment = {}, .working_dir = ""});
    ASSERT_TRUE(process.ok()) << process.status();
    up_ = *std::move(process);
  }

  pid_t PidOf(const std::string& daemon) {
    std::ifstream file(dir_.Sub(absl::StrCat("data/", daemon, "/", daemon, ".json")));
    const auto info = nlohmann::json::parse(file, nullptr, false);
    return info.is_object() ? info.value("pid", 0) : 0;
  }

  // The command lines of a daemon's starts, one a line.
  std::string Starts(const std::string& daemon) {
    return test::ReadFile(dir_.Sub("data/" + daemon + "/starts"));
  }

  bool Stopped(const std::string& daemon) {
    return std::filesystem::exists(dir_.Sub("data/" + daemon + "/stopped"));
  }

  int WaitForExitCode() {
    const auto exit = up_->Wait(kLimit);
    EXPECT_TRUE(exit.ok()) << exit.status() << up_->Err();
    return exit.ok() ? exit->exit_code : -2;
  }

  test::TempDir dir_;
  std::unique_ptr<test::Process> up_;
};

TEST_F(UpTest, StartsBothSaysWhereTheyAreAndStopsThemInOrder) {
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  EXPECT_TRUE(absl::StartsWith(
      up_->Err(),
      absl::StrCat("coordinator  127.0.0.1:4242   metrics http://127.0.0.1:4243/metrics\n"
                   "worker       w-1, 3 slots   metrics http://127.0.0.1:4243/metrics\n"
                   "console      http://127.0.0.1:4243/ (read-only)\n"
                   "data         ",
                   dir_.Sub("data"), "\n\nNext, in another terminal: diffmoe --data-dir ",
                   dir_.Sub("data"), " submit ")))
      << up_->Err();
  EXPECT_TRUE(absl::StrContains(Starts("worker"),
                                absl::StrCat(" --coordinator file:", dir_.Sub("data"),
                                             "/coordinator/coordinator.json --slots 3 ")));
  const pid_t coordinator = PidOf("coordinator"), worker = PidOf("worker");
  up_->Signal(SIGINT);
  EXPECT_EQ(WaitForExitCode(), kExitOk);
  EXPECT_TRUE(absl::EndsWith(up_->Err(), "stopping the worker\nstopping the coordinator\n"))
      << up_->Err();
  EXPECT_TRUE(Stopped("coordinator"));
  EXPECT_TRUE(Stopped("worker"));
  EXPECT_NE(kill(coordinator, 0), 0);
  EXPECT_NE(kill(worker, 0), 0);
}

TEST_F(UpTest, WorkerServesItsMetricsOnePortHigher) {
  StartUp({"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:7171", "--console-writes"});
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  EXPECT_TRUE(absl::StrContains(Starts("coordinator"), "--metrics-listen 127.0.0.1:7171 "));
  EXPECT_TRUE(absl::StrContains(Starts("coordinator"), "--console-writes"));
  EXPECT_TRUE(absl::StrContains(Starts("worker"), "--metrics-listen 127.0.0.1:7172 "));
}

TEST_F(UpTest, PassesOnWhyAChildCannotStart) {
  for (const auto& [daemon, other] :
       {std::pair{"coordinator", "worker"}, {"worker", "coordinator"}}) {
    Behave(daemon, "refuse");
    Behave(other, "run");
    StartUp();
    EXPECT_EQ(WaitForExitCode(), kExitConflict);
    EXPECT_TRUE(absl::StrContains(
        up_->Err(),
        absl::StrCat("diffmoe: the ", daemon, " could not start (exit code 6):\nport ")))
        << up_->Err();
  }
  EXPECT_TRUE(Stopped("coordinator"));  // it ran when the worker refused
}

TEST_F(UpTest, RestartsACoordinatorOnThePortThatItHad) {
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  kill(PidOf("coordinator"), SIGKILL);
  ASSERT_TRUE(up_->WaitForText("the coordinator runs again", kLimit)) << up_->Err();
  EXPECT_TRUE(absl::StrContains(
      up_->Err(), "the coordinator ended with exit code 137; starting it again in 0.5s"))
      << up_->Err();
  EXPECT_TRUE(absl::StrContains(Starts("coordinator"), "--listen 127.0.0.1:0 "));
  EXPECT_TRUE(absl::StrContains(Starts("coordinator"),
                                "--listen 127.0.0.1:4242 --metrics-listen 127.0.0.1:4243 "))
      << Starts("coordinator");
  up_->Signal(SIGTERM);
  EXPECT_EQ(WaitForExitCode(), kExitOk);
}

TEST_F(UpTest, RestartsAWorkerAndASecondUpGoesOn) {
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  kill(PidOf("worker"), SIGKILL);
  ASSERT_TRUE(up_->WaitForText("the worker runs again", kLimit)) << up_->Err();
  up_->Signal(SIGTERM);
  EXPECT_EQ(WaitForExitCode(), kExitOk);
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  up_->Signal(SIGTERM);
  EXPECT_EQ(WaitForExitCode(), kExitOk);
}

TEST_F(UpTest, GivesUpOnAChildThatNeverRunsAgain) {
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  Behave("worker", "refuse");
  kill(PidOf("worker"), SIGKILL);
  const auto exit = up_->Wait(absl::Seconds(60));
  ASSERT_TRUE(exit.ok()) << exit.status() << up_->Err();
  EXPECT_EQ(exit->exit_code, kExitConflict);
  EXPECT_TRUE(absl::StrContains(
      up_->Err(), "the worker ended 5 times in a row; the last time with exit code 6:\n"))
      << up_->Err();
  EXPECT_TRUE(Stopped("coordinator"));
}

TEST_F(UpTest, ASecondSignalKillsAChildThatDoesNotStop) {
  Behave("worker", "stubborn");
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  up_->Signal(SIGINT);
  ASSERT_TRUE(up_->WaitForText("stopping the worker", kLimit)) << up_->Err();
  up_->Signal(SIGINT);
  EXPECT_EQ(WaitForExitCode(), kExitOk);
  EXPECT_TRUE(absl::StrContains(up_->Err(), "killing the worker\nstopping the coordinator\n"))
      << up_->Err();
  EXPECT_TRUE(Stopped("coordinator"));
}

TEST_F(UpTest, ChildrenEndWithAKilledUp) {
  StartUp();
  ASSERT_TRUE(up_->WaitForText("Ctrl-C stops both", kLimit)) << up_->Err();
  kill(up_->pid(), SIGKILL);  // not the children's groups
  EXPECT_TRUE(
      test::WaitUntil(kLimit, [this] { return Stopped("coordinator") && Stopped("worker"); }));
}

TEST_F(UpTest, NamesProgramsAndDirectoriesThatCannotBeUsed) {
  std::filesystem::remove(dir_.Sub("bin/diffmoe-worker"));
  StartUp();
  EXPECT_EQ(WaitForExitCode(), kExitNotFound);
  EXPECT_TRUE(absl::StrContains(up_->Err(), dir_.Sub("bin/diffmoe-worker"))) << up_->Err();
  EXPECT_TRUE(Stopped("coordinator"));
  // A file where the data directory should be.
  test::WriteFile(dir_.Sub("file"), "");
  const auto result =
      test::RunProcess({.argv = {dir_.Sub("bin/diffmoe"), "up", "--data-dir", dir_.Sub("file/x")},
                        .environment = {},
                        .working_dir = ""},
                       kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit.exit_code, kExitPermission);
  EXPECT_TRUE(absl::StrContains(result->err, dir_.Sub("file/x"))) << result->err;
}

}  // namespace
}  // namespace diffmoe
