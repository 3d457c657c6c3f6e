#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(10);

ProcessOptions Shell(const std::string& script) {
  return {.argv = {"sh", "-c", script}, .environment = {}, .working_dir = ""};
}

TEST(TempDirTest, GoesAwayWithItsContents) {
  std::string path;
  {
    TempDir dir;
    path = dir.path();
    WriteFile(dir.Sub("a"), "text");
    EXPECT_EQ(ReadFile(dir.Sub("a")), "text");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(WaitUntilTest, StopsAtTheFirstYesAndGivesUpAtTheLimit) {
  int calls = 0;
  EXPECT_TRUE(WaitUntil(kLimit, [&] { return ++calls == 3; }));
  EXPECT_EQ(calls, 3);
  EXPECT_FALSE(WaitUntil(absl::Milliseconds(30), [] { return false; }));
}

TEST(ProcessTest, CapturesOutputAndExitCode) {
  const absl::StatusOr<RunResult> result =
      RunProcess(Shell("echo out; echo err >&2; pwd >&2; exit 7"), kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{7, 0}));
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->err.substr(0, 4), "err\n");
}

TEST(ProcessTest, ChangesEnvironmentAndDirectory) {
  TempDir dir;
  ProcessOptions options = Shell("echo $FRUIT/$HOME; pwd -P");
  options.environment = {{"FRUIT", "pear"}, {"HOME", ""}};
  options.working_dir = dir.path();
  const absl::StatusOr<RunResult> result = RunProcess(options, kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "pear/\n" + std::filesystem::canonical(dir.path()).string() + "\n");
}

TEST(ProcessTest, ReportsTheSignalThatEndedIt) {
  const auto process = Process::Start(Shell("echo ready; exec cat /dev/zero > /dev/null"));
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForText("ready", kLimit));
  EXPECT_TRUE((*process)->Running());
  EXPECT_EQ((*process)->Wait(absl::Milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  (*process)->Signal(SIGTERM);
  const absl::StatusOr<ExitState> exit = (*process)->Wait(kLimit);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, (ExitState{-1, SIGTERM}));
}

TEST(ProcessTest, NamesAProgramThatIsMissing) {
  const auto process =
      Process::Start({.argv = {"/nowhere/program"}, .environment = {}, .working_dir = ""});
  EXPECT_EQ(process.status().message(),
            "cannot execute /nowhere/program: No such file or directory");
}

TEST(ProcessTest, DestructorKillsGrandchildrenToo) {
  int grandchild = 0;
  {
    const auto process =
        Process::Start(Shell("cat /dev/zero > /dev/null & echo pid $!; echo end; wait"));
    ASSERT_TRUE(process.ok()) << process.status();
    ASSERT_TRUE((*process)->WaitForText("end", kLimit));
    const std::string out = (*process)->Out();
    ASSERT_TRUE(absl::SimpleAtoi(out.substr(4, out.find('\n') - 4), &grandchild)) << out;
    ASSERT_EQ(kill(grandchild, 0), 0);
  }
  // Its new parent reaps it; until then it is a zombie, which holds nothing.
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    if (kill(grandchild, 0) != 0) return true;
    const std::string stat = ReadFile("/proc/" + std::to_string(grandchild) + "/stat");
    return stat.find(") Z ") != std::string::npos;
  }));
}

TEST(ProcFsTest, FindsChildrenByTheirCommandLine) {
  const auto one = Process::Start(Shell("echo up; exec cat /dev/zero > /dev/null"));
  const auto other = Process::Start(Shell("echo up; exec cat /dev/full > /dev/null"));
  ASSERT_TRUE(one.ok() && other.ok());
  ASSERT_TRUE((*one)->WaitForText("up", kLimit) && (*other)->WaitForText("up", kLimit));
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    return ChildrenOf(getpid(), {"cat", "/dev/zero"}) == std::vector<pid_t>{(*one)->pid()};
  }));
  EXPECT_EQ(ChildrenOf(getpid()).size(), 2);
  EXPECT_EQ(ChildrenOf(getpid(), {"no such word"}).size(), 0);
}

TEST(ProcFsTest, FindsTheListeningPort) {
  const HeldPort port;
  EXPECT_EQ(ListeningAddress(getpid()), port.address());
}

TEST(HttpGetTest, NothingListens) {
  std::string address;
  {
    const HeldPort port;
    address = port.address();
  }
  EXPECT_EQ(HttpGet(address, "/").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(HttpGet("nonsense", "/").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HttpGetTest, SilentServer) {
  const HeldPort port;
  EXPECT_EQ(HttpGet(port.address(), "/", absl::Milliseconds(50)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(UrlEscapeTest, EscapesAllButUnreserved) {
  EXPECT_EQ(UrlEscape("a b{c=\"d\"}"), "a%20b%7bc%3d%22d%22%7d");
}

TEST(ReadyFileTest, WaitsForTheRightProcess) {
  TempDir dir;
  WriteFile(dir.Sub("ready.json"), R"({"pid": 41, "grpc_address": "127.0.0.1:1"})");
  EXPECT_EQ(WaitForReadyFile(dir.Sub("ready.json"), 42, absl::Milliseconds(30)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  const auto content = WaitForReadyFile(dir.Sub("ready.json"), 41, kLimit);
  ASSERT_TRUE(content.ok()) << content.status();
  EXPECT_EQ((*content)["grpc_address"], "127.0.0.1:1");
}

}  // namespace
}  // namespace diffmoe::test
