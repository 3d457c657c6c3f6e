// Logs of real rank processes, read over a real worker.
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "tests/support/http.h"
#include "tests/unit/worker/worker_fixture.h"

namespace diffmoe::test {
namespace {

class WorkerLogsTest : public WorkerTest {
 protected:
  static worker::v1::CoordinatorMessage Read(const std::string& read_id, bool follow) {
    worker::v1::CoordinatorMessage message;
    worker::v1::ReadLogs* read = message.mutable_read_logs();
    read->set_read_id(read_id);
    read->mutable_group()->set_id("job-1");
    read->mutable_group()->set_epoch(3);
    read->set_follow(follow);
    read->add_ranks(0);
    return message;
  }
  bool WaitForLogs(const std::string& read_id, const std::string& text) {
    return WaitUntil(kLimit, [&] { return absl::StrContains(coordinator_.Logs(read_id), text); });
  }
};

TEST_F(WorkerLogsTest, FollowsARankToItsEnd) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("talk")));
  // Sent with the start: what the rank writes first isn't missed.
  ASSERT_TRUE(coordinator_.Send(Read("r1", /*follow=*/true)));
  ASSERT_TRUE(WaitForLogs("r1", "0 step 3 of rank 0|")) << coordinator_.Logs("r1");
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 5'000)));
  WaitForExit();
  ASSERT_TRUE(WaitForLogs("r1", "END")) << coordinator_.Logs("r1");
  EXPECT_TRUE(absl::StartsWith(coordinator_.Logs("r1"), "0 step 1 of rank 0|0 step 2 of rank 0|"));
  // Afterwards there is the same to read, with filters.
  auto again = Read("r2", /*follow=*/false);
  again.mutable_read_logs()->set_grep("step [12] ");
  again.mutable_read_logs()->set_tail_lines(1);
  ASSERT_TRUE(coordinator_.Send(again));
  ASSERT_TRUE(WaitForLogs("r2", "END"));
  EXPECT_EQ(coordinator_.Logs("r2"), "0 step 2 of rank 0|END");
}

TEST_F(WorkerLogsTest, SaysThatThereIsNoLog) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Read("r1", /*follow=*/true)));
  ASSERT_TRUE(WaitForLogs("r1", "END"));
  EXPECT_TRUE(absl::StrContains(coordinator_.Logs("r1"), "has no log of rank 0 any more"))
      << coordinator_.Logs("r1");
}

TEST_F(WorkerLogsTest, StopsWhenItIsTold) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("talk")));
  ASSERT_TRUE(coordinator_.Send(Read("r1", /*follow=*/true)));
  ASSERT_TRUE(WaitForLogs("r1", "step 1"));
  worker::v1::CoordinatorMessage stop;
  stop.mutable_stop_reading_logs()->set_read_id("r1");
  ASSERT_TRUE(coordinator_.Send(stop));
  // The place is free for the next reader, and nothing more comes for this one.
  ASSERT_TRUE(coordinator_.Send(Read("r2", /*follow=*/true)));
  ASSERT_TRUE(WaitForLogs("r2", "step 2"));
  const std::string before = coordinator_.Logs("r1");
  const std::string seen = coordinator_.Logs("r2");
  ASSERT_TRUE(WaitUntil(kLimit, [&] { return coordinator_.Logs("r2") != seen; }));
  EXPECT_FALSE(absl::StrContains(before, "END"));
}

// A rank that writes hundreds of MB trains on, and the disk stays as it is.
TEST_F(WorkerLogsTest, AFloodNeitherStopsTheRankNorFillsTheDisk) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("flood")));
  ASSERT_TRUE(WaitForStep(1'000)) << worker_->Err();
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir() + "/logs")) {
    bytes += static_cast<int64_t>(entry.file_size());
  }
  EXPECT_GT(bytes, 0);
  EXPECT_LE(bytes, 33 << 20);
  const std::string path = dir() + "/logs/job-1-3-0.log";
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    return absl::StrContains(ReadFile(path), "WARN [log] lines dropped: they came too fast lines=");
  }));
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    const auto metrics = HttpGet(Info()["metrics_address"], "/metrics");
    if (!metrics.ok()) return false;
    const std::string name = "\ndiffmoe_worker_log_lines_dropped_total ";
    const size_t at = metrics->body.find(name);
    double dropped = 0;
    return at != std::string::npos &&
           absl::SimpleAtod(
               metrics->body.substr(at + name.size(),
                                    metrics->body.find('\n', at + 1) - at - name.size()),
               &dropped) &&
           dropped > 1'000;
  }));
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 5'000)));
  WaitForExit();
}

}  // namespace
}  // namespace diffmoe::test
