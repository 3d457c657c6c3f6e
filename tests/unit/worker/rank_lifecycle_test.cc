// How ranks start and end, seen from the coordinator.
#include <signal.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "core/base/exit_code.h"
#include "tests/support/http.h"
#include "tests/unit/worker/worker_fixture.h"
#include "worker/rank/rank_link.h"

namespace diffmoe::test {
namespace {

using worker::v1::RankExited;

TEST_F(WorkerTest, RankThatFinishesIsDone) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("finish")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
  EXPECT_EQ(exited.step(), 5);
  EXPECT_EQ(exited.group().epoch(), 3);
  // Every step came, and all of them before the exit.
  int64_t next = 1;
  bool ended = false;
  for (const auto& message : coordinator_.Messages()) {
    ended = ended || message.has_rank_exited();
    for (const auto& record : message.rank_report().records()) {
      EXPECT_FALSE(ended);
      EXPECT_EQ(record.step(), next++);
    }
  }
  EXPECT_EQ(next, 6);
}

TEST_F(WorkerTest, RankInheritsNothingItShouldNot) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("environment")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
}

TEST_F(WorkerTest, ReportedErrorArrivesWithItsMessage) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("error")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_ERROR);
  EXPECT_EQ(exited.status_code(), static_cast<int>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(exited.message(), "rank 0: all_to_all of layer 3: peer 1 has gone");
  EXPECT_EQ(exited.step(), 11);
}

TEST_F(WorkerTest, KilledRankIsReportedWithinASecond) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  const pid_t pid = WaitForPid();
  ASSERT_TRUE(WaitForStep(2));
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  worker::v1::WorkerMessage message;
  ASSERT_TRUE(coordinator_.WaitFor([](const auto& heard) { return heard.has_rank_exited(); },
                                   &message, absl::Seconds(1)));
  EXPECT_EQ(message.rank_exited().cause(), worker::v1::EXIT_CAUSE_SIGNAL);
  EXPECT_EQ(message.rank_exited().signal(), SIGKILL);
  EXPECT_NE(message.rank_exited().message().find("SIGKILL"), std::string::npos);
  EXPECT_GE(message.rank_exited().step(), 2);
}

TEST_F(WorkerTest, CrashIsReportedWithTheLastLineOfTheLog) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("crash")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_SIGNAL);
  EXPECT_EQ(exited.signal(), SIGABRT);
  EXPECT_NE(exited.message().find("terminate called"), std::string::npos) << exited.message();
  EXPECT_NE(ReadFile(dir() + "/logs/job-1-3-0.log").find("terminate called"), std::string::npos);
}

TEST_F(WorkerTest, ExitCodesWithoutAWordAreErrors) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("code", "job-1", 0)));
  ASSERT_TRUE(coordinator_.Send(Start("silent-end", "job-2", 1)));
  const RankExited code = WaitForExit("job-1");
  EXPECT_EQ(code.cause(), worker::v1::EXIT_CAUSE_EXIT_CODE);
  EXPECT_EQ(code.exit_code(), 3);
  const RankExited silent = WaitForExit("job-2");
  EXPECT_EQ(silent.cause(), worker::v1::EXIT_CAUSE_EXIT_CODE);
  EXPECT_EQ(silent.exit_code(), 0);
  EXPECT_NE(silent.message().find("without saying"), std::string::npos);
}

TEST_F(WorkerTest, StopGroupEndsItsRanksAndNoOthers) {
  StartBoth({"--devices", "cpu,cpu,cpu"});
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-1", 0, 0)));
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-1", 1, 1)));
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-2", 2)));
  ASSERT_TRUE(WaitForStep(2, "job-1"));
  ASSERT_TRUE(WaitForStep(2, "job-2"));
  ASSERT_TRUE(coordinator_.Send(
      StopGroup("job-1", 10'000, /*epoch=*/2)));  // an older attempt: nothing to stop
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 10'000)));
  for (int rank : {0, 1}) {
    const RankExited exited = WaitForExit("job-1", rank);
    EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_STOPPED);
    EXPECT_NE(exited.message().find("a test wants it"), std::string::npos);
  }
  EXPECT_FALSE(Dead(WaitForPid("job-2")));
}

TEST_F(WorkerTest, RankThatIgnoresEverythingIsKilledAfterTheGrace) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("stubborn")));
  ASSERT_TRUE(WaitForStep(2));
  const absl::Time stopped = absl::Now();
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 300)));
  const RankExited exited = WaitForExit();
  EXPECT_GE(absl::Now() - stopped, absl::Milliseconds(290));
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(exited.signal(), SIGKILL);
}

TEST_F(WorkerTest, StopWithACheckpointLetsTheRankSave) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("save")));
  ASSERT_TRUE(WaitForStep(2));
  coordinator_.HoldCommits(true);
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 60'000, 3, /*save=*/true)));
  // Still there after the time in which a plain stop sends SIGTERM.
  EXPECT_FALSE(coordinator_.WaitFor([](const auto& heard) { return heard.has_rank_exited(); },
                                    nullptr, absl::Seconds(2)));
  coordinator_.HoldCommits(false);
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_STOPPED) << exited.DebugString();
  EXPECT_EQ(exited.signal(), 0);
  EXPECT_EQ(coordinator_.Commits().size(), 1u);
}

TEST_F(WorkerTest, StopWithACheckpointEndsWithTheGrace) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("save")));
  ASSERT_TRUE(WaitForStep(2));
  coordinator_.HoldCommits(true);
  const absl::Time stopped = absl::Now();
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 2'000, 3, /*save=*/true)));
  const RankExited exited = WaitForExit();
  EXPECT_GE(absl::Now() - stopped, absl::Milliseconds(1'500));
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_STOPPED) << exited.DebugString();
  EXPECT_EQ(exited.signal(), SIGTERM);
  EXPECT_TRUE(coordinator_.Commits().empty());
}

TEST_F(WorkerTest, PlainStopEndsASaveThatIsUnderWay) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("stubborn")));
  ASSERT_TRUE(WaitForStep(2));
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 600'000, 3, /*save=*/true)));
  ASSERT_TRUE(worker_->WaitForText("save=1", kLimit)) << worker_->Err();
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 300)));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(exited.signal(), SIGKILL);
}

TEST_F(WorkerTest, RankThatMakesNoProgressIsKilledAndSaysWhere) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("hang")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_HANG) << exited.DebugString();
  EXPECT_EQ(exited.signal(), SIGKILL);
  EXPECT_EQ(exited.step(), 7);
  for (const char* part :
       {"no progress for 1.", "in forward of block 3 after step 7", "was in state S (sleeping)"}) {
    EXPECT_NE(exited.message().find(part), std::string::npos) << part << ": " << exited.message();
  }
}

TEST_F(WorkerTest, StoppedRankIsKilledAfterTenSeconds) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  const pid_t pid = WaitForPid();
  ASSERT_TRUE(WaitForStep(2));
  const absl::Time stopped = absl::Now();
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_HANG) << exited.DebugString();
  EXPECT_GE(absl::Now() - stopped, absl::Seconds(9));
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(12));
  for (const char* part : {"no sign of life for 10.", "was in state T (stopped)"}) {
    EXPECT_NE(exited.message().find(part), std::string::npos) << part << ": " << exited.message();
  }
}

TEST_F(WorkerTest, SlotIsFreeOnlyAfterItsRankHasEnded) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-1", 0)));
  ASSERT_TRUE(WaitForStep(1));
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-2", 0)));
  const RankExited refused = WaitForExit("job-2");
  EXPECT_EQ(refused.cause(), worker::v1::EXIT_CAUSE_SPAWN);
  EXPECT_NE(refused.message().find("slot 0 is still held by rank 0 of job-1"), std::string::npos);
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 10'000)));
  WaitForExit("job-1");
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-3", 0)));
  EXPECT_EQ(WaitForExit("job-3").cause(), worker::v1::EXIT_CAUSE_DONE);
  ASSERT_TRUE(coordinator_.Send(Start("finish", "job-4", 2)));
  EXPECT_NE(WaitForExit("job-4").message().find("slots 0 to 1"), std::string::npos);
}

TEST_F(WorkerTest, RankBinaryThatIsGoneIsASpawnError) {
  rank_binary_ = temp_.Sub("rank");
  std::filesystem::copy(Binary("diffmoe-test-rank"), rank_binary_);
  StartBoth();
  std::filesystem::remove(rank_binary_);
  ASSERT_TRUE(coordinator_.Send(Start("finish")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_SPAWN);
  EXPECT_NE(exited.message().find(rank_binary_), std::string::npos) << exited.message();
}

TEST_F(WorkerTest, StrangersAreRefused) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  ASSERT_TRUE(WaitForStep(1));
  const std::string socket = Info()["socket"];
  // The right rank with the wrong pid, another epoch, another group.
  for (const auto& [group, epoch] :
       std::vector<std::pair<std::string, int64_t>>{{"job-1", 3}, {"job-1", 4}, {"job-9", 3}}) {
    auto link = RankLink::Connect(socket, group, epoch, 0);
    ASSERT_FALSE(link.ok());
    EXPECT_TRUE(absl::IsPermissionDenied(link.status())) << link.status();
    EXPECT_NE(link.status().message().find("was not started by this worker"), std::string::npos);
  }
  EXPECT_FALSE(Dead(WaitForPid()));
}

TEST_F(WorkerTest, RanksDieWithTheirWorker) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("stubborn", "job-1", 0)));
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-2", 1)));
  const pid_t first = WaitForPid("job-1"), second = WaitForPid("job-2");
  ASSERT_TRUE(WaitForStep(1, "job-1"));
  ASSERT_TRUE(WaitForStep(1, "job-2"));
  worker_->Signal(SIGKILL);
  EXPECT_TRUE(WaitUntil(kLimit, [&] { return Dead(first) && Dead(second); }));
}

TEST_F(WorkerTest, SigtermStopsTheRanksAndSaysSo) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train", "job-1", 0)));
  ASSERT_TRUE(WaitForStep(1));
  worker_->Signal(SIGTERM);
  EXPECT_EQ(WaitForExit().cause(), worker::v1::EXIT_CAUSE_STOPPED);
  auto exit = worker_->Wait(kLimit);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->exit_code, kExitOk) << worker_->Err();
  EXPECT_FALSE(std::filesystem::exists(dir() + "/worker.json"));
}

TEST_F(WorkerTest, SecondSigtermKillsAtOnce) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("stubborn")));
  ASSERT_TRUE(WaitForStep(1));
  const absl::Time start = absl::Now();
  worker_->Signal(SIGTERM);
  ASSERT_TRUE(worker_->WaitForText("stopping signal=15", kLimit));
  worker_->Signal(SIGTERM);
  auto exit = worker_->Wait(kLimit);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->exit_code, kExitOk);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));  // the grace of a single signal
}

TEST_F(WorkerTest, MetricsShowTheJobAndTheWorker) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  ASSERT_TRUE(WaitForStep(2));
  auto reply = HttpGet(Info()["metrics_address"], "/metrics");
  ASSERT_TRUE(reply.ok()) << reply.status();
  for (const char* line :
       {"diffmoe_train_loss{job_id=\"job-1\"} 0.25",
        "diffmoe_moe_capacity_ratio{block=\"1\",job_id=\"job-1\"} 0.99",
        "diffmoe_worker_connected 1", "diffmoe_worker_rank_starts_total{role=\"train\"} 1",
        "diffmoe_worker_slots{state=\"busy\"} 1"}) {
    EXPECT_NE(reply->body.find(line), std::string::npos) << line << "\n" << reply->body;
  }
}

}  // namespace
}  // namespace diffmoe::test
