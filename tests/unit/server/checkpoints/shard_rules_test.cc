#include "server/checkpoints/shard_rules.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/unit/server/checkpoints/shards.h"

namespace diffmoe::server {
namespace {

using worker::v1::Manifest;
using worker::v1::ShardHeader;
using worker::v1::TensorSlice;

TEST(ShardRulesTest, AGoodHeaderPasses) {
  for (int rank = 0; rank < 2; ++rank) {
    const absl::Status status = CheckHeader(MakeHeader("demo", 5, 1, rank, 2), 4096);
    EXPECT_TRUE(status.ok()) << status;
  }
}

struct BadHeader {
  const char* name;
  std::function<void(ShardHeader&)> spoil;
  const char* message;
};

class BadHeaderTest : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedByName) {
  ShardHeader header = MakeHeader("demo", 5, 1, 0, 2);
  GetParam().spoil(header);
  const absl::Status status = CheckHeader(header, 4096);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), GetParam().message)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "shard of rank")) << status;
}

INSTANTIATE_TEST_SUITE_P(
    Headers, BadHeaderTest,
    ::testing::Values(
        BadHeader{"WorldSizeZero", [](ShardHeader& h) { h.set_world_size(0); },
                  "world size must be 1 to 4096, got 0"},
        BadHeader{"WorldSizeHuge", [](ShardHeader& h) { h.set_world_size(1 << 30); }, "world size"},
        BadHeader{"RankNegative", [](ShardHeader& h) { h.set_rank(-1); },
                  "rank must be 0 to 1, got -1"},
        BadHeader{"RankTooLarge", [](ShardHeader& h) { h.set_rank(2); },
                  "rank must be 0 to 1, got 2"},
        BadHeader{"StepZero", [](ShardHeader& h) { h.set_step(0); }, "step must be >= 1"},
        BadHeader{"BytesNegative", [](ShardHeader& h) { h.set_bytes(-1); }, "bytes must be >= 0"},
        BadHeader{"NoName", [](ShardHeader& h) { h.mutable_slices(0)->clear_tensor(); },
                  "a name has 1 to 512"},
        BadHeader{"LongName",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_tensor(std::string(513, 'x')); },
                  "a name has 1 to 512"},
        BadHeader{"Dtype", [](ShardHeader& h) { h.mutable_slices(0)->set_dtype("F31"); },
                  "unknown dtype \"F31\""},
        BadHeader{"NegativeDimension",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_global_shape(0, -2); },
                  "shape [-2, 700000] is impossible"},
        BadHeader{"ShapeOverflow",
                  [](ShardHeader& h) {
                    h.mutable_slices(0)->set_global_shape(0, int64_t{1} << 40);
                    h.mutable_slices(0)->set_global_shape(1, int64_t{1} << 40);
                  },
                  "is impossible"},
        BadHeader{"ManyDimensions",
                  [](ShardHeader& h) {
                    for (int i = 0; i < 9; ++i) h.mutable_slices(0)->add_global_shape(1);
                  },
                  "11 dimensions, at most 8"},
        BadHeader{"PastTheTensor",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_first_element(700'001); },
                  "tensor \"model/w\": elements [700001, +700000) of 1400000"},
        BadHeader{"NegativeFirst",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_first_element(-1); },
                  "elements [-1"},
        BadHeader{"NoElements", [](ShardHeader& h) { h.mutable_slices(0)->set_elements(0); },
                  "+0)"},
        BadHeader{"PastTheShard", [](ShardHeader& h) { h.mutable_slices(0)->set_shard_offset(9); },
                  "don't fit the shard's 700008 bytes"},
        BadHeader{"HugeOffset",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_shard_offset(INT64_MAX); },
                  "don't fit"},
        BadHeader{"NegativeOffset",
                  [](ShardHeader& h) { h.mutable_slices(0)->set_shard_offset(-1); }, "don't fit"},
        BadHeader{"SharedBytes", [](ShardHeader& h) { h.mutable_slices(1)->set_shard_offset(4); },
                  "tensor \"step\" ends at byte 12, tensor \"model/w\" starts at byte 8"},
        BadHeader{"NoSummary", [](ShardHeader& h) { h.clear_summary(); },
                  "rank 0 must send the summary"},
        BadHeader{"SecondSummary", [](ShardHeader& h) { h.set_rank(1); },
                  "only rank 0 sends a summary"},
        BadHeader{"Thresholds", [](ShardHeader& h) { h.mutable_summary()->add_thresholds(1); },
                  "3 thresholds, expected 1 blocks x 2 experts"},
        BadHeader{"NegativeExperts", [](ShardHeader& h) { h.mutable_summary()->set_experts(-2); },
                  "thresholds"},
        BadHeader{"TrainerState",
                  [](ShardHeader& h) {
                    h.mutable_summary()->set_trainer_state(std::string((1 << 20) + 1, 'x'));
                  },
                  "trainer state has 1048577 bytes"},
        BadHeader{"ManySlices",
                  [](ShardHeader& h) {
                    while (h.slices_size() <= kMaxSlicesPerShard) h.add_slices();
                  },
                  "100001 slices, at most 100000"}),
    [](const auto& test) { return test.param.name; });

absl::Status Coverage(const std::function<void(ShardHeader&)>& spoil_second) {
  std::vector<ShardHeader> headers{MakeHeader("demo", 5, 1, 0, 2), MakeHeader("demo", 5, 1, 1, 2)};
  spoil_second(headers[1]);
  return CheckCoverage(headers);
}

TEST(ShardRulesTest, EveryElementMustComeExactlyOnce) {
  EXPECT_TRUE(Coverage([](ShardHeader&) {}).ok());
  const auto refused = [](const std::function<void(TensorSlice&)>& spoil,
                          const std::string& message) {
    const absl::Status status =
        Coverage([&](ShardHeader& header) { spoil(*header.mutable_slices(0)); });
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), message)) << status;
  };
  refused([](TensorSlice& slice) { slice.set_elements(5); },
          "elements 700005 to 1399999 come from no rank");
  refused([](TensorSlice& slice) { slice.set_first_element(700'010); },
          "elements 700000 to 700009 come from no rank");
  refused([](TensorSlice& slice) { slice.set_first_element(0); }, "come twice, again from rank 1");
  refused([](TensorSlice& slice) { slice.set_dtype("I8"); },
          "another dtype or shape on rank 1 than on rank 0");
  refused([](TensorSlice& slice) { slice.set_global_shape(0, 3); }, "another dtype or shape");
}

TEST(ShardRulesTest, AManifestNamesAllShardsAndGivesTheirLayoutsBack) {
  const std::vector<ShardHeader> headers{MakeHeader("demo", 5, 7, 0, 2),
                                         MakeHeader("demo", 5, 7, 1, 2)};
  const std::vector<ShardLayout> layouts{{0, 700'008, kChunkBytes, {11}},
                                         {1, 700'000, kChunkBytes, {22}}};
  const Manifest manifest = BuildManifest(headers, layouts, 1234);
  EXPECT_EQ(IdOf(manifest), (CheckpointId{"demo", 5, 7}));
  EXPECT_EQ(manifest.commit_time_ms(), 1234);
  EXPECT_EQ(manifest.summary().loss(), 0.5);
  const ShardLayout second = LayoutOf(manifest, 1).value();
  EXPECT_EQ(second.bytes, 700'000);
  EXPECT_EQ(second.chunk_xxh3, std::vector<uint64_t>{22});
  EXPECT_TRUE(absl::IsOutOfRange(LayoutOf(manifest, 2).status()));
}

}  // namespace
}  // namespace diffmoe::server
