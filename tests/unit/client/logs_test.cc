#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/log_cursor.h"
#include "client/output/log_text.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

constexpr int64_t kBaseMs = 1'799'999'000'000;  // 1,000 s before FixedClock's time

v1::LogLine Line(int64_t ms, int rank, const std::string& text, int64_t epoch = 1) {
  v1::LogLine line;
  if (ms >= 0) {
    line.mutable_time()->set_seconds((kBaseMs + ms) / 1000);
    line.mutable_time()->set_nanos(static_cast<int32_t>((kBaseMs + ms) % 1000) * 1'000'000);
  }
  line.set_epoch(epoch);
  line.set_rank(rank);
  line.set_worker_id("w-1");
  line.set_text(text);
  return line;
}

v1::ReadJobLogsResponse Response(const std::vector<v1::LogLine>& lines) {
  v1::ReadJobLogsResponse response;
  for (const v1::LogLine& line : lines) *response.add_lines() = line;
  return response;
}

v1::Job JobWithAttempts(const std::vector<int64_t>& epochs, int ranks = 2) {
  v1::Job job;
  job.set_id("a-1");
  job.mutable_spec()->mutable_parallel()->set_ranks(ranks);
  for (const int64_t epoch : epochs) job.add_attempts()->set_epoch(epoch);
  return job;
}

using Writer = grpc::ServerWriter<v1::ReadJobLogsResponse>;

class LogsCommandTest : public testing::Test {
 protected:
  LogsCommandTest() {
    server_.api.job = JobWithAttempts({1});
    server_.api.logs = [this](FakeApi::Context*, const v1::ReadJobLogsRequest& request,
                              Writer* writer) {
      requests_.push_back(request);
      writer->Write(response_);
      return status_;
    };
  }

  FakeServer server_;
  std::vector<v1::ReadJobLogsRequest> requests_;
  v1::ReadJobLogsResponse response_;
  grpc::Status status_;
};

TEST_F(LogsCommandTest, PrefixesLinesOfSeveralRanks) {
  response_ = Response({Line(0, 0, "zero"), Line(1, 1, "one\x1b[2J\xc2\x9b\tx \\n")});
  response_.add_notices("worker w-2 is not connected; lines of rank 2 are missing");
  const CliResult result = server_.Cli({"logs", "a-1"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "[rank 0] zero\n[rank 1] one\\x1b[2J\\x9b\tx \\n\n");
  EXPECT_EQ(result.err, "note: worker w-2 is not connected; lines of rank 2 are missing\n");
}

TEST_F(LogsCommandTest, OneRankNeedsNoPrefix) {
  response_ = Response({Line(0, 1, "one")});
  EXPECT_EQ(server_.Cli({"logs", "a-1", "--rank", "1"}).out, "one\n");
  server_.api.job = JobWithAttempts({1}, /*ranks=*/1);
  EXPECT_EQ(server_.Cli({"logs", "a-1"}).out, "one\n");
}

TEST_F(LogsCommandTest, FlagsBecomeTheRequest) {
  const CliResult result =
      server_.Cli({"logs", "jobs/a-1", "--rank", "0", "--rank", "3", "--attempt", "7", "--since",
                   "10m", "--grep", "a.*b", "--tail", "20"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  ASSERT_EQ(requests_.size(), 1u);
  const v1::ReadJobLogsRequest& request = requests_[0];
  EXPECT_EQ(request.name(), "jobs/a-1");
  EXPECT_EQ(request.ranks_size(), 2);
  EXPECT_EQ(request.ranks(1), 3);
  EXPECT_EQ(request.epoch(), 7);
  EXPECT_EQ(request.since().seconds(), 1'800'000'000 - 600);
  EXPECT_EQ(request.grep(), "a.*b");
  EXPECT_EQ(request.tail_lines(), 20);
  EXPECT_FALSE(request.follow());
  server_.Cli({"logs", "a-1", "-f", "--since", "2026-11-25T03:40:58.5Z"});
  EXPECT_TRUE(requests_[1].follow());
  EXPECT_EQ(requests_[1].since().seconds(), 1'795'578'058);
  EXPECT_EQ(requests_[1].since().nanos(), 500'000'000);
}

TEST_F(LogsCommandTest, BadFlagsAreUsageErrors) {
  const CliResult since = server_.Cli({"logs", "a-1", "--since", "yesterday"});
  EXPECT_EQ(since.exit_code, kExitUsage);
  EXPECT_TRUE(absl::StrContains(since.err,
                                "--since: expected a duration such as 10m or a time such as "
                                "2026-11-25T03:40:58Z, got \"yesterday\""))
      << since.err;
  for (const std::vector<std::string>& flags : std::vector<std::vector<std::string>>{
           {"--rank", "-1"}, {"--rank", "x"}, {"--tail", "0"}, {"--attempt", "0"}}) {
    EXPECT_EQ(server_.Cli({"logs", "a-1", flags[0], flags[1]}).exit_code, kExitUsage) << flags[0];
  }
  EXPECT_EQ(server_.Cli({"logs", "a/b/c"}).exit_code, kExitNotFound);
  EXPECT_TRUE(requests_.empty());
}

TEST_F(LogsCommandTest, JsonIsAMessageALine) {
  response_ = Response({Line(0, 0, "zero"), Line(-1, 1, "o\"ne")});
  const CliResult result = server_.Cli({"-o", "json", "logs", "a-1"});
  EXPECT_EQ(result.exit_code, kExitOk);
  const size_t end = result.out.find('\n');
  const auto first = nlohmann::json::parse(result.out.substr(0, end));
  EXPECT_EQ(first, (nlohmann::json{{"time", "2027-01-15T07:43:20Z"},
                                   {"epoch", "1"},
                                   {"rank", 0},
                                   {"worker_id", "w-1"},
                                   {"text", "zero"}}));
  EXPECT_EQ(nlohmann::json::parse(result.out.substr(end))["text"], "o\"ne");
  const CliResult yaml = server_.Cli({"-o", "yaml", "logs", "a-1"});
  EXPECT_TRUE(absl::StartsWith(yaml.out, "- ")) << yaml.out;
  EXPECT_TRUE(absl::StrContains(yaml.out, " time: \"2027-01-15T07:43:20Z\"\n- ")) << yaml.out;
}

TEST_F(LogsCommandTest, ErrorsHaveTheirExitCodes) {
  v1::ErrorDetails details;
  details.set_reason(v1::JOB_NOT_FOUND);
  status_ = ApiError(grpc::StatusCode::NOT_FOUND, "jobs/a-1 doesn't exist", details);
  EXPECT_EQ(server_.Cli({"logs", "a-1"}).exit_code, kExitNotFound);
  status_ = {grpc::StatusCode::UNAVAILABLE, "away"};
  EXPECT_EQ(server_.Cli({"logs", "a-1"}).exit_code, kExitUnavailable);
}

// The stream breaks twice: in the middle of an attempt, and with an attempt in between.
TEST_F(LogsCommandTest, FollowGoesOnAfterALossWithoutDoubledLines) {
  server_.api.logs = [this](FakeApi::Context*, const v1::ReadJobLogsRequest& request,
                            Writer* writer) -> grpc::Status {
    requests_.push_back(request);
    switch (requests_.size()) {
      case 1:
        writer->Write(Response(
            {Line(9000, 0, "a"), Line(9000, 0, "b"), Line(-1, 0, "of b"), Line(8999, 1, "c")}));
        return {grpc::StatusCode::UNAVAILABLE, "going away"};
      case 2:  // the rest of attempt 1 alone, for there are newer ones
        writer->Write(Response({Line(8000, 0, "old"), Line(9000, 0, "a"), Line(9000, 0, "b"),
                                Line(-1, 0, "of b"), Line(8999, 1, "c"), Line(9000, 0, "d"),
                                Line(9001, 1, "e")}));
        return grpc::Status::OK;
      case 3:
        writer->Write(Response({Line(10'000, 0, "second", 2)}));
        return grpc::Status::OK;
      default:
        writer->Write(Response({Line(20'000, 0, "third", 3)}));
        return grpc::Status::OK;
    }
  };
  server_.api.job = JobWithAttempts({1, 2, 3});
  const CliResult result = server_.Cli({"logs", "a-1", "-f", "--tail", "5"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out,
            "[rank 0] a\n[rank 0] b\n[rank 0] of b\n[rank 1] c\n[rank 0] d\n[rank 1] e\n"
            "[rank 0] second\n[rank 0] third\n");
  EXPECT_EQ(result.err,
            "the lines broke off; trying again for 60 s\nconnected again\n"
            "attempt 2 begins\nattempt 3 begins\n");
  ASSERT_EQ(requests_.size(), 4u);
  EXPECT_EQ(requests_[1].epoch(), 1);
  EXPECT_EQ(requests_[1].since().seconds(), (kBaseMs + 3999) / 1000);
  EXPECT_EQ(requests_[1].tail_lines(), 0);
  EXPECT_EQ(requests_[2].epoch(), 2);
  EXPECT_FALSE(requests_[2].has_since());
  EXPECT_EQ(requests_[3].epoch(), 0);
  EXPECT_TRUE(requests_[3].follow());
}

// The real program, so that the signal meets the threads of a real process.
TEST_F(LogsCommandTest, InterruptEndsTheFollowing) {
  std::atomic<bool> cancelled = false;
  server_.api.logs = [&](FakeApi::Context* context, const v1::ReadJobLogsRequest&, Writer* writer) {
    writer->Write(Response({Line(0, 0, "a")}));
    cancelled = test::WaitUntil(absl::Seconds(20), [&] { return context->IsCancelled(); });
    return grpc::Status::CANCELLED;
  };
  auto process = test::Process::Start(
      {.argv = {test::Program("diffmoe"), "--server", server_.address, "logs", "a-1", "-f"},
       .environment = {},
       .working_dir = ""});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForText("[rank 0] a\n", absl::Seconds(20))) << (*process)->Err();
  (*process)->Signal(SIGINT);
  const auto exit = (*process)->Wait(absl::Seconds(20));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_code, kExitInterrupted);
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return cancelled.load(); }));
}

TEST(LogTextTest, ATerminalHasAColorForEachRank) {
  const LogTextOptions options{.rank = true, .color = true};
  EXPECT_EQ(LogText(Line(0, 0, "x"), options), "\x1b[36m[rank 0]\x1b[0m x\n");
  EXPECT_NE(LogText(Line(0, 1, "x"), options).substr(0, 5), "\x1b[36m");
}

TEST(LogCursorTest, EqualLinesOfOneMomentAreCounted) {
  LogCursor cursor;
  EXPECT_TRUE(cursor.Advance(Line(0, 0, "x")));
  EXPECT_TRUE(cursor.Advance(Line(0, 0, "x")));
  cursor.Rewind();
  EXPECT_FALSE(cursor.Advance(Line(0, 0, "x")));
  EXPECT_FALSE(cursor.Advance(Line(0, 0, "x")));
  EXPECT_TRUE(cursor.Advance(Line(0, 0, "x")));
}

}  // namespace
}  // namespace diffmoe
