#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "core/base/exit_code.h"
#include "core/model/weights_file.h"
#include "core/spec/spec_convert.h"
#include "core/spec/spec_yaml.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

using Messages = std::vector<v1::ReadCheckpointResponse>;

// A job with a tiny diffmoe model, and the stream that a coordinator would send of its checkpoint.
class ExportTest : public ::testing::Test {
 protected:
  ExportTest() {
    server_.api.job.set_id("a-1");
    *server_.api.job.mutable_spec() = ParseSpecYaml(
                                          "name: a\n"
                                          "model: {image_size: 8, channels: 1, patch_size: 4, "
                                          "width: 16, depth: 2, heads: 2, classes: 3, experts: 2}\n"
                                          "data: {format: idx, path: /data}\n"
                                          "train: {steps: 4, global_batch: 4}\n")
                                          .spec;
    model_ = ToTrainingConfig(server_.api.job.spec()).model;

    v1::Checkpoint& checkpoint = *messages_.emplace_back().mutable_checkpoint();
    checkpoint.set_name("jobs/a-1/checkpoints/4");
    checkpoint.set_step(4);
    v1::LayerThresholds& layer = *checkpoint.add_thresholds();
    layer.set_block(1);
    layer.add_thresholds(0.25);
    layer.add_thresholds(0.75);
    // The writer's order is the one of the wire.
    const std::string scratch = dir_.Sub("scratch");
    auto writer = WeightsWriter::Create(scratch, model_, {{0, 0}}, {});
    for (const StateTensor& tensor : (*writer)->parameters()) {
      v1::ReadCheckpointResponse& message = messages_.emplace_back();
      message.mutable_tensor()->set_name(tensor.name);
      message.mutable_tensor()->set_dtype("F32");
      for (const int64_t size : tensor.shape) message.mutable_tensor()->add_shape(size);
      const std::vector<float> values(static_cast<size_t>(tensor.elements()),
                                      static_cast<float>(messages_.size()));
      const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * 4);
      message.set_data(bytes.substr(0, bytes.size() / 2));
      messages_.emplace_back().set_data(bytes.substr(bytes.size() / 2));
    }
    server_.api.read = [this](auto*, grpc::ServerWriter<v1::ReadCheckpointResponse>* stream) {
      // A copy: the stream may still run when the client has given up and the test goes on.
      const Messages messages = messages_;
      for (const auto& message : messages) stream->Write(message);
      return answer_;
    };
  }

  CliResult Run(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"ckpt", "export", "a-1", "--out", path_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return server_.Cli(arguments);
  }

  // No file under the name, and no temporary one.
  void ExpectNothingWritten() { EXPECT_TRUE(std::filesystem::is_empty(dir_.path())); }

  test::TempDir dir_;
  Messages messages_;
  grpc::Status answer_;
  FakeServer server_;
  ModelConfig model_;
  const std::string path_ = dir_.Sub("w.safetensors");
};

TEST_F(ExportTest, WritesTheStreamAndTheThresholds) {
  const CliResult result = Run();
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(
      absl::StartsWith(result.out, "wrote " + path_ + ": ema weights of jobs/a-1/checkpoints/4, "))
      << result.out;
  EXPECT_EQ(server_.api.read_request.name(), "jobs/a-1/checkpoints/latest");
  EXPECT_EQ(server_.api.read_request.weights(), v1::WEIGHT_SET_EMA);
  auto reader = WeightsReader::Open(path_, model_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->thresholds(), (std::vector<std::vector<float>>{{0.25f, 0.75f}}));
  for (size_t i = 1; i < messages_.size(); i += 2) {
    size_t elements = 1;
    for (const int64_t size : messages_[i].tensor().shape()) elements *= static_cast<size_t>(size);
    std::vector<float> values(elements);
    ASSERT_TRUE((*reader)->Read(messages_[i].tensor().name(), absl::MakeSpan(values)).ok());
    EXPECT_EQ(values, std::vector<float>(elements, static_cast<float>(i + 1)));
  }
}

TEST_F(ExportTest, AsksForTheWeightsAndTheStepThatWereNamed) {
  const CliResult result = Run({"4", "--weights", "model", "-o", "json"});
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["name"], "jobs/a-1/checkpoints/4");
  EXPECT_EQ(server_.api.read_request.name(), "jobs/a-1/checkpoints/4");
  EXPECT_EQ(server_.api.read_request.weights(), v1::WEIGHT_SET_MODEL);
}

TEST_F(ExportTest, LeavesNothingWhenTheStreamBreaks) {
  v1::ErrorDetails details;
  details.set_reason(v1::CORRUPT_CHECKPOINT);
  answer_ = ApiError(grpc::StatusCode::DATA_LOSS, "shard 0 is damaged", details);
  const CliResult damaged = Run();
  EXPECT_EQ(damaged.exit_code, kExitCorrupt);
  EXPECT_TRUE(absl::StrContains(damaged.err, "shard 0 is damaged")) << damaged.err;
  ExpectNothingWritten();

  answer_ = grpc::Status::OK;
  messages_.resize(9);
  const CliResult cut = Run();
  EXPECT_EQ(cut.exit_code, kExitCorrupt);
  EXPECT_TRUE(absl::StrContains(cut.err, " of weights, got the end of the stream after "))
      << cut.err;
  ExpectNothingWritten();
}

TEST_F(ExportTest, RefusesTensorsOfAnotherModel) {
  messages_[3].mutable_tensor()->set_name("blocks.0.attn.proj.scale");
  const CliResult renamed = Run();
  EXPECT_EQ(renamed.exit_code, kExitCorrupt);
  EXPECT_TRUE(absl::StrContains(renamed.err,
                                "expected blocks.0.adaLN_modulation.1.weight F32 [96, 16], got "
                                "blocks.0.attn.proj.scale F32 [96, 16]"))
      << renamed.err;
  ExpectNothingWritten();

  messages_[0].mutable_checkpoint()->clear_thresholds();
  const CliResult without = Run();
  EXPECT_TRUE(absl::StrContains(without.err,
                                "'blocks.1.mlp.expert_threshold': expected 2 thresholds, got 0"))
      << without.err;
  ExpectNothingWritten();
}

TEST_F(ExportTest, WantsAFileAndAKnownSetOfWeights) {
  EXPECT_EQ(server_.Cli({"ckpt", "export", "a-1"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"--weights", "adam"}).exit_code, kExitUsage);
}

}  // namespace
}  // namespace diffmoe
