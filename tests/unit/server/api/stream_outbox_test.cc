#include "server/api/stream_outbox.h"

#include <gtest/gtest.h>

#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {
namespace {

using Outbox = StreamOutbox<v1::Job>;

v1::Job Named(const std::string& id) {
  v1::Job job;
  job.set_id(id);
  return job;
}

TEST(StreamOutboxTest, OneWriteAtATimeInOrder) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  EXPECT_EQ(action, OutboxAction::kWrite);
  EXPECT_EQ(outbox.in_flight().id(), "a");
  ASSERT_TRUE(outbox.Push(Named("b"), &action));
  EXPECT_EQ(action, OutboxAction::kNone);
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kWrite);
  EXPECT_EQ(outbox.in_flight().id(), "b");
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
}

TEST(StreamOutboxTest, EndWaitsForTheQueue) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  ASSERT_TRUE(outbox.Push(Named("b"), &action));
  EXPECT_EQ(outbox.End(grpc::Status::OK, false), OutboxAction::kNone);
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kWriteAndFinish);
  EXPECT_EQ(outbox.in_flight().id(), "b");
  EXPECT_TRUE(outbox.end_status().ok());
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
  EXPECT_EQ(outbox.End(grpc::Status::CANCELLED, true), OutboxAction::kNone) << "once";
}

TEST(StreamOutboxTest, TheEndComesAloneAfterTheLastWrite) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
  EXPECT_EQ(outbox.End(grpc::Status::OK, false), OutboxAction::kFinish);
}

TEST(StreamOutboxTest, AHeldMessageGoesWithTheEnd) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
  ASSERT_TRUE(outbox.Hold(Named("b")));
  EXPECT_EQ(outbox.End(grpc::Status::OK, false), OutboxAction::kWriteAndFinish);
  EXPECT_EQ(outbox.in_flight().id(), "b");
  ASSERT_TRUE(outbox.Hold(Named("late")));
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
}

TEST(StreamOutboxTest, DroppingEndWaitsForTheWriteInFlightOnly) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  ASSERT_TRUE(outbox.Push(Named("b"), &action));
  EXPECT_EQ(outbox.End(grpc::Status::CANCELLED, true), OutboxAction::kNone);
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kFinish);
  ASSERT_TRUE(outbox.Push(Named("c"), &action));
  EXPECT_EQ(action, OutboxAction::kNone);
}

TEST(StreamOutboxTest, FailedWriteEndsTheStream) {
  Outbox outbox({});
  OutboxAction action;
  ASSERT_TRUE(outbox.Push(Named("a"), &action));
  ASSERT_TRUE(outbox.Push(Named("b"), &action));
  EXPECT_EQ(outbox.WriteDone(false), OutboxAction::kFinish);
}

TEST(StreamOutboxTest, MergeKeepsOneMessageWaiting) {
  Outbox outbox({.max_bytes = 20});
  const auto merge = [](const v1::Job& waiting, const v1::Job& newer) {
    return Named(waiting.id() + newer.id());
  };
  OutboxAction action;
  ASSERT_TRUE(outbox.Merge(Named("a"), merge, &action));
  EXPECT_EQ(action, OutboxAction::kWrite);
  ASSERT_TRUE(outbox.Merge(Named("b"), merge, &action));
  EXPECT_EQ(action, OutboxAction::kNone);
  ASSERT_TRUE(outbox.Merge(Named("c"), merge, &action));
  EXPECT_FALSE(outbox.Merge(Named("a much longer one"), merge, &action));
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kWrite);
  EXPECT_EQ(outbox.in_flight().id(), "bc");
}

TEST(StreamOutboxTest, HeldMessagesWaitForStart) {
  Outbox outbox({});
  ASSERT_TRUE(outbox.Hold(Named("a")));
  ASSERT_TRUE(outbox.Hold(Named("b")));
  EXPECT_EQ(outbox.Start(), OutboxAction::kWrite);
  EXPECT_EQ(outbox.in_flight().id(), "a");
  EXPECT_TRUE(outbox.write_options().get_buffer_hint()) << "another one is behind it";
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kWrite);
  EXPECT_EQ(outbox.in_flight().id(), "b");
  EXPECT_FALSE(outbox.write_options().get_buffer_hint());
  EXPECT_EQ(outbox.WriteDone(true), OutboxAction::kNone);
  EXPECT_EQ(outbox.Start(), OutboxAction::kNone);
}

TEST(StreamOutboxTest, DropMakesRoom) {
  Outbox outbox({.max_messages = 2, .max_bytes = 1000});
  OutboxAction action;
  for (const char* id : {"in flight", "old", "kept"}) ASSERT_TRUE(outbox.Push(Named(id), &action));
  EXPECT_FALSE(outbox.Push(Named("new"), &action));
  EXPECT_FALSE(outbox.Hold(Named("new")));
  outbox.Drop([](const v1::Job& waiting) { return waiting.id() == "old"; });
  EXPECT_TRUE(outbox.Push(Named("new"), &action));
}

TEST(StreamOutboxTest, Bounds) {
  Outbox few({.max_messages = 1, .max_bytes = 1000});
  OutboxAction action;
  EXPECT_TRUE(few.Push(Named("in flight"), &action));
  EXPECT_TRUE(few.Push(Named("waits"), &action));
  EXPECT_FALSE(few.Push(Named("too many"), &action));
  Outbox small({.max_messages = 100, .max_bytes = 50});
  EXPECT_FALSE(small.Push(Named(std::string(60, 'x')), &action));
  EXPECT_TRUE(small.Push(Named("a"), &action));
}

}  // namespace
}  // namespace diffmoe::server
