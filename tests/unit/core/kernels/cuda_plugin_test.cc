#include "core/kernels/cuda_plugin.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

void ExpectRefused(const std::string& path, const std::string& words) {
  auto plugin = CudaPlugin::Load(path);
  ASSERT_FALSE(plugin.ok());
  EXPECT_EQ(plugin.status().code(), absl::StatusCode::kFailedPrecondition) << plugin.status();
  EXPECT_NE(std::string(plugin.status().message()).find(words), std::string::npos)
      << plugin.status();
}

TEST(ParseCudaDeviceTest, AcceptsIndicesOnly) {
  EXPECT_EQ(*ParseCudaDevice("cuda:0"), 0);
  EXPECT_EQ(*ParseCudaDevice("cuda:15"), 15);
  for (const char* wrong : {"", "cpu", "cuda", "cuda:", "cuda:-1", "cuda: 1", "cuda:+1", "cuda:1x",
                            "cuda:99999999999", "CUDA:0"}) {
    EXPECT_EQ(ParseCudaDevice(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(CudaPluginTest, LiesBesideTheProgram) {
  EXPECT_EQ(DefaultCudaPluginPath(), absl::StrCat(DIFFMOE_BIN_DIR, "/libdiffmoe_cuda.so"));
}

TEST(CudaPluginTest, WhatIsMissingIsNamed) {
  ExpectRefused("/no/such/libdiffmoe_cuda.so", "not at /no/such/libdiffmoe_cuda.so");
  const std::string path = absl::StrCat(::testing::TempDir(), "plugin_", ::getpid(), ".so");
  std::ofstream(path) << "not a library";
  ExpectRefused(path, "cannot load the CUDA plugin");
  std::filesystem::remove(path);
}

TEST(CudaPluginTest, ALibraryWithoutTheInterfaceIsRefused) {
  ExpectRefused(DIFFMOE_OTHER_LIBRARY, "has plugin interface 0, expected 1");
}

}  // namespace
}  // namespace diffmoe
