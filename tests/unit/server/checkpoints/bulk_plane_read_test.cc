#include <gtest/gtest.h>

#include <array>
#include <filesystem>
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

}  // namespace
}  // namespace diffmoe::server
