#include "client/live_screen.h"

#include <cmath>
#include <sstream>

#include "absl/strings/match.h"
#include "client/output/sparkline.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

TEST(Sparkline, ShowsLeastAndMost) {
  EXPECT_EQ(Sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(Sparkline({9, 9, 0, 8}, 2), "▁█") << "the newest values";
  EXPECT_EQ(Sparkline({3, 3}, 8), "▁▁");
  EXPECT_EQ(Sparkline({}, 8), "");
  EXPECT_EQ(Sparkline({1, std::nan(""), 2, INFINITY}, 8), "▁!█!");
}

class LiveScreenTest : public testing::Test {
 protected:
  absl::StatusOr<int> Run(int frames,
                          const std::function<absl::StatusOr<std::string>(bool*)>& frame,
                          bool terminal = false) {
    FixedClock clock;
    Context context{.out = out_,
                    .err = err_,
                    .clock = clock,
                    .progress = {},
                    .out_terminal = terminal,
                    .executable = "/nowhere/diffmoe",
                    .endpoint = {},
                    .format = OutputFormat::kTable,
                    .action = {}};
    Interrupt interrupt;
    return RunLiveScreen(context, &interrupt, absl::Milliseconds(1), frames, frame);
  }
  std::ostringstream out_, err_;
};

TEST_F(LiveScreenTest, DrawsAgainUntilTheFramesAreUsedUp) {
  int frames = 0;
  const auto code = Run(3, [&](bool*) { return std::to_string(++frames) + "\n"; });
  EXPECT_EQ(*code, kExitOk);
  EXPECT_EQ(out_.str(), "1\n2\n3\n");
}

TEST_F(LiveScreenTest, EndsWhenThereIsNothingMoreToSee) {
  int frames = 0;
  ASSERT_TRUE(Run(0, [&](bool* last) {
                *last = ++frames == 2;
                return std::string("x");
              }).ok());
  EXPECT_EQ(frames, 2);
}

TEST_F(LiveScreenTest, WaitsForACoordinatorThatIsAwayButNotAtTheStart) {
  int frames = 0;
  ASSERT_TRUE(Run(3, [&](bool*) -> absl::StatusOr<std::string> {
                if (++frames == 2) return absl::UnavailableError("away");
                return std::string("here\n");
              }).ok());
  EXPECT_EQ(out_.str(), "here\nhere\nthe coordinator is away; trying again\nhere\n");
  EXPECT_EQ(
      Run(3, [](bool*) -> absl::StatusOr<std::string> { return absl::UnavailableError("away"); })
          .status()
          .code(),
      absl::StatusCode::kUnavailable);
}

TEST_F(LiveScreenTest, OtherErrorsEndIt) {
  int frames = 0;
  const auto result = Run(0, [&](bool*) -> absl::StatusOr<std::string> {
    if (++frames == 2) return absl::NotFoundError("gone");
    return std::string("here\n");
  });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LiveScreenTest, ATerminalIsDrawnOver) {
  ASSERT_TRUE(Run(
                  2, [](bool*) { return std::string("a\nb\n"); }, true)
                  .ok());
  EXPECT_EQ(out_.str(), "\033[2J\033[Ha\033[K\nb\033[K\n\033[J\033[Ha\033[K\nb\033[K\n\033[J");
}

TEST(Top, ShowsJobsAndWorkers) {
  FakeServer server;
  v1::Worker& worker = *server.api.workers.add_workers();
  worker.set_id("w-1");
  worker.set_state(v1::CONNECTED);
  worker.add_slots()->set_used_by("jobs/a-1 rank 0");
  worker.add_slots()->set_index(1);
  v1::Worker& silent = *server.api.workers.add_workers();
  silent.set_id("w-2");
  silent.set_state(v1::SILENT);
  silent.add_slots();
  const CliResult result = server.Cli({"top", "--frames", "1"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StartsWith(result.out, "1 workers, 1 of 2 slots in use, 1 silent; "))
      << result.out;
  EXPECT_TRUE(absl::StrContains(result.out, "JOB")) << result.out;
  EXPECT_TRUE(absl::StrContains(result.out, "w-1")) << result.out;
}

TEST(Metrics, WatchDrawsCurves) {
  FakeServer server;
  for (const float loss : {4.0f, 2.0f, 1.0f}) server.api.records.add_records()->set_loss(loss);
  const CliResult result = server.Cli({"metrics", "a-1", "-w", "--frames", "1"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.out, "grad norm")) << result.out;
  EXPECT_TRUE(absl::StrContains(result.out, "█▃▁")) << result.out;
}

}  // namespace
}  // namespace diffmoe
