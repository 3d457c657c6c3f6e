// Log lines, their files, and the pipes that fill them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/log_file.h"
#include "core/base/log_pump.h"
#include "core/base/log_setup.h"
#include "core/base/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe {
namespace {

class ManualClock final : public Clock {
 public:
  int64_t UnixMs() const override { return 1'800'000'000'000 + now_ms; }
  int64_t MonotonicMs() const override { return now_ms; }
  int64_t now_ms = 0;
};

std::vector<std::string> LinesOf(const std::string& path) {
  return absl::StrSplit(test::ReadFile(path), '\n', absl::SkipEmpty());
}

class LogLineTest : public testing::Test {
 protected:
  ~LogLineTest() override {
    SetLogFormat(LogFormat::kText);
    SetLogContext({});
  }
  const absl::Time time_ = absl::FromUnixMillis(1'800'000'000'007);
};

TEST_F(LogLineTest, TextHasTimeSeverityComponentMessageFieldsAndContext) {
  SetLogContext({{"job", "a-1"}, {"epoch", 3}, {"rank", 0}});
  EXPECT_EQ(FormatLogLine(time_, Severity::kWarning, "rank", "left out",
                          {{"step", 7}, {"why", "the disk is full"}}),
            "2027-01-15T08:00:00.007Z WARN [rank] left out step=7 why=\"the disk is full\" "
            "job=a-1 epoch=3 rank=0\n");
}

TEST_F(LogLineTest, ALineKeepsItsOwnFieldOfTheSameName) {
  SetLogContext({{"job", "a-1"}, {"rank", 0}});
  EXPECT_TRUE(absl::EndsWith(FormatLogLine(time_, Severity::kInfo, "rank", "x", {{"rank", 5}}),
                             " x rank=5 job=a-1\n"));
}

TEST_F(LogLineTest, JsonHasTheSameKeys) {
  SetLogFormat(LogFormat::kJson);
  SetLogContext({{"job", "a-1"}});
  const std::string line = FormatLogLine(time_, Severity::kError, "rank", "two\nlines",
                                         {{"step", 7}, {"message", "another"}, {"bad", "\xff"}});
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(nlohmann::json::parse(line), (nlohmann::json{{"time", "2027-01-15T08:00:00.007Z"},
                                                         {"severity", "ERROR"},
                                                         {"component", "rank"},
                                                         {"message", "two\nlines"},
                                                         {"step", "7"},
                                                         {"message_", "another"},
                                                         {"bad", "\xef\xbf\xbd"},
                                                         {"job", "a-1"}}));
}

TEST_F(LogLineTest, NothingFromOutsideForgesALine) {
  const std::string evil = "x\n2027-01-15T08:00:00.007Z INFO [rank] forged";
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    SetLogFormat(format);
    SetLogContext({{"job", evil}});
    const std::string line = FormatLogLine(time_, Severity::kInfo, evil, evil, {{"name", evil}});
    EXPECT_EQ(line.find('\n'), line.size() - 1);
  }
}

TEST_F(LogLineTest, TheTimeOfALineIsFoundInBothForms) {
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    SetLogFormat(format);
    absl::Time time;
    ASSERT_TRUE(ParseLogTime(FormatLogLine(time_, Severity::kInfo, "a", "b", {}), &time));
    EXPECT_EQ(time, time_);
  }
  absl::Time time;
  for (const char* line : {"", "terminate called", "2027-01-15 08:00:00.007 x", "{\"time\":\"x\"}",
                           "2027-13-45T08:00:00.007Z x"}) {
    EXPECT_FALSE(ParseLogTime(line, &time)) << line;
  }
}

TEST(Utf8Test, ReplacesWhatIsNoText) {
  EXPECT_EQ(ValidUtf8("a\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"),
            "a\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(ValidUtf8("\xff|\xc3|\xe2\x82|\xed\xa0\x80|\xc0\xaf"),
            "\xef\xbf\xbd|\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd|"
            "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd");
}

class LogFileTest : public testing::Test {
 protected:
  std::unique_ptr<LogFile> Open(const LogFileOptions& options = {}) {
    auto file = LogFile::Open(path_, options, &clock_);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }

  ManualClock clock_;
  test::TempDir dir_;
  const std::string path_ = dir_.Sub("x.log");
};

TEST_F(LogFileTest, WritesWholeLinesWhereverTheyWereCut) {
  const auto file = Open();
  file->Append("one\ntw");
  EXPECT_EQ(test::ReadFile(path_), "one\n");
  file->Append("o\n");
  file->Append("three");
  EXPECT_EQ(test::ReadFile(path_), "one\ntwo\n");
  EXPECT_EQ(file->Tail(), "one\ntwo\nthree");
  file->Finish();
  EXPECT_EQ(test::ReadFile(path_), "one\ntwo\nthree\n");
}

TEST_F(LogFileTest, RotatesAndKeepsABoundedNumberOfFiles) {
  const auto file = Open({.file_bytes = 100, .files = 3});
  for (int i = 0; i < 40; ++i) file->Append(absl::StrCat("line number ", 100 + i, "\n"));  // 16 B
  EXPECT_EQ(LinesOf(path_).back(), "line number 139");
  EXPECT_TRUE(std::filesystem::exists(path_ + ".1"));
  EXPECT_TRUE(std::filesystem::exists(path_ + ".2"));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".3"));
  std::vector<std::string> lines = LinesOf(path_ + ".2");
  for (const char* end : {".1", ""}) {
    EXPECT_LE(std::filesystem::file_size(path_ + end), 100u);
    for (const std::string& line : LinesOf(path_ + end)) lines.push_back(line);
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i], absl::StrCat("line number ", 140 - lines.size() + i));
  }
}

TEST_F(LogFileTest, AFloodLeavesOutLinesAndSaysHowMany) {
  const auto file = Open({.lines_per_second = 10, .burst_lines = 20});
  for (int i = 0; i < 1000; ++i) file->Append(absl::StrCat("flood ", i, "\n"));
  EXPECT_EQ(file->dropped_lines(), 980);
  EXPECT_EQ(LinesOf(path_).size(), 20u);
  // The last line is known though it was left out.
  EXPECT_TRUE(absl::EndsWith(file->Tail(), "flood 999\n"));
  file->ReportDropped();
  file->ReportDropped();
  clock_.now_ms += 1000;
  file->Append("calm\n");
  const std::vector<std::string> lines = LinesOf(path_);
  ASSERT_EQ(lines.size(), 22u);
  EXPECT_TRUE(absl::EndsWith(lines[20], "WARN [log] lines dropped: they came too fast lines=980"))
      << lines[20];
  EXPECT_EQ(lines[21], "calm");
}

TEST_F(LogFileTest, CutsALineWithoutEnd) {
  const auto file = Open({.max_line_bytes = 1000});
  for (int i = 0; i < 100; ++i) file->Append(std::string(5000, 'x'));
  file->Append("\nnext\n");
  const std::vector<std::string> lines = LinesOf(path_);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_LE(lines[0].size(), 1000u);
  EXPECT_TRUE(absl::EndsWith(lines[0], absl::StrCat(" ... ", 500'000 - 952, " bytes left out")))
      << lines[0].substr(940);
  EXPECT_EQ(lines[1], "next");
}

TEST_F(LogFileTest, GoesOnBehindWhatIsThere) {
  test::WriteFile(path_, "old\n");
  Open()->Append("new\n");
  EXPECT_EQ(test::ReadFile(path_), "old\nnew\n");
}

TEST_F(LogFileTest, FaultsNameThePath) {
  const auto file = LogFile::Open(dir_.Sub("none/x.log"), {}, &clock_);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(file.status().message(), dir_.Sub("none/x.log")));
}

class LogPumpTest : public testing::Test {
 protected:
  // Runs a shell script whose output goes to the log; returns when it has ended.
  void RunShell(ChildLog* log, const std::string& script) {
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(log->write_fd(), STDOUT_FILENO);
      dup2(log->write_fd(), STDERR_FILENO);
      execl("/bin/sh", "sh", "-c", script.c_str(), nullptr);
      _exit(127);
    }
    log->CloseWriteEnd();
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status)) << status;
  }

  SystemClock clock_;
  test::TempDir dir_;
  const std::string path_ = dir_.Sub("x.log");
};

TEST_F(LogPumpTest, TakesTheLastWordsOfADeadChild) {
  LogPump pump(&clock_);
  auto log = pump.Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_TRUE(pump.IsOpen(path_));
  RunShell(log->get(), "echo out; echo err >&2; printf last");
  EXPECT_EQ((*log)->Finish(), "out\nerr\nlast\n");
  EXPECT_EQ(test::ReadFile(path_), "out\nerr\nlast\n");
  EXPECT_FALSE(pump.IsOpen(path_));
}

TEST_F(LogPumpTest, ALogEndsByItselfWithItsChild) {
  LogPump pump(&clock_);
  auto log = pump.Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  RunShell(log->get(), "echo out");
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return !pump.IsOpen(path_); }));
  EXPECT_EQ(test::ReadFile(path_), "out\n");
}

// 60 MB of short lines as fast as a program can write them.
TEST_F(LogPumpTest, AFloodStaysBoundedAndIsCounted) {
  std::atomic<int64_t> dropped = 0;
  {
    LogPump pump(&clock_, [&dropped](int64_t lines) { dropped += lines; });
    auto log = pump.Open(path_, {.file_bytes = 64 << 10, .files = 2});
    ASSERT_TRUE(log.ok()) << log.status();
    RunShell(log->get(), "yes flood 2>/dev/null | head -c 60000000 2>/dev/null; exit 0");
    (*log)->Finish();
    EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return dropped.load() > 0; }));
  }
  EXPECT_LE(std::filesystem::file_size(path_), 64u << 10);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".2"));
  EXPECT_TRUE(absl::StrContains(test::ReadFile(path_), "lines dropped"));
}

TEST_F(LogPumpTest, AChildNeverWaitsForItsLog) {
  LogPump pump(&clock_);
  auto log = pump.Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_NE(fcntl((*log)->write_fd(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace diffmoe
