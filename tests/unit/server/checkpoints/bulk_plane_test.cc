#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/checkpoints/bulk_plane_service.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/server/checkpoints/fake_host.h"
#include "tests/unit/server/checkpoints/shards.h"

namespace diffmoe::server {
namespace {

using worker::v1::BulkPlane;
using worker::v1::Manifest;
using worker::v1::ShardHeader;

// A real gRPC server over real files, with the rest of the coordinator faked.
class BulkPlaneTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void TearDown() override { Stop(); }

  void Start(const AssemblerOptions& options) {
    chunks_ = ChunkStore::Open(dir_.Sub("chunks")).value();
    store_ = std::make_unique<CheckpointStore>(chunks_.get(), &host_);
    service_ =
        std::make_unique<BulkPlaneService>(store_.get(), &host_, &metrics_, &clock_, options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = BulkPlane::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    if (server_ == nullptr) return;
    service_->Shutdown();
    server_->Shutdown();
    server_.reset();
    service_.reset();
    store_.reset();
    chunks_.reset();
  }

  // All ranks of a checkpoint, one after the other up to their ends, then their results.
  std::vector<grpc::Status> SaveAll(int64_t step, int64_t epoch, int world_size, int seed = 0) {
    std::vector<std::unique_ptr<RankClient>> ranks;
    for (int rank = 0; rank < world_size; ++rank) {
      const ShardHeader header = MakeHeader("demo", step, epoch, rank, world_size);
      ranks.push_back(std::make_unique<RankClient>(stub_.get(), header));
      ranks.back()->SendAll(ShardBytes(header, seed));
      ranks.back()->SendEnd();
    }
    std::vector<grpc::Status> results;
    for (auto& rank : ranks) {
      results.push_back(rank->Finish());
      EXPECT_EQ(rank->committed(), results.back().ok());
    }
    return results;
  }
  void MustSave(int64_t step, int64_t epoch = 1, int seed = 0) {
    for (const grpc::Status& status : SaveAll(step, epoch, 2, seed))
      ASSERT_TRUE(status.ok()) << status.error_message();
  }

  grpc::Status ReadExtent(int64_t step, int shard, int64_t offset, int64_t bytes,
                          std::string* out) {
    grpc::ClientContext context;
    worker::v1::ReadExtentsRequest request;
    request.set_job_id("demo");
    request.set_step(step);
    worker::v1::Extent& extent = *request.add_extents();
    extent.set_shard(shard);
    extent.set_offset(offset);
    extent.set_bytes(bytes);
    auto reader = stub_->ReadExtents(&context, request);
    worker::v1::ReadExtentsResponse response;
    out->clear();
    while (reader->Read(&response)) *out += response.bytes();
    return reader->Finish();
  }
  void ExpectStored(int64_t step, int64_t epoch, int seed) {
    for (int rank = 0; rank < 2; ++rank) {
      const ShardHeader header = MakeHeader("demo", step, epoch, rank, 2);
      std::string got;
      const grpc::Status status = ReadExtent(step, rank, 0, header.bytes(), &got);
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_TRUE(got == ShardBytes(header, seed)) << "rank " << rank;
    }
  }
  void ExpectNothingIsThere() {
    EXPECT_TRUE(host_.Manifests().empty());
    EXPECT_TRUE(chunks_->List().empty());
    EXPECT_TRUE(std::filesystem::is_empty(dir_.Sub("chunks/work")));
  }

  test::TempDir dir_;
  FakeHost host_;
  SystemClock clock_;
  metrics::Registry registry_{"test", "1"};
  metrics::CheckpointMetrics metrics_{registry_};
  std::unique_ptr<ChunkStore> chunks_;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<BulkPlaneService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<BulkPlane::Stub> stub_;
};

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

TEST_F(BulkPlaneTest, ReadsExtentsInTheOrderAskedFor) {
  MustSave(500);
  const std::string first = ShardBytes(MakeHeader("demo", 500, 1, 0, 2)),
                    second = ShardBytes(MakeHeader("demo", 500, 1, 1, 2));
  grpc::ClientContext context;
  worker::v1::ReadExtentsRequest request;
  request.set_job_id("demo");
  request.set_step(500);
  std::string expected;
  for (const auto& [shard, offset, bytes] :
       std::vector<std::array<int, 3>>{{1, 5, 10}, {0, 0, 3}, {1, 699'990, 10}}) {
    worker::v1::Extent& extent = *request.add_extents();
    extent.set_shard(shard);
    extent.set_offset(offset);
    extent.set_bytes(bytes);
    expected += (shard == 0 ? first : second).substr(offset, bytes);
  }
  auto reader = stub_->ReadExtents(&context, request);
  worker::v1::ReadExtentsResponse response;
  std::string got;
  while (reader->Read(&response)) got += response.bytes();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(got == expected);

  EXPECT_EQ(ReadExtent(500, 2, 0, 1, &got).error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(ReadExtent(500, 0, 0, 1 << 30, &got).error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(ReadExtent(499, 0, 0, 1, &got).error_code(), grpc::StatusCode::NOT_FOUND);
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

TEST_F(BulkPlaneTest, DamageOnDiskIsNamedAndReported) {
  MustSave(500);
  MustSave(1000);
  Stop();
  std::string newest;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.Sub("chunks/db"))) {
    if (entry.path().extension() == ".sst") newest = std::max(newest, entry.path().string());
  }
  std::string bytes = test::ReadFile(newest);
  bytes[300'000] ^= 1;
  test::WriteFile(newest, bytes);
  Start({});
  std::string got;
  const grpc::Status status = ReadExtent(1000, 1, 0, 700'000, &got);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_TRUE(absl::StrContains(status.error_message(), "shard 1 of job demo step 1000"))
      << status.error_message();
  ASSERT_EQ(host_.Damaged().size(), 1u);
  EXPECT_TRUE(absl::StartsWith(host_.Damaged()[0], "demo@1000: ")) << host_.Damaged()[0];
  ExpectStored(500, 1, 0);
  const std::vector<Manifest> manifests = host_.Manifests();
  EXPECT_TRUE(store_->Verify(manifests[0]).ok());
  EXPECT_TRUE(absl::IsDataLoss(store_->Verify(manifests[1])));
}

TEST_F(BulkPlaneTest, ACheckpointDeletedWhileItIsReadIsNotDamage) {
  MustSave(500);
  ASSERT_TRUE(store_->DeleteCheckpoint("demo", 500, 1).ok());
  // The manifest goes first; a reader that has it already finds no chunks.
  const Manifest manifest = host_.Manifests()[0];
  worker::v1::ReadExtentsRequest request;
  request.set_job_id("demo");
  request.set_step(500);
  request.add_extents()->set_bytes(10);
  EXPECT_TRUE(absl::IsDataLoss(
      store_->ReadExtents(request, [](std::string_view) { return absl::OkStatus(); })));
  host_.ForgetManifest("demo", 500);
  EXPECT_TRUE(absl::IsNotFound(
      store_->ReadExtents(request, [](std::string_view) { return absl::OkStatus(); })));
}

TEST_F(BulkPlaneTest, ReconcileRemovesOrphansAndReportsWhatIsMissing) {
  MustSave(500);
  MustSave(1000);
  MustSave(1500);
  const std::vector<Manifest> manifests = host_.Manifests();
  ASSERT_TRUE(chunks_->Delete({"demo", 1000, 1}).ok());
  const auto result = store_->Reconcile(std::vector<Manifest>{manifests[0], manifests[1]});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->orphans_deleted, 1);  // 1500 has no manifest
  EXPECT_GT(result->orphan_bytes, 1'400'000);
  ASSERT_EQ(result->damaged.size(), 1u);
  EXPECT_EQ(result->damaged[0].id, (CheckpointId{"demo", 1000, 1}));
  EXPECT_TRUE(absl::StrContains(result->damaged[0].reason, "chunk 0 of 1 is missing"))
      << result->damaged[0].reason;
  ASSERT_EQ(chunks_->List().size(), 1u);
  ExpectStored(500, 1, 0);
}

TEST_F(BulkPlaneTest, KeyValueGoesThroughTheEpochCheck) {
  const auto call = [&](int64_t epoch, worker::v1::KeyValueRequest request,
                        worker::v1::KeyValueResponse* response) {
    grpc::ClientContext context;
    request.mutable_group()->set_id("demo");
    request.mutable_group()->set_epoch(epoch);
    return stub_->KeyValue(&context, request, response);
  };
  worker::v1::KeyValueRequest set, get;
  worker::v1::KeyValueResponse response;
  set.mutable_set()->set_key("k");
  set.mutable_set()->set_value("v");
  get.mutable_get()->set_key("k");
  get.set_timeout_ms(50);
  EXPECT_EQ(call(1, get, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(call(1, set, &response).ok());
  EXPECT_TRUE(call(1, get, &response).ok());
  EXPECT_EQ(response.value(), "v");
  EXPECT_EQ(call(2, get, &response).error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(BulkPlaneTest, SampleUpdatesReachTheHostInOrder) {
  const auto update = [](const std::string& request_id, const std::string& group) {
    worker::v1::SampleUpdate message;
    message.set_request_id(request_id);
    message.mutable_group()->set_id(group);
    message.mutable_group()->set_epoch(1);
    return message;
  };
  worker::v1::PushSamplesResponse response;
  {
    grpc::ClientContext context;
    auto stream = stub_->PushSamples(&context, &response);
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(stream->Write(update(absl::StrCat(i), "sampler-1")));
    stream->WritesDone();
    ASSERT_TRUE(stream->Finish().ok());
  }
  ASSERT_EQ(host_.SampleRequests().size(), 50u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(host_.SampleRequests()[i], absl::StrCat(i));
  {
    grpc::ClientContext context;
    auto stream = stub_->PushSamples(&context, &response);
    stream->Write(update("a", "sampler-1"));
    stream->Write(update("b", "sampler-2"));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  host_.SetSampleResult(absl::AbortedError("no longer wanted"));
  grpc::ClientContext context;
  auto stream = stub_->PushSamples(&context, &response);
  stream->Write(update("c", "sampler-1"));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(BulkPlaneTest, EndGroupEndsASamplersStream) {
  grpc::ClientContext context;
  worker::v1::PushSamplesResponse response;
  auto stream = stub_->PushSamples(&context, &response);
  worker::v1::SampleUpdate update;
  update.set_request_id("r");
  update.mutable_group()->set_id("sampler-1");
  update.mutable_group()->set_epoch(1);
  ASSERT_TRUE(stream->Write(update));
  ASSERT_TRUE(test::WaitUntil(absl::Seconds(10), [&] { return !host_.SampleRequests().empty(); }));
  service_->EndGroup(update.group());
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace diffmoe::server
