#include "client/local/child_process.h"

#include <csignal>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe {
namespace {

class ChildProcessTest : public testing::Test {
 protected:
  static int WaitForCode(ChildProcess* child) {
    EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return child->ExitCode().has_value(); }));
    return child->ExitCode().value_or(-1);
  }
  auto Shell(const std::string& script) {
    return ChildProcess::Start({"/bin/sh", "-c", script}, &logs_, log_);
  }

  SystemClock clock_;
  LogPump logs_{&clock_};
  test::TempDir dir_;
  std::string log_ = dir_.Sub("x.log");
};

TEST_F(ChildProcessTest, KeepsItsOwnOutputApartFromEarlierOutput) {
  test::WriteFile(log_, "old\n");
  auto child = Shell("echo out; echo err >&2; exit 7");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(WaitForCode(child->get()), 7);
  EXPECT_EQ((*child)->LastOutput(), "out\nerr\n");
  EXPECT_EQ(test::ReadFile(log_), "old\nout\nerr\n");
}

TEST_F(ChildProcessTest, ShowsWholeLastLinesOfLongOutput) {
  auto child = Shell("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(WaitForCode(child->get()), 0);
  const std::string text = (*child)->LastOutput();
  EXPECT_LE(text.size(), 4096u);
  EXPECT_TRUE(absl::StartsWith(text, "line ")) << text.substr(0, 20);
  EXPECT_TRUE(absl::EndsWith(text, "line 1999\n"));
}

TEST_F(ChildProcessTest, SignalsBecomeExitCodesAbove128) {
  auto child = Shell("read line; exec sleep 100");
  ASSERT_TRUE(child.ok()) << child.status();
  (*child)->Signal(SIGTERM);
  EXPECT_EQ(WaitForCode(child->get()), 128 + SIGTERM);
  (*child)->Signal(SIGTERM);  // no effect, no other process
}

TEST_F(ChildProcessTest, DestroyingKills) {
  auto child = Shell("trap '' TERM; while :; do sleep 100; done");
  ASSERT_TRUE(child.ok()) << child.status();
  const pid_t pid = (*child)->pid();
  child->reset();
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(ChildProcessTest, FaultsNameTheFile) {
  const auto program = ChildProcess::Start({dir_.Sub("none")}, &logs_, log_);
  EXPECT_EQ(program.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(program.status().message(), dir_.Sub("none"))) << program.status();
  const auto log = ChildProcess::Start({"/bin/true"}, &logs_, dir_.Sub("none/x.log"));
  EXPECT_EQ(log.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(log.status().message(), dir_.Sub("none/x.log"))) << log.status();
}

TEST_F(ChildProcessTest, LargeLogsAreSetAside) {
  test::WriteFile(log_, "x");
  std::filesystem::resize_file(log_, (8 << 20) + 1);
  auto child = Shell("echo new");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(WaitForCode(child->get()), 0);
  EXPECT_EQ(test::ReadFile(log_), "new\n");
  EXPECT_TRUE(std::filesystem::exists(log_ + ".1"));
}

}  // namespace
}  // namespace diffmoe
