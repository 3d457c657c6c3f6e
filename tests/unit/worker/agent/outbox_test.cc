#include "worker/agent/outbox.h"

#include <gtest/gtest.h>

#include <vector>

namespace diffmoe {
namespace {

namespace pb = worker::v1;

class ManualClock final : public Clock {
 public:
  int64_t UnixMs() const override { return now_ms; }
  int64_t MonotonicMs() const override { return now_ms; }
  int64_t now_ms = 1'000'000;
};

pb::RankReport Report(int rank, int64_t first, int64_t last) {
  pb::RankReport report;
  report.mutable_group()->set_id("job-1");
  report.mutable_group()->set_epoch(2);
  report.set_rank(rank);
  report.mutable_progress()->set_step(last);
  for (int64_t step = first; step <= last; ++step) report.add_records()->set_step(step);
  return report;
}

pb::RankExited Exited(int rank) {
  pb::RankExited exited;
  exited.mutable_group()->set_id("job-1");
  exited.mutable_group()->set_epoch(2);
  exited.set_rank(rank);
  return exited;
}

class OutboxTest : public ::testing::Test {
 protected:
  std::vector<pb::WorkerMessage> TakeAll() {
    std::vector<pb::WorkerMessage> out;
    pb::WorkerMessage message;
    while (outbox_.Next(absl::ZeroDuration(), &message) == Outbox::NextResult::kMessage) {
      out.push_back(message);
    }
    return out;
  }

  ManualClock clock_;
  Outbox outbox_{&clock_};
};

TEST_F(OutboxTest, ReportsOfARankMerge) {
  outbox_.AddReport(Report(0, 1, 3));
  outbox_.AddReport(Report(0, 4, 5));
  const auto messages = TakeAll();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].rank_report().progress().step(), 5);
  EXPECT_EQ(messages[0].rank_report().records_size(), 5);
  EXPECT_EQ(messages[0].rank_report().group().epoch(), 2);
}

TEST_F(OutboxTest, ReportsGoBeforeTheExitOfTheirRank) {
  outbox_.AddReport(Report(0, 1, 5000));
  outbox_.AddExited(Exited(0));
  const auto messages = TakeAll();
  ASSERT_EQ(messages.size(), 3u);  // 4,096 records fit into a message
  EXPECT_EQ(messages[1].rank_report().records(903).step(), 5000);
  EXPECT_TRUE(messages[2].has_rank_exited());
}

TEST_F(OutboxTest, OldestRecordsGoWhenThereAreTooMany) {
  for (int64_t step = 1; step <= 250'000; step += 1000)
    outbox_.AddReport(Report(0, step, step + 999));
  outbox_.AddExited(Exited(0));
  int64_t records = 0, first = 0, last = 0;
  for (const auto& message : TakeAll()) {
    for (const auto& record : message.rank_report().records()) {
      if (records++ == 0) first = record.step();
      last = record.step();
    }
  }
  EXPECT_EQ(records, 200'000);
  EXPECT_EQ(first, 50'001);
  EXPECT_EQ(last, 250'000);
}

TEST_F(OutboxTest, WhatWasSentJustBeforeALossIsSentAgain) {
  outbox_.AddReport(Report(0, 1, 1));
  ASSERT_EQ(TakeAll().size(), 1u);
  clock_.now_ms += 11'000;  // so long ago that it has arrived
  outbox_.AddReport(Report(0, 2, 2));
  outbox_.AddExited(Exited(0));
  ASSERT_EQ(TakeAll().size(), 2u);
  clock_.now_ms += 1'000;
  outbox_.SessionLost();
  outbox_.AddExited(Exited(1));
  const auto messages = TakeAll();
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].rank_report().records(0).step(), 2);
  EXPECT_EQ(messages[1].rank_exited().rank(), 0);
  EXPECT_EQ(messages[2].rank_exited().rank(), 1);
}

TEST_F(OutboxTest, InterruptHoldsUntilTheNextSession) {
  outbox_.AddExited(Exited(0));
  outbox_.Interrupt();
  pb::WorkerMessage message;
  EXPECT_EQ(outbox_.Next(absl::Seconds(10), &message), Outbox::NextResult::kInterrupted);
  EXPECT_FALSE(outbox_.WaitEmpty(absl::ZeroDuration()));
  outbox_.BeginSession();
  EXPECT_EQ(outbox_.Next(absl::Seconds(10), &message), Outbox::NextResult::kMessage);
  EXPECT_TRUE(outbox_.WaitEmpty(absl::ZeroDuration()));
}

}  // namespace
}  // namespace diffmoe
