// Processes that stand still or are away for a while: who is named, how fast, and what goes on.
#include <signal.h>

#include <cstdio>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(90);
// A rank of a job with short steps hangs after this time; the rest is for who finds and tells it.
constexpr absl::Duration kHangLimit = absl::Seconds(10), kMargin = absl::Seconds(3);
// The tolerance is for this test's own looks.
constexpr absl::Duration kSilenceLimit = absl::Seconds(5), kTolerance = absl::Milliseconds(500);
constexpr absl::Duration kOutage = absl::Seconds(30), kAdoptionLimit = absl::Seconds(2);

class OutageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = cluster_.Start();
    ASSERT_TRUE(status.ok()) << status;
    const auto id = SubmitSmoke(
        cluster_, {"train.steps=1000000", "checkpoint.every_steps=50", "parallel.max_restarts=9"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
    ASSERT_TRUE(Await([](const v1::Job& job) {
      return job.latest_checkpoint_step() >= 50 && job.progress().step() > 50;
    })) << job_.ShortDebugString();
  }

  // Looks until the condition holds for job_.
  bool Await(const std::function<bool(const v1::Job&)>& condition,
             absl::Duration limit = kJobLimit) {
    return WaitUntil(limit, [&] {
      job_ = LookAtJob(cluster_, id_);
      return condition(job_);
    });
  }

  // Whether a step has been made by an attempt after `epoch`.
  static bool RunsAgain(const v1::Job& job, int64_t epoch) {
    if (job.epoch() <= epoch || job.attempts_size() == 0) return false;
    const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
    return job.state() == v1::RUNNING && attempt.last_step() > attempt.restored_step();
  }

  // The step that the worker's own metrics show.
  int64_t StepAtTheWorker() const {
    const auto reply = HttpGet(cluster_.worker_metrics(), "/metrics");
    if (!reply.ok()) return -1;
    const std::string key = absl::StrCat("diffmoe_train_step{job_id=\"", id_, "\"} ");
    const size_t at = reply->body.find(key);
    return at == std::string::npos ? -1 : std::atoll(reply->body.c_str() + at + key.size());
  }

  std::string WorkerState() {
    const auto list = cluster_.CliJson({"workers"});
    return list.ok() && !(*list)["workers"].empty() ? (*list)["workers"][0].value("state", "") : "";
  }

  Cluster cluster_;
  std::string id_;
  v1::Job job_;
};

TEST_F(OutageTest, StoppedRankIsNamedAndTheJobGoesOn) {
  const int64_t epoch = job_.epoch();
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_, "--rank 1"});
  ASSERT_EQ(ranks.size(), 1u);
  ASSERT_EQ(kill(ranks[0], SIGSTOP), 0);
  const absl::Time stopped = absl::Now();
  ASSERT_TRUE(Await([&](const v1::Job& job) {
    return job.attempts_size() > 0 &&
           !job.attempts(job.attempts_size() > 1 ? job.attempts_size() - 2 : 0)
                .end_reason()
                .empty();
  })) << job_.ShortDebugString();
  const absl::Duration named = absl::Now() - stopped;
  const v1::Attempt attempt = job_.attempts(0);
  EXPECT_EQ(attempt.end_cause(), v1::END_CAUSE_HANG) << attempt.ShortDebugString();
  for (const char* part : {"rank 1", "no sign of life for 10.", "T (stopped)", "after step"}) {
    EXPECT_THAT(attempt.end_reason(), HasSubstr(part));
  }
  ASSERT_TRUE(Await([&](const v1::Job& job) { return RunsAgain(job, epoch); }))
      << job_.ShortDebugString();
  std::printf("named after %.2f s, running again after %.2f s: %s\n", absl::ToDoubleSeconds(named),
              absl::ToDoubleSeconds(absl::Now() - stopped), attempt.end_reason().c_str());
  EXPECT_LT(named, kHangLimit + kMargin);
}

TEST_F(OutageTest, CoordinatorThatIsAwayStopsNobody) {
  const int64_t epoch = job_.epoch();
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_});
  ASSERT_EQ(ranks.size(), 2u);
  cluster_.KillCoordinator();
  const absl::Time killed = absl::Now();
  int64_t before = StepAtTheWorker(), looks = 0;
  // Steps go on all the time.
  while (absl::Now() - killed < kOutage) {
    ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] { return StepAtTheWorker() > before; }));
    before = StepAtTheWorker();
    ++looks;
  }
  EXPECT_GT(looks, 5);
  ASSERT_TRUE(cluster_.StartCoordinator().ok());
  const absl::Time back = absl::Now();
  ASSERT_TRUE(Await([&](const v1::Job& job) {
    return job.state() == v1::RUNNING && job.progress().step() >= before;
  })) << job_.ShortDebugString();
  const absl::Duration adopted = absl::Now() - back;
  std::printf("adopted %.2f s after the coordinator was back, %lld looks meanwhile\n",
              absl::ToDoubleSeconds(adopted), static_cast<long long>(looks));
  EXPECT_LT(adopted, kAdoptionLimit);
  EXPECT_EQ(job_.epoch(), epoch);
  EXPECT_EQ(job_.restarts(), 0);
  EXPECT_EQ(ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_}), ranks);
}

TEST_F(OutageTest, SilentWorkerIsFoundAndItsJobComesBack) {
  const int64_t epoch = job_.epoch();
  cluster_.worker()->Signal(SIGSTOP);
  const absl::Time stopped = absl::Now();
  ASSERT_TRUE(WaitUntil(kJobLimit, [&] { return WorkerState() == "SILENT"; }));
  const absl::Duration found = absl::Now() - stopped;
  ASSERT_TRUE(Await([](const v1::Job& job) { return job.state() != v1::RUNNING; }))
      << job_.ShortDebugString();
  const absl::Duration lost = absl::Now() - stopped;
  ASSERT_GT(job_.attempts_size(), 0);
  EXPECT_EQ(job_.attempts(0).end_cause(), v1::END_CAUSE_WORKER_LOST) << job_.ShortDebugString();
  cluster_.worker()->Signal(SIGCONT);
  ASSERT_TRUE(Await([&](const v1::Job& job) { return RunsAgain(job, epoch); }))
      << job_.ShortDebugString();
  std::printf("found after %.2f s, given up after %.2f s, running again after %.2f s\n",
              absl::ToDoubleSeconds(found), absl::ToDoubleSeconds(lost),
              absl::ToDoubleSeconds(absl::Now() - stopped));
  EXPECT_LT(found, kSilenceLimit + kTolerance);
}

// The ranks of a worker that stood still never noticed.
TEST_F(OutageTest, WorkerThatComesBackInTimeKeepsItsRanks) {
  const int64_t epoch = job_.epoch();
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_});
  cluster_.worker()->Signal(SIGSTOP);
  ASSERT_TRUE(WaitUntil(kJobLimit, [&] { return WorkerState() == "SILENT"; }));
  const int64_t before = job_.progress().step();
  cluster_.worker()->Signal(SIGCONT);
  ASSERT_TRUE(Await([&](const v1::Job& job) { return job.progress().step() > before; }));
  ASSERT_TRUE(WaitUntil(kJobLimit, [&] { return WorkerState() == "CONNECTED"; })) << WorkerState();
  EXPECT_EQ(job_.epoch(), epoch);
  EXPECT_EQ(ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_}), ranks);
}

}  // namespace
}  // namespace diffmoe::test
