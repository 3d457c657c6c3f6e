// Runs the CUDA plugin on a real device; skips with the reason where there is none.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "core/kernels/cuda_plugin.h"
#include "core/kernels/permute_ops.h"
#include "tests/unit/core/kernels/permute_cases.h"

namespace diffmoe {
namespace {

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto loaded = CudaPlugin::Load();
    if (!loaded.ok()) GTEST_SKIP() << loaded.status().message();
    plugin_ = *std::move(loaded);
    const absl::Status selected = plugin_->SelectDevice(0);
    if (!selected.ok()) GTEST_SKIP() << selected.message();
  }

  std::unique_ptr<CudaPlugin> plugin_;
  const at::Device device_{at::kCUDA, 0};
};

TEST_F(CudaDeviceTest, MemoryAndMissingDevice) {
  auto memory = plugin_->MemoryInfo(0);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GT(memory->free_bytes, 0);
  EXPECT_GT(memory->total_bytes, memory->free_bytes);
  const absl::Status status = plugin_->SelectDevice(9999);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("cuda:9999"), std::string::npos) << status;
}

TEST_F(CudaDeviceTest, GatherGivesTheBitsOfTheCpu) {
  for (at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (int64_t width : {1, 3, 64, 192, 1152}) {
      const PermuteCase c = MakePermuteCase(300, 8, width, dtype, 1);
      EXPECT_TRUE(SameBits(GatherRows(c.tokens.to(device_), c.ids.to(device_)),
                           GatherRows(c.tokens, c.ids)))
          << dtype << " " << width;
    }
  }
}

TEST_F(CudaDeviceTest, CombineGivesTheBitsOfTheCpu) {
  for (at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (int64_t width : {1, 3, 64, 192, 1152}) {
      const PermuteCase c = MakePermuteCase(300, 8, width, dtype, 2);
      const at::Tensor rows = GatherRows(c.tokens, c.ids);
      const at::Tensor on_device =
          CombineRows(rows.to(device_), c.index.to(device_), c.weights.to(device_));
      EXPECT_TRUE(SameBits(on_device, CombineRows(rows, c.index, c.weights))) << width;
      EXPECT_TRUE(SameBits(CombineRows(rows.to(device_), c.index.to(device_), std::nullopt),
                           CombineRows(rows, c.index, std::nullopt)))
          << width;
    }
  }
}

TEST_F(CudaDeviceTest, EmptyInputs) {
  const PermuteCase c = MakePermuteCase(0, 4, 8, at::kFloat, 3);
  EXPECT_EQ(GatherRows(c.tokens.to(device_), c.ids.to(device_)).size(0), 0);
  EXPECT_EQ(CombineRows(c.tokens.to(device_), c.index.to(device_), std::nullopt).size(0), 0);
}

TEST_F(CudaDeviceTest, AnNcclGroupOfOneRankSums) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  auto group = plugin_->MakeNcclGroup(store, 0, 1, 0, std::chrono::seconds(30));
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_EQ((*group)->getRank(), 0);
  EXPECT_EQ((*group)->getSize(), 1);
  std::vector<at::Tensor> tensors = {at::full({1000}, 3.0, at::kFloat).to(device_)};
  (*group)->allreduce(tensors)->wait();
  EXPECT_TRUE(SameBits(tensors[0], at::full({1000}, 3.0, at::kFloat)));
}

}  // namespace
}  // namespace diffmoe
