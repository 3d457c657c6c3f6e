#include <atomic>
#include <cmath>

#include "absl/strings/match.h"
#include "client/bench/load_generator.h"
#include "client/bench/load_report.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"
#include "tests/unit/client/fake_sampler.h"

namespace diffmoe {
namespace {

using Writer = grpc::ServerWriter<v1::SampleResponse>;

TEST(PercentilesOf, TakesTheNearestRank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles percentiles = PercentilesOf(values);
  EXPECT_EQ(percentiles.count, 100);
  EXPECT_EQ(percentiles.mean, 50.5);
  EXPECT_EQ(percentiles.p50, 50);
  EXPECT_EQ(percentiles.p95, 95);
  EXPECT_EQ(percentiles.p99, 99);
  EXPECT_EQ(PercentilesOf({7}).p99, 7);
  EXPECT_EQ(PercentilesOf({}).count, 0);
}

TEST(PoissonArrivals, HaveTheRateAndTheSeed) {
  PoissonArrivals arrivals(50, 1), again(50, 1), other(50, 2);
  double last = 0, squares = 0;
  constexpr int kCount = 20'000;
  EXPECT_NE(PoissonArrivals(50, 1).Next(), other.Next());
  for (int i = 0; i < kCount; ++i) {
    const double now = arrivals.Next();
    EXPECT_EQ(now, again.Next());
    ASSERT_GT(now, last);
    squares += (now - last) * (now - last);
    last = now;
  }
  // Gaps with mean m have mean square 2 m^2; 4 % is more than five standard deviations here.
  const double mean = last / kCount;
  EXPECT_NEAR(mean, 0.02, 0.04 * 0.02);
  EXPECT_NEAR(std::sqrt(squares / kCount / 2), 0.02, 0.04 * 0.02);
}

TEST(LoadReport, CountsGoodputInsideTheWindow) {
  LoadResult result;
  result.arrivals = "Poisson, 4 a second";
  result.window_seconds = 10;
  result.wall_seconds = 20;
  result.deadline_seconds = 2;
  result.images_per_request = 4;
  result.most_in_flight = 3;
  result.in_flight_bound = 4;
  result.not_started = 7;
  result.outcomes = {{absl::StatusCode::kOk, 1, 1, 0.5, 4},
                     {absl::StatusCode::kOk, 9, 3, 0.5, 4},  // after the window and the deadline
                     {absl::StatusCode::kResourceExhausted, 2, 0.004, -1, 0},
                     {absl::StatusCode::kDeadlineExceeded, 3, 2, 1.5, 1}};
  result.unary_seconds = {0.001, 0.002, 0.003};
  const nlohmann::ordered_json json = LoadReportJson(result);
  EXPECT_EQ(json["requests"], 4);
  EXPECT_EQ(json["outcomes"]["OK"], 2);
  EXPECT_EQ(json["outcomes"]["RESOURCE_EXHAUSTED"], 1);
  EXPECT_EQ(json["outcomes"]["DEADLINE_EXCEEDED"], 1);
  EXPECT_EQ(json["goodput_requests_per_second"], 0.1);
  EXPECT_EQ(json["goodput_images_per_second"], 0.4);
  EXPECT_EQ(json["images_per_second"], 9.0 / 20);
  EXPECT_EQ(json["successes_after_deadline"], 1);
  EXPECT_EQ(json["most_late_ms"], 1000);
  EXPECT_EQ(json["refusal"]["p99_ms"], 4);
  EXPECT_EQ(json["first_progress"]["count"], 3);
  EXPECT_EQ(json["latency"]["p50_ms"], 1000);
  EXPECT_EQ(json["unary_call"]["p50_ms"], 2);
  EXPECT_EQ(json["latency_to_unary_p50_ratio"], 500);
  const std::string text = LoadReportText(result);
  EXPECT_TRUE(absl::StrContains(text, "7 arrivals were not started: 4 requests were in flight"))
      << text;
}

class BenchSampleTest : public testing::Test {
 protected:
  nlohmann::json Bench(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "sample", "--job", "a-1", "-o", "json"});
    const CliResult result = server_.Cli(arguments);
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    return nlohmann::json::parse(result.out, nullptr, false);
  }

  FakeServer server_;
  std::atomic<int> calls_ = 0;
  std::atomic<int> running_ = 0;
  std::atomic<int> most_running_ = 0;
};

TEST_F(BenchSampleTest, AClosedLoopKeepsItsNumberInFlight) {
  server_.api.sample_many = [&](FakeApi::Context*, const v1::SampleRequest& request,
                                Writer* writer) {
    const int running = ++running_;
    int most = most_running_;
    while (running > most && !most_running_.compare_exchange_weak(most, running)) {
    }
    // The first ones stay until all three are there.
    test::WaitUntil(absl::Seconds(20), [&] { return most_running_ >= 3; });
    const grpc::Status status = FakeSample(request, writer);
    ++calls_;
    --running_;
    return status;
  };
  const nlohmann::json json =
      Bench({"--closed", "3", "--seconds", "600", "--requests", "20", "--n", "2"});
  EXPECT_EQ(json["requests"], 20);
  EXPECT_EQ(json["outcomes"]["OK"], 20);
  EXPECT_EQ(json["most_in_flight"], 3);
  EXPECT_EQ(most_running_, 3);
  EXPECT_EQ(json["latency"]["count"], 20);
  EXPECT_EQ(json["first_progress"]["count"], 20);
  EXPECT_GT(json["unary_call"]["count"], 200) << "before, after, and behind the first client's";
  EXPECT_LE(json["unary_call"]["count"], 220);
  EXPECT_EQ(calls_, 20);
}

TEST_F(BenchSampleTest, AnOpenLoopDoesNotWaitForRepliesAndSaysWhenItsBoundIsHit) {
  server_.api.sample_many = [&](FakeApi::Context* context, const v1::SampleRequest&, Writer*) {
    ++calls_;
    test::WaitUntil(absl::Seconds(30), [&] { return context->IsCancelled(); });
    return grpc::Status::CANCELLED;
  };
  const nlohmann::json json = Bench({"--rate", "1000", "--requests", "40", "--in-flight-bound",
                                     "25", "--deadline", "500ms", "--seconds", "600"});
  EXPECT_EQ(json["most_in_flight"], 25);
  EXPECT_EQ(json["outcomes"]["DEADLINE_EXCEEDED"], 25);
  EXPECT_EQ(json["not_started"], 15);
  EXPECT_EQ(json["goodput_requests_per_second"], 0);
}

TEST_F(BenchSampleTest, OutcomesAreCountedByCode) {
  server_.api.sample_many = [&](FakeApi::Context*, const v1::SampleRequest& request,
                                Writer* writer) {
    if (++calls_ % 2 == 0) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    return FakeSample(request, writer);
  };
  const nlohmann::json json = Bench({"--requests", "10", "--seconds", "600"});
  EXPECT_EQ(json["outcomes"]["OK"], 5);
  EXPECT_EQ(json["outcomes"]["RESOURCE_EXHAUSTED"], 5);
  EXPECT_EQ(json["refusal"]["count"], 5);
}

TEST_F(BenchSampleTest, BadFlagsAreUsageErrors) {
  EXPECT_EQ(
      server_.Cli({"bench", "sample", "--job", "a", "--closed", "2", "--rate", "3"}).exit_code,
      kExitUsage);
  EXPECT_EQ(server_.Cli({"bench", "sample", "--job", "a", "--seconds", "0"}).exit_code, kExitUsage);
  EXPECT_EQ(server_.Cli({"bench"}).exit_code, kExitUsage);
}

TEST(BenchSample, AnUnreachableCoordinatorIsAnError) {
  const CliResult result =
      FakeServer::RunCli({"--server", "127.0.0.1:1", "bench", "sample", "--job", "a-1"});
  EXPECT_EQ(result.exit_code, kExitUnavailable) << result.err;
}

}  // namespace
}  // namespace diffmoe
