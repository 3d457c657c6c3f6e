#include "server/loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <map>

#include "absl/synchronization/notification.h"
#include "server/call_table.h"
#include "server/errors.h"
#include "server/group_table.h"
#include "server/state/records.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(10);

// A real store whose commits can be made to fail.
class FailingStore {
 public:
  explicit FailingStore(const std::string& directory)
      : store_(std::move(RecordStore::Open(directory).value())) {}

  void FailWith(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    failure_ = std::move(status);
  }
  int commits() const { return commits_; }
  absl::Status Commit(const std::vector<RecordWrite>& writes) {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    ++commits_;
    return store_->Commit(writes);
  }
  absl::StatusOr<std::string> Get(const std::string& key) const { return store_->Get(key); }

 private:
  std::unique_ptr<RecordStore> store_;
  absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> commits_{0};
};

// Keeps what it was told, and what the store held at that moment.
class RecordingExecutor final : public EffectExecutor {
 public:
  explicit RecordingExecutor(const FailingStore* store) : store_(store) {}

  void Execute(Effect effect) override {
    absl::MutexLock lock(&mutex_);
    if (const auto* reply = std::get_if<Reply>(&effect)) {
      replies_[reply->call] = *reply;
      if (reply->status.ok() && !reply->job.id().empty()) {
        unbacked_ += store_->Get(JobKey(reply->job.id())).ok() ? 0 : 1;
      }
    }
    ++executed_;
  }
  void BatchDone(const State&) override {}
  void Committed(absl::StatusCode, int64_t, double) override {}

  std::optional<Reply> reply(uint64_t call) {
    absl::MutexLock lock(&mutex_);
    const auto it = replies_.find(call);
    return it == replies_.end() ? std::nullopt : std::optional<Reply>(it->second);
  }
  // Jobs that were acknowledged before they were in the store.
  int unbacked() {
    absl::MutexLock lock(&mutex_);
    return unbacked_;
  }
  size_t replies() {
    absl::MutexLock lock(&mutex_);
    return replies_.size();
  }

 private:
  const FailingStore* store_;
  absl::Mutex mutex_;
  std::map<uint64_t, Reply> replies_ ABSL_GUARDED_BY(mutex_);
  int unbacked_ ABSL_GUARDED_BY(mutex_) = 0;
  int executed_ ABSL_GUARDED_BY(mutex_) = 0;
};

class LoopTest : public testing::Test {
 protected:
  LoopTest() {
    options_.retry_ms = 20;
    MakeLoop();
  }

  void MakeLoop() {
    State state;
    state.options.silence_limit_ms = 50;
    loop_ = std::make_unique<Loop>(
        std::move(state),
        [this](const std::vector<RecordWrite>& writes) { return store_.Commit(writes); }, &clock_,
        &executor_,
        [this](absl::Status status) {
          absl::MutexLock lock(&mutex_);
          fatal_ = std::move(status);
        },
        options_);
  }
  std::optional<Reply> WaitForReply(uint64_t call) {
    test::WaitUntil(kLimit, [&] { return executor_.reply(call).has_value(); });
    return executor_.reply(call);
  }
  absl::Status fatal() {
    absl::MutexLock lock(&mutex_);
    return fatal_;
  }
  // The number of jobs that a query sees.
  size_t JobsSeen() {
    absl::Notification done;
    size_t jobs = 0;
    EXPECT_TRUE(loop_
                    ->Query([&](const State& state) {
                      jobs = state.jobs.size();
                      done.Notify();
                    })
                    .ok());
    done.WaitForNotification();
    return jobs;
  }

  test::TempDir dir_;
  FailingStore store_{dir_.Sub("records")};
  SystemClock clock_;
  RecordingExecutor executor_{&store_};
  LoopOptions options_;
  absl::Mutex mutex_;
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Loop> loop_;
};

TEST_F(LoopTest, AcknowledgedJobsAreInTheStore) {
  loop_->Start();
  for (uint64_t call = 1; call <= 50; ++call) {
    ASSERT_TRUE(loop_->Post(SubmitJob{call, TestSpec("a", 1), {}}).ok());
  }
  for (uint64_t call = 1; call <= 50; ++call) {
    const auto reply = WaitForReply(call);
    ASSERT_TRUE(reply.has_value());
    EXPECT_TRUE(reply->status.ok());
  }
  EXPECT_EQ(executor_.unbacked(), 0);
}

TEST_F(LoopTest, QueuedEventsShareACommit) {
  for (uint64_t call = 1; call <= 100; ++call) {
    ASSERT_TRUE(loop_->Post(SubmitJob{call, TestSpec("a", 1), {}}).ok());
  }
  loop_->Start();
  ASSERT_TRUE(WaitForReply(100).has_value());
  EXPECT_LE(store_.commits(), 3) << "one for the start, one for the batch";
}

TEST_F(LoopTest, QueriesSeeWhatWasPostedBefore) {
  loop_->Start();
  ASSERT_TRUE(loop_->Post(SubmitJob{1, TestSpec("a", 1), {}}).ok());
  EXPECT_EQ(JobsSeen(), 1u);
}

TEST_F(LoopTest, FullQueueRefusesRequestsBeforeWorkers) {
  options_.max_requests = 2;
  options_.max_queue = 3;
  MakeLoop();  // not started: nothing is taken
  EXPECT_TRUE(loop_->Post(SubmitJob{1, TestSpec("a", 1), {}}).ok());
  EXPECT_TRUE(loop_->Post(SubmitJob{2, TestSpec("a", 1), {}}).ok());
  const absl::Status refused = loop_->Post(SubmitJob{3, TestSpec("a", 1), {}});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailsOf(refused).reason(), v1::QUEUE_FULL);
  EXPECT_TRUE(loop_->Post(WorkerHeartbeat{1}).ok());
  EXPECT_EQ(loop_->Post(WorkerHeartbeat{1}).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(LoopTest, FullDiskAcknowledgesNothingAndRecovers) {
  loop_->Start();
  EXPECT_EQ(JobsSeen(), 0u);
  store_.FailWith(absl::ResourceExhaustedError("no space left"));
  ASSERT_TRUE(loop_->Post(SubmitJob{1, TestSpec("a", 1), {"once", "h", 0, {}}}).ok());
  const auto failed = WaitForReply(1);
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailsOf(failed->status).reason(), v1::STORAGE_FAILED);
  const absl::Status refused = loop_->Post(SubmitJob{2, TestSpec("b", 1), {}});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << "at once while it stalls";
  EXPECT_TRUE(loop_->Post(WorkerHeartbeat{9}).ok()) << "workers aren't disconnected";
  JobsSeen();  // reads are answered meanwhile
  store_.FailWith(absl::OkStatus());
  ASSERT_TRUE(test::WaitUntil(kLimit, [&] {
    return loop_->Post(SubmitJob{3, TestSpec("a", 1), {"once", "h", 0, {}}}).ok();
  }));
  const auto again = WaitForReply(3);
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->status.ok());
  EXPECT_EQ(again->job.id(), "a-1") << "the first request took effect after all, once";
  EXPECT_TRUE(store_.Get(JobKey("a-1")).ok());
  EXPECT_EQ(executor_.unbacked(), 0);
  EXPECT_TRUE(fatal().ok());
}

TEST_F(LoopTest, ManifestAnswerWaitsForTheDisk) {
  loop_->Start();
  ASSERT_TRUE(loop_->Post(SubmitJob{1, TestSpec("a", 1), {}}).ok());
  WorkerHello hello{50, {}};
  hello.hello.set_worker_id("w1");
  hello.hello.add_slot_devices("cpu");
  ASSERT_TRUE(loop_->Post(hello).ok());
  ASSERT_TRUE(WaitForReply(1).has_value());
  EXPECT_EQ(JobsSeen(), 1u);
  store_.FailWith(absl::ResourceExhaustedError("no space left"));
  CommitManifest commit{2, {}};
  commit.manifest.set_job_id("a-1");
  commit.manifest.set_epoch(1);
  commit.manifest.set_step(5);
  ASSERT_TRUE(loop_->Post(commit).ok());
  ASSERT_TRUE(test::WaitUntil(kLimit, [&] {
    return loop_->Post(SubmitJob{3, TestSpec("b", 1), {}}).code() ==
           absl::StatusCode::kResourceExhausted;
  }));
  EXPECT_FALSE(executor_.reply(2).has_value());
  store_.FailWith(absl::OkStatus());
  const auto reply = WaitForReply(2);
  ASSERT_TRUE(reply.has_value());
  EXPECT_TRUE(reply->status.ok());
  EXPECT_TRUE(store_.Get(ManifestKey("a-1", 5)).ok());
}

TEST_F(LoopTest, AnyOtherFailureIsFinal) {
  loop_->Start();
  EXPECT_EQ(JobsSeen(), 0u);
  store_.FailWith(absl::InternalError("fdatasync: EIO"));
  ASSERT_TRUE(loop_->Post(SubmitJob{1, TestSpec("a", 1), {}}).ok());
  const auto reply = WaitForReply(1);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->status.code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(test::WaitUntil(kLimit, [&] { return !fatal().ok(); }));
  EXPECT_EQ(loop_->Post(SubmitJob{2, TestSpec("a", 1), {}}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(LoopTest, StopHandlesWhatIsQueued) {
  for (uint64_t call = 1; call <= 20; ++call) {
    ASSERT_TRUE(loop_->Post(SubmitJob{call, TestSpec("a", 1), {}}).ok());
  }
  loop_->Start();
  loop_->Stop();
  EXPECT_EQ(executor_.replies(), 20u);
  EXPECT_EQ(loop_->Post(SubmitJob{99, TestSpec("a", 1), {}}).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(LoopTest, TimersRunWithoutEvents) {
  loop_->Start();
  WorkerHello hello{50, {}};
  hello.hello.set_worker_id("w1");
  hello.hello.add_slot_devices("cpu");
  ASSERT_TRUE(loop_->Post(hello).ok());
  ASSERT_TRUE(test::WaitUntil(kLimit, [&] {
    absl::Notification done;
    bool silent = false;
    loop_
        ->Query([&](const State& state) {
          silent = state.workers.at("w1").silent;
          done.Notify();
        })
        .IgnoreError();
    done.WaitForNotification();
    return silent;
  }));
}

TEST(CallTableTest, EachCallIsAnsweredOnce) {
  CallTable calls;
  int answers = 0;
  const uint64_t first = calls.NewNumber();
  EXPECT_NE(first, calls.NewNumber());
  calls.Add(first, [&](const Reply&) { ++answers; });
  calls.Answer(Reply{first, absl::OkStatus(), {}, false});
  calls.Answer(Reply{first, absl::OkStatus(), {}, false});
  EXPECT_EQ(answers, 1);
  absl::Status last;
  calls.Add(77, [&](const Reply& reply) { last = reply.status; });
  calls.FailAll(absl::UnavailableError("stopping"));
  EXPECT_EQ(last.code(), absl::StatusCode::kUnavailable);
  last = absl::OkStatus();
  calls.Add(78, [&](const Reply& reply) { last = reply.status; });
  EXPECT_EQ(last.code(), absl::StatusCode::kUnavailable) << "late calls, too";
}

TEST(GroupTableTest, OnlyTheLivingEpochPasses) {
  GroupTable groups;
  EXPECT_EQ(groups.Check("a", 1).code(), absl::StatusCode::kAborted);
  groups.Start("a", 1);
  EXPECT_TRUE(groups.Check("a", 1).ok());
  groups.Start("a", 2);
  groups.End("a", 1);
  EXPECT_TRUE(groups.Check("a", 2).ok()) << "the end of an old epoch doesn't end the new one";
  EXPECT_EQ(groups.Check("a", 1).code(), absl::StatusCode::kAborted);
  groups.End("a", 2);
  EXPECT_EQ(groups.Check("a", 2).code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace diffmoe::server
