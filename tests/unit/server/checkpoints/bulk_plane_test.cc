#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/wait.h"
#include "tests/unit/server/checkpoints/bulk_plane_fixture.h"

namespace diffmoe::server {
namespace {

using worker::v1::Manifest;
using worker::v1::ShardHeader;

TEST_F(BulkPlaneTest, ShardsOfTwoRanksBecomeOneCheckpoint) {
  MustSave(500);
  const std::vector<Manifest> manifests = host_.Manifests();
  ASSERT_EQ(manifests.size(), 1u);
  const Manifest& manifest = manifests[0];
  EXPECT_EQ(manifest.job_id(), "demo");
  EXPECT_EQ(manifest.step(), 500);
  EXPECT_EQ(manifest.epoch(), 1);
  EXPECT_EQ(manifest.world_size(), 2);
  EXPECT_EQ(manifest.shards_size(), 2);
  EXPECT_EQ(manifest.slices_size(), 3);
  EXPECT_EQ(manifest.summary().thresholds(1), 0.75F);
  EXPECT_GT(manifest.commit_time_ms(), 0);
  ExpectStored(500, 1, 0);
  EXPECT_TRUE(store_->Verify(manifest).ok());

  grpc::ClientContext context;
  worker::v1::GetManifestRequest request;
  request.set_job_id("demo");
  request.set_step(500);
  Manifest served;
  ASSERT_TRUE(stub_->GetManifest(&context, request, &served).ok());
  EXPECT_EQ(served.SerializeAsString(), manifest.SerializeAsString());
}

TEST_F(BulkPlaneTest, EveryMessageIsAcknowledgedWithTheRunningCount) {
  RankClient rank(stub_.get(), MakeHeader("demo", 1, 1, 0, 1));
  EXPECT_TRUE(rank.Send("12345"));
  EXPECT_EQ(rank.acknowledged(), 5);
  EXPECT_TRUE(rank.Send("678"));
  EXPECT_EQ(rank.acknowledged(), 8);
}

TEST_F(BulkPlaneTest, ARankThatDiesTakesTheCheckpointDownAndIsNamed) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient survivor(stub_.get(), header);
  ASSERT_TRUE(survivor.SendAll(ShardBytes(header)));
  ASSERT_TRUE(survivor.SendEnd());
  {
    RankClient victim(stub_.get(), MakeHeader("demo", 500, 1, 1, 2));
    ASSERT_TRUE(victim.Send(std::string(1000, 'x')));
  }
  const grpc::Status status = survivor.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_TRUE(absl::StrContains(status.error_message(), "rank 1")) << status.error_message();
  EXPECT_TRUE(absl::StrContains(status.error_message(), "1000 of 700000 bytes"))
      << status.error_message();
  EXPECT_FALSE(survivor.committed());
  ExpectNothingIsThere();
  MustSave(500);  // both send it again
  ExpectStored(500, 1, 0);
}

TEST_F(BulkPlaneTest, ARankThatDiesWhileItWaitsIsNoticed) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient late(stub_.get(), MakeHeader("demo", 500, 1, 1, 2));
  ASSERT_TRUE(late.Send("some"));
  {
    RankClient victim(stub_.get(), header);
    ASSERT_TRUE(victim.SendAll(ShardBytes(header)));
    ASSERT_TRUE(victim.SendEnd());
  }
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return !late.Send("more"); }));
  const grpc::Status status = late.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(absl::StrContains(status.error_message(), "rank 0")) << status.error_message();
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, ADamagedMessageIsRefused) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient good(stub_.get(), header), bad(stub_.get(), MakeHeader("demo", 500, 1, 1, 2));
  ASSERT_TRUE(good.SendAll(ShardBytes(header)));
  ASSERT_TRUE(good.SendEnd());
  ASSERT_TRUE(bad.Send("good bytes"));
  EXPECT_FALSE(bad.SendDamaged("bad bytes"));
  const grpc::Status damaged = bad.Finish();
  EXPECT_EQ(damaged.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_TRUE(absl::StrContains(damaged.error_message(), "rank 1")) << damaged.error_message();
  EXPECT_TRUE(absl::StrContains(damaged.error_message(), "bytes 10 to 18"))
      << damaged.error_message();
  EXPECT_EQ(good.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, WrongSizesAreRefused) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 1);
  const std::string bytes = ShardBytes(header);
  RankClient more(stub_.get(), header);
  ASSERT_TRUE(more.SendAll(bytes));
  EXPECT_FALSE(more.Send("x"));
  EXPECT_EQ(more.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  RankClient less(stub_.get(), header);
  ASSERT_TRUE(less.Send("x"));
  ASSERT_TRUE(less.SendEnd());
  const grpc::Status status = less.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(absl::StrContains(status.error_message(), "announced with 700008 bytes, got 1"))
      << status.error_message();
  RankClient big(stub_.get(), header);
  EXPECT_FALSE(big.Send(std::string(kChunkBytes + 1, 'x')));
  EXPECT_EQ(big.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  RankClient empty(stub_.get(), header);
  EXPECT_FALSE(empty.Send(""));
  EXPECT_EQ(empty.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, StreamsOutOfOrderAreRefused) {
  const auto result_of = [&](const std::vector<worker::v1::PutShardRequest>& requests) {
    grpc::ClientContext context;
    auto stream = stub_->PutShard(&context);
    for (const auto& request : requests) stream->Write(request);
    stream->WritesDone();
    worker::v1::PutShardResponse response;
    while (stream->Read(&response)) EXPECT_FALSE(response.committed());
    return stream->Finish().error_code();
  };
  worker::v1::PutShardRequest header, end, nothing;
  *header.mutable_header() = MakeHeader("demo", 1, 1, 0, 1);
  end.mutable_end();
  EXPECT_EQ(result_of({end}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(result_of({nothing}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(result_of({header, header}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(result_of({header, nothing}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(result_of({header}), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(result_of({}), grpc::StatusCode::CANCELLED);
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, ATensorWithAHoleIsRefusedForAllRanks) {
  ShardHeader holed = MakeHeader("demo", 500, 1, 1, 2);
  holed.mutable_slices(0)->set_elements(699'000);
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient zero(stub_.get(), header), one(stub_.get(), holed);
  ASSERT_TRUE(zero.SendAll(ShardBytes(header)) && zero.SendEnd());
  ASSERT_TRUE(one.SendAll(ShardBytes(holed)) && one.SendEnd());
  for (RankClient* rank : {&zero, &one}) {
    const grpc::Status status = rank->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_TRUE(absl::StrContains(status.error_message(), "model/w")) << status.error_message();
  }
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, AFailedManifestCommitLeavesNothing) {
  host_.SetCommitResult(absl::ResourceExhaustedError("disk full"));
  for (const grpc::Status& status : SaveAll(500, 1, 2)) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  ExpectNothingIsThere();
  host_.SetCommitResult(absl::OkStatus());
  MustSave(500);
  ExpectStored(500, 1, 0);
}

TEST_F(BulkPlaneTest, BytesStayWhenTheOutcomeOfTheCommitIsUnknown) {
  host_.SetCommitResult(absl::InternalError("I/O error"));
  for (const grpc::Status& status : SaveAll(500, 1, 2))
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(chunks_->List().size(), 1u);
  EXPECT_EQ(store_->Reconcile({})->orphans_deleted, 1);  // the restart finds no manifest
  SaveAll(500, 1, 2);
  host_.SetCommitResult(absl::OkStatus());
  MustSave(500, 1, /*seed=*/3);  // or the ranks send it again before a restart
  ExpectStored(500, 1, 3);
}

TEST_F(BulkPlaneTest, AStaleEpochIsAborted) {
  host_.SetEpoch("demo", 3);
  RankClient rank(stub_.get(), MakeHeader("demo", 500, 2, 0, 1));
  const grpc::Status status = rank.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
  EXPECT_FALSE(status.error_details().empty());
}

TEST_F(BulkPlaneTest, ARankThatSendsACommittedShardAgainIsAnsweredAlone) {
  MustSave(500);
  const ShardHeader header = MakeHeader("demo", 500, 1, 1, 2);
  RankClient again(stub_.get(), header);
  ASSERT_TRUE(again.SendAll(ShardBytes(header, /*seed=*/5)) && again.SendEnd());
  EXPECT_TRUE(again.Finish().ok());
  EXPECT_TRUE(again.committed());
  ExpectStored(500, 1, 0);
}

TEST_F(BulkPlaneTest, ANewEpochReplacesAStep) {
  MustSave(500, 1, /*seed=*/1);
  MustSave(1000, 1, /*seed=*/1);
  host_.SetEpoch("demo", 2);
  MustSave(500, 2, /*seed=*/2);
  ExpectStored(500, 2, 2);
  ExpectStored(1000, 1, 1);
  ASSERT_EQ(host_.Manifests().size(), 2u);
  EXPECT_EQ(host_.Manifests()[0].epoch(), 2);
  EXPECT_EQ(chunks_->List().size(), 2u);  // the older bytes are gone
}

TEST_F(BulkPlaneTest, ARankThatStartsAgainReplacesItsOldStream) {
  const ShardHeader zero = MakeHeader("demo", 500, 1, 0, 2);
  RankClient old_zero(stub_.get(), zero);
  ASSERT_TRUE(old_zero.Send("some"));
  MustSave(500);
  EXPECT_FALSE(old_zero.Send("more"));
  EXPECT_EQ(old_zero.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectStored(500, 1, 0);
}

TEST_F(BulkPlaneTest, RanksThatDisagreeOnTheWorldSizeAreRefused) {
  RankClient zero(stub_.get(), MakeHeader("demo", 500, 1, 0, 2));
  ASSERT_TRUE(zero.Send("some"));
  RankClient one(stub_.get(), MakeHeader("demo", 500, 1, 1, 4));
  EXPECT_EQ(one.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BulkPlaneTest, EndGroupAbortsWhatIsPending) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient rank(stub_.get(), header);
  ASSERT_TRUE(rank.SendAll(ShardBytes(header)) && rank.SendEnd());
  auto result = std::async(std::launch::async, [&] { return rank.Finish(); });
  worker::v1::GroupId group = header.group();
  service_->EndGroup(group);
  EXPECT_EQ(result.get().error_code(), grpc::StatusCode::ABORTED);
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, AStalledCheckpointIsGivenUpAndTheMissingRankIsNamed) {
  Stop();
  Start({.max_pending = 64, .max_world_size = 4096, .stall_timeout_ms = 300});
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 3);
  RankClient rank(stub_.get(), header);
  ASSERT_TRUE(rank.SendAll(ShardBytes(header)) && rank.SendEnd());
  const grpc::Status status = rank.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(absl::StrContains(status.error_message(), "waiting for rank 1, 2"))
      << status.error_message();
  ExpectNothingIsThere();
}

TEST_F(BulkPlaneTest, PendingCheckpointsAreBounded) {
  Stop();
  Start({.max_pending = 2, .max_world_size = 4096, .stall_timeout_ms = 120'000});
  RankClient first(stub_.get(), MakeHeader("a", 1, 1, 0, 2)),
      second(stub_.get(), MakeHeader("b", 1, 1, 0, 2));
  ASSERT_TRUE(first.Send("x"));
  ASSERT_TRUE(second.Send("x"));
  RankClient third(stub_.get(), MakeHeader("c", 1, 1, 0, 2));
  EXPECT_EQ(third.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(BulkPlaneTest, ShutdownEndsWaitingRanks) {
  const ShardHeader header = MakeHeader("demo", 500, 1, 0, 2);
  RankClient rank(stub_.get(), header);
  ASSERT_TRUE(rank.SendAll(ShardBytes(header)) && rank.SendEnd());
  auto result = std::async(std::launch::async, [&] { return rank.Finish(); });
  Stop();
  EXPECT_EQ(result.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace diffmoe::server
