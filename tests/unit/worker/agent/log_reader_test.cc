#include "worker/agent/log_reader.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/clock.h"
#include "core/base/log_file.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

constexpr int64_t kBaseMs = 1'800'000'000'000;

std::string Line(int64_t ms, const std::string& text) {
  return absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMillis(kBaseMs + ms),
                                       absl::UTCTimeZone()),
                      " INFO [rank] ", text);
}

std::vector<std::string> ReadAll(LogReader* reader) {
  std::vector<std::string> lines;
  LogEntry entry;
  while (reader->Next(&entry)) {
    const size_t at = entry.text.find("] ");
    lines.push_back(at == std::string::npos ? entry.text : entry.text.substr(at + 2));
  }
  return lines;
}

using Lines = std::vector<std::string>;

class LogReaderTest : public testing::Test {
 protected:
  void Write(const std::string& text) {
    if (file_ == nullptr) {
      auto file = LogFile::Open(path_, {.file_bytes = 200, .files = 3}, &clock_);
      ASSERT_TRUE(file.ok()) << file.status();
      file_ = *std::move(file);
    }
    file_->Append(text + "\n");
  }

  SystemClock clock_;
  test::TempDir dir_;
  const std::string path_ = dir_.Sub("a-1-0.log");
  std::unique_ptr<LogFile> file_;
};

TEST_F(LogReaderTest, NoFileHasNoLines) {
  LogReader reader(path_, {});
  EXPECT_EQ(ReadAll(&reader), Lines());
  EXPECT_FALSE(reader.found());
  Write(Line(0, "late"));
  EXPECT_EQ(ReadAll(&reader), Lines({"late"}));
  EXPECT_TRUE(reader.found());
}

TEST_F(LogReaderTest, LinesWithoutTimeBelongToTheLineBeforeThem) {
  test::WriteFile(path_, absl::StrCat("early\n", Line(0, "zero"), "\nof zero\n", Line(10, "ten"),
                                      "\nof ten\n"));
  LogReader all(path_, {});
  EXPECT_EQ(ReadAll(&all), Lines({"early", "zero", "of zero", "ten", "of ten"}));
  LogReader since(path_, {.since = absl::FromUnixMillis(kBaseMs + 10)});
  EXPECT_EQ(ReadAll(&since), Lines({"ten", "of ten"}));
}

TEST_F(LogReaderTest, GrepAndTailGoTogether) {
  std::string text;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&text, Line(i, absl::StrCat("step ", i)), "\n");
  test::WriteFile(path_, text);
  auto grep = CompileLogPattern("step [0-9]*7$");
  ASSERT_TRUE(grep.ok()) << grep.status();
  LogReader reader(path_, {.grep = *grep});
  reader.SkipToLast(3);
  EXPECT_EQ(ReadAll(&reader), Lines({"step 77", "step 87", "step 97"}));
}

TEST_F(LogReaderTest, BadPatternsSayWhatIsWrong) {
  const auto grep = CompileLogPattern("a(b");
  EXPECT_EQ(grep.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(grep.status().message(), "missing )")) << grep.status();
}

TEST_F(LogReaderTest, FollowsThroughRotation) {
  LogReader reader(path_, {});
  Lines expected;
  for (int i = 0; i < 100; ++i) {
    const std::string text = absl::StrCat("number ", i);
    Write(Line(i, text));
    expected.push_back(text);
    // Each file holds 4 of these lines: the reader meets every place of a rotation.
    if (i % 3 == 0) {
      EXPECT_EQ(ReadAll(&reader), expected);
      EXPECT_FALSE(reader.TakeGap());
      expected.clear();
    }
  }
}

TEST_F(LogReaderTest, ReadsOlderFilesFirst) {
  Lines expected;
  for (int i = 0; i < 12; ++i) {
    const std::string text = absl::StrCat("number ", 10 + i);
    Write(Line(i, text));
    expected.push_back(text);
  }
  LogReader reader(path_, {});
  EXPECT_EQ(ReadAll(&reader), expected);
}

TEST_F(LogReaderTest, SaysThatLinesAreLost) {
  LogReader reader(path_, {});
  Write(Line(0, "first"));
  EXPECT_EQ(ReadAll(&reader), Lines({"first"}));
  for (int i = 0; i < 100; ++i) Write(Line(i, absl::StrCat("number ", i)));
  const Lines rest = ReadAll(&reader);
  EXPECT_TRUE(reader.TakeGap());
  EXPECT_FALSE(reader.TakeGap());
  ASSERT_FALSE(rest.empty());
  EXPECT_EQ(rest.back(), "number 99");
}

TEST_F(LogReaderTest, AnUnfinishedLineWaitsForItsEnd) {
  test::WriteFile(path_, "one\ntw");
  LogReader reader(path_, {});
  EXPECT_EQ(ReadAll(&reader), Lines({"one"}));
  test::WriteFile(path_, "one\ntwo\n");
  EXPECT_EQ(ReadAll(&reader), Lines({"two"}));
}

TEST_F(LogReaderTest, WhateverAFileHoldsComesOutAsText) {
  test::WriteFile(path_,
                  std::string("\xff\0\x1b[2J\n", 6) + std::string(300'000, 'x') + "\nlast\n");
  LogReader reader(path_, {});
  const Lines lines = ReadAll(&reader);
  ASSERT_GE(lines.size(), 3u);
  EXPECT_EQ(lines[0].substr(0, 4), std::string("\xef\xbf\xbd\0", 4));
  EXPECT_LE(lines[1].size(), size_t{16} << 10);
  EXPECT_EQ(lines.back(), "last");
}

TEST_F(LogReaderTest, SeveralLogsAreMergedByTime) {
  const std::string other = dir_.Sub("a-1-1.log");
  test::WriteFile(path_, absl::StrCat(Line(0, "a0"), "\n", Line(20, "a20"), "\nmore of a20\n"));
  test::WriteFile(other, absl::StrCat(Line(10, "b10"), "\n", Line(30, "b30"), "\n"));
  std::vector<std::unique_ptr<LogReader>> readers;
  readers.push_back(std::make_unique<LogReader>(path_, LogFilter()));
  readers.push_back(std::make_unique<LogReader>(other, LogFilter()));
  MergedLogs logs({0, 1}, std::move(readers));
  std::string order;
  int rank = 0;
  LogEntry entry;
  while (logs.Next(&rank, &entry)) absl::StrAppend(&order, rank);
  EXPECT_EQ(order, "01001");
}

}  // namespace
}  // namespace diffmoe
