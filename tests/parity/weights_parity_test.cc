// Files of the published code: read, written again, and the same bytes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/weights_file.h"

namespace diffmoe {
namespace {

std::string FixturePath(const std::string& name) {
  return absl::StrCat(DIFFMOE_SOURCE_DIR, "/tests/parity/fixtures/", name, ".safetensors");
}

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

ModelConfig FixtureModel(Family family) {
  ModelConfig model;
  model.family = family;
  model.image_size = 8;
  model.channels = 4;
  model.patch_size = 2;
  model.width = 48;
  model.depth = 4;
  model.heads = 4;
  model.classes = 10;
  model.experts = 4;
  model.learn_sigma = true;
  return model;
}

struct Case {
  const char* file;
  Family family;
};

class WeightsParity : public ::testing::TestWithParam<Case> {};

TEST_P(WeightsParity, ReadAndWrittenIsTheSameFile) {
  const std::string path = FixturePath(GetParam().file);
  const ModelConfig model = FixtureModel(GetParam().family);
  auto reader = WeightsReader::Open(path, model);
  ASSERT_TRUE(reader.ok()) << reader.status();

  const std::string copy = absl::StrCat(::testing::TempDir(), "weights_parity_", ::getpid());
  auto writer = WeightsWriter::Create(copy, model, (*reader)->thresholds(), (*reader)->metadata());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const StateTensor& tensor : (*writer)->parameters()) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    ASSERT_TRUE((*reader)->Read(tensor.name, absl::MakeSpan(values)).ok()) << tensor.name;
    ASSERT_TRUE(
        (*writer)
            ->Append({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)})
            .ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  // The header too, so names, shapes and their order.
  EXPECT_TRUE(Bytes(copy) == Bytes(path));

  auto ours = SafetensorsReader::Open(copy);
  auto theirs = SafetensorsReader::Open(path);
  std::filesystem::remove(copy);
  ASSERT_TRUE(ours.ok() && theirs.ok());
  for (const SafetensorsInfo& tensor : (*theirs)->tensors()) {
    EXPECT_TRUE(*(*ours)->Read(tensor.name) == *(*theirs)->Read(tensor.name)) << tensor.name;
  }
}

TEST_P(WeightsParity, OtherFamiliesAreRefused) {
  for (const Family family :
       {Family::kDense, Family::kTokenChoice, Family::kExpertChoice, Family::kDiffMoe}) {
    EXPECT_EQ(WeightsReader::Open(FixturePath(GetParam().file), FixtureModel(family)).ok(),
              family == GetParam().family);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, WeightsParity,
                         ::testing::Values(Case{"model_dense_weights", Family::kDense},
                                           Case{"model_tc_weights", Family::kTokenChoice},
                                           Case{"model_ec_weights", Family::kExpertChoice},
                                           Case{"model_diffmoe_weights", Family::kDiffMoe},
                                           Case{"train10_diffmoe_final_weights", Family::kDiffMoe}),
                         [](const auto& test) { return std::string(test.param.file); });

}  // namespace
}  // namespace diffmoe
