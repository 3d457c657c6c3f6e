#include "core/model/weights_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

class WeightsFileTest : public ::testing::Test {
 protected:
  WeightsFileTest() : dir_(absl::StrCat(::testing::TempDir(), "weights_", ::getpid())) {
    std::filesystem::create_directories(dir_);
    model_.width = 16;
    model_.depth = 2;
    model_.heads = 2;
    model_.experts = 4;
    model_.image_size = 8;
    model_.patch_size = 4;
  }
  ~WeightsFileTest() override { std::filesystem::remove_all(dir_); }

  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  // Every tensor of the state dict, with values that tell them apart, as a file of another tool.
  std::string WriteForeign(const ModelConfig& model) {
    std::vector<SafetensorsData> tensors;
    std::map<std::string, std::vector<float>> values;
    for (const StateTensor& tensor : DescribeStateDict(model)) {
      std::vector<float>& data = values[tensor.name];
      data.assign(static_cast<size_t>(tensor.elements()), 0.5f / static_cast<float>(values.size()));
      if (tensor.role == StateRole::kThresholdDecay) data[0] = 0.95f;
      if (tensor.role == StateRole::kPositionTable) data = Table(model);
      tensors.push_back({tensor.name, "F32", tensor.shape, ""});
    }
    if (change_) change_(values, tensors);
    for (SafetensorsData& tensor : tensors) {
      if (!tensor.data.empty()) continue;
      const std::vector<float>& data = values[tensor.name];
      tensor.data = {reinterpret_cast<const char*>(data.data()), data.size() * 4};
    }
    std::string path = Path("foreign.safetensors");
    EXPECT_TRUE(WriteSafetensors(path, metadata_, tensors).ok());
    return path;
  }

  // Our own writer's table, so that the test needs no second formula.
  std::vector<float> Table(const ModelConfig& model) {
    ModelConfig dense = model;
    dense.family = Family::kDense;
    const std::string path = Path("table.safetensors");
    auto writer = WeightsWriter::Create(path, dense, {}, {});
    EXPECT_TRUE(writer.ok());
    for (const StateTensor& tensor : (*writer)->parameters()) {
      EXPECT_TRUE((*writer)->Append(std::string(tensor.elements() * 4, '\0')).ok());
    }
    EXPECT_TRUE((*writer)->Finish().ok());
    return *(*SafetensorsReader::Open(path))->ReadFloats("pos_embed");
  }

  absl::Status OpenStatus(const ModelConfig& model) {
    return WeightsReader::Open(WriteForeign(model), model).status();
  }

  using Values = std::map<std::string, std::vector<float>>;
  std::function<void(Values&, std::vector<SafetensorsData>&)> change_;
  SafetensorsMetadata metadata_;
  std::string dir_;
  ModelConfig model_;
};

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Reads `from` and writes what was read to `to`.
void Copy(const std::string& from, const std::string& to, const ModelConfig& model) {
  auto reader = WeightsReader::Open(from, model);
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto writer = WeightsWriter::Create(to, model, (*reader)->thresholds(), (*reader)->metadata());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const StateTensor& tensor : (*writer)->parameters()) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    ASSERT_TRUE((*reader)->Read(tensor.name, absl::MakeSpan(values)).ok());
    ASSERT_TRUE(
        (*writer)
            ->Append({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)})
            .ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
}

TEST_F(WeightsFileTest, OurFilesComeBackByteForByte) {
  for (const Family family :
       {Family::kDense, Family::kTokenChoice, Family::kExpertChoice, Family::kDiffMoe}) {
    model_.family = family;
    const std::vector<std::vector<float>> thresholds = {{0.25f, 0.5f, 0.75f, 1}};
    const std::string path = Path("first.safetensors");
    auto writer = WeightsWriter::Create(path, model_, thresholds, DefaultMetadata(model_));
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::string data;
    for (const StateTensor& tensor : (*writer)->parameters()) {
      const std::vector<float> values(static_cast<size_t>(tensor.elements()),
                                      static_cast<float>(tensor.name.size()));
      data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    }
    for (size_t i = 0; i < data.size(); i += 1000) {  // pieces that end inside an element
      ASSERT_TRUE((*writer)->Append(std::string_view(data).substr(i, 1000)).ok());
    }
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE((*writer)->Finish().ok());

    Copy(path, Path("second.safetensors"), model_);
    EXPECT_EQ(Bytes(path), Bytes(Path("second.safetensors")));
    auto reader = WeightsReader::Open(path, model_);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->thresholds(), family == Family::kDense     ? decltype(thresholds){}
                                       : family == Family::kDiffMoe ? thresholds
                                                                    : decltype(thresholds){{}});
    std::filesystem::remove(path);
  }
}

TEST_F(WeightsFileTest, TensorsStandInTheOrderOfTheirNames) {
  model_.experts = 12;  // experts.10 before experts.2
  auto writer = WeightsWriter::Create(Path("a"), model_, {std::vector<float>(12)}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto& parameters = (*writer)->parameters();
  EXPECT_TRUE(
      std::is_sorted(parameters.begin(), parameters.end(),
                     [](const StateTensor& a, const StateTensor& b) { return a.name < b.name; }));
  EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kInvalidArgument);  // bytes are missing
  writer->reset();
  EXPECT_TRUE(std::filesystem::is_empty(dir_));
}

TEST_F(WeightsFileTest, WriterWantsThresholdsOfTheModel) {
  const auto code = [&](const std::vector<std::vector<float>>& thresholds) {
    return WeightsWriter::Create(Path("a"), model_, thresholds, {}).status().code();
  };
  EXPECT_EQ(code({}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{0.5f, 0.5f}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{}}), absl::StatusCode::kInvalidArgument);
  auto writer = WeightsWriter::Create(Path("a"), model_, {{0, 0, 0, 0}}, {});
  ASSERT_TRUE(writer.ok());
  const std::string much(1'000'000, '\0');
  EXPECT_EQ((*writer)->Append(much).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WeightsFileTest, ReadsTheFileOfAnotherTool) {
  auto reader = WeightsReader::Open(WriteForeign(model_), model_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> bias(16);
  ASSERT_TRUE((*reader)->Read("blocks.0.attn.proj.bias", absl::MakeSpan(bias)).ok());
  EXPECT_EQ(bias.front(), bias.back());
  EXPECT_GT(bias.front(), 0);
  EXPECT_EQ((*reader)->Read("no", absl::MakeSpan(bias)).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((*reader)->Read("pos_embed", absl::MakeSpan(bias)).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(WeightsFileTest, ListsEveryFault) {
  change_ = [](Values&, std::vector<SafetensorsData>& tensors) {
    static const std::string kZeros(40000, '\0');
    std::erase_if(tensors, [](const SafetensorsData& tensor) {
      return tensor.name == "blocks.1.mlp.ema_decay";
    });
    for (SafetensorsData& tensor : tensors) {
      if (tensor.name == "x_embedder.proj.bias") {
        tensor.shape = {4, 4};
      } else if (tensor.name == "blocks.0.attn.proj.bias") {
        tensor.dtype = "BF16";
        tensor.data = std::string_view(kZeros).substr(0, 32);
      }
    }
    tensors.push_back({"optimizer.step", "I64", {1}, std::string_view(kZeros).substr(0, 8)});
  };
  const std::string path = WriteForeign(model_);
  EXPECT_EQ(WeightsReader::Open(path, model_).status(),
            absl::FailedPreconditionError(absl::StrCat(
                path,
                ": not the weights of this model: tensor 'x_embedder.proj.bias': expected F32 "
                "[16], got F32 [4, 4]; tensor 'blocks.0.attn.proj.bias': expected F32 [16], got "
                "BF16 [16]; tensor 'blocks.1.mlp.ema_decay': expected F32 [1], got nothing; tensor "
                "'optimizer.step': expected no such tensor, got I64 [1]")));
}

TEST_F(WeightsFileTest, BoundsTheListOfFaults) {
  ModelConfig wider = model_;
  wider.width = 32;
  const absl::Status status = WeightsReader::Open(WriteForeign(wider), model_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::EndsWith(status.message(), " more")) << status;
  EXPECT_LT(status.message().size(), 5000u);
}

TEST_F(WeightsFileTest, NamesAnotherFamily) {
  for (const Family file : {Family::kDense, Family::kTokenChoice, Family::kExpertChoice}) {
    ModelConfig other = model_;
    other.family = file;
    const std::string path = WriteForeign(other);
    const char* name = file == Family::kDense         ? "dense"
                       : file == Family::kTokenChoice ? "token_choice"
                                                      : "expert_choice";
    EXPECT_EQ(WeightsReader::Open(path, model_).status(),
              absl::FailedPreconditionError(absl::StrCat(
                  path, ": expected the tensors of model.family diffmoe, got those of ", name)));
    EXPECT_TRUE(WeightsReader::Open(path, other).ok());
  }
}

TEST_F(WeightsFileTest, ChecksTheValuesThatTheModelDetermines) {
  change_ = [](Values& values, auto&) { values["pos_embed"][17] += 2e-6f; };
  absl::Status status = OpenStatus(model_);
  EXPECT_TRUE(absl::StrContains(status.message(),
                                "tensor 'pos_embed': expected 0.09983341 (within "
                                "1e-06) at element 17, got 0.09983541"))
      << status;
  change_ = [](Values& values, auto&) { values["pos_embed"][17] += 5e-7f; };
  EXPECT_TRUE(OpenStatus(model_).ok());
  change_ = [](Values& values, auto&) { values["blocks.1.mlp.ema_decay"][0] = 0.9f; };
  status = OpenStatus(model_);
  EXPECT_TRUE(absl::StrContains(status.message(), "tensor 'blocks.1.mlp.ema_decay': expected 0.95"))
      << status;
  for (const float bad : {-0.1f, 1.5f, std::numeric_limits<float>::quiet_NaN()}) {
    change_ = [&](Values& values, auto&) { values["blocks.1.mlp.expert_threshold"][2] = bad; };
    status = OpenStatus(model_);
    EXPECT_TRUE(absl::StrContains(status.message(),
                                  "tensor 'blocks.1.mlp.expert_threshold': expected a threshold "
                                  "from 0 to 1 at element 2, got "))
        << status;
  }
}

TEST_F(WeightsFileTest, RefusesNumbersThatAreNotFinite) {
  change_ = [](Values& values, auto&) {
    values["x_embedder.proj.bias"][3] = std::numeric_limits<float>::infinity();
  };
  auto reader = WeightsReader::Open(WriteForeign(model_), model_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> values(16);
  const absl::Status status = (*reader)->Read("x_embedder.proj.bias", absl::MakeSpan(values));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::EndsWith(status.message(),
                             "tensor 'x_embedder.proj.bias': expected a finite number at element "
                             "3, got inf"))
      << status;
}

TEST_F(WeightsFileTest, OurDescriptionShowsWhatShapesDoNot) {
  metadata_ = DefaultMetadata(model_);
  EXPECT_TRUE(OpenStatus(model_).ok());
  const std::string path = WriteForeign(model_);
  ModelConfig other = model_;
  other.heads = 4;
  other.time_scale = 1;
  EXPECT_EQ(WeightsReader::Open(path, other).status(),
            absl::FailedPreconditionError(absl::StrCat(
                path,
                ": not the weights of this model: metadata: expected model.heads 4, got 2; "
                "metadata: expected model.time_scale 1, got 1000")));
  metadata_ = {{"model", "resnet"}};
  EXPECT_TRUE(OpenStatus(model_).ok());
}

TEST_F(WeightsFileTest, RefusesPickles) {
  for (const std::string& head : {std::string("PK\x03\x04 archive/data.pkl", 21),
                                  std::string("\x80\x02}q\x00.\x00\x00\x00\x00", 10)}) {
    const std::string path = Path("weights.pt");
    std::ofstream(path, std::ios::binary) << head;
    const absl::Status status = WeightsReader::Open(path, model_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "pickle can run code")) << status;
  }
  EXPECT_EQ(WeightsReader::Open(Path("absent"), model_).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace diffmoe
