#include <filesystem>

#include "absl/strings/match.h"
#include "client/replay/comparison.h"
#include "client/replay/receipt_file.h"
#include "core/base/exit_code.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/unit/client/fake_api.h"
#include "tests/unit/client/fake_sampler.h"

namespace diffmoe {
namespace {

using Writer = grpc::ServerWriter<v1::SampleResponse>;

v1::Receipt FullReceipt() {
  v1::SampleRequest request;
  request.set_seed(18446744073709551615u);
  request.set_count(3);
  for (int label : {1, 2, 3}) request.add_classes(label);
  request.set_first_image(40);
  request.set_sampler("ddim");
  request.set_steps(7);
  v1::Receipt receipt = FakeReceipt(request);
  receipt.set_eta(0.5);
  receipt.mutable_guidance_interval()->set_begin(0.25);
  receipt.mutable_guidance_interval()->set_end(0.75);
  receipt.set_target_capacity(0.75);
  receipt.set_threshold_rule(v1::GATE);
  receipt.set_image_size(64);
  receipt.set_negative_class(0);
  receipt.set_numeric_mode(v1::EXACT);
  receipt.set_request_id("old");
  return receipt;
}

TEST(RequestOfReceipt, AsksForTheSame) {
  const v1::Receipt receipt = FullReceipt();
  const v1::SampleRequest request = RequestOfReceipt(receipt);
  EXPECT_EQ(request.checkpoint(), receipt.checkpoint());
  EXPECT_EQ(request.seed(), receipt.seed());
  EXPECT_EQ(request.classes_size(), 3);
  EXPECT_EQ(request.count(), 3);
  EXPECT_EQ(request.first_image(), 40u);
  EXPECT_EQ(request.sampler(), "ddim");
  EXPECT_EQ(request.steps(), 7);
  EXPECT_EQ(request.eta(), 0.5);
  EXPECT_EQ(request.guidance(), receipt.guidance());
  EXPECT_EQ(request.guidance_interval().end(), 0.75);
  EXPECT_EQ(request.capacity(), 0.75);
  EXPECT_EQ(request.threshold_rule(), v1::GATE);
  EXPECT_EQ(request.image_size(), 64);
  EXPECT_TRUE(request.has_negative_class());
  EXPECT_EQ(request.negative_class(), 0);
  EXPECT_EQ(request.numeric_mode(), v1::EXACT);
  EXPECT_EQ(request.request_id(), "");  // a request of its own
}

TEST(RequestOfReceipt, LeavesOutWhatWasNotAskedFor) {
  v1::Receipt receipt = FullReceipt();
  receipt.set_sampler("dopri5");
  receipt.set_steps(0);
  receipt.set_eta(0);
  receipt.clear_target_capacity();
  receipt.clear_negative_class();
  receipt.clear_guidance_interval();
  receipt.set_image_size(0);
  const v1::SampleRequest request = RequestOfReceipt(receipt);
  EXPECT_FALSE(request.has_steps());
  EXPECT_FALSE(request.has_eta());
  EXPECT_FALSE(request.has_capacity());
  EXPECT_FALSE(request.has_negative_class());
  EXPECT_FALSE(request.has_guidance_interval());
  EXPECT_FALSE(request.has_image_size());
}

TEST(ReceiptFile, ReadsBackWhatIsWritten) {
  const v1::Receipt receipt = FullReceipt();
  const auto text = MessageText(receipt, OutputFormat::kJson);
  ASSERT_TRUE(text.ok());
  const auto read = ParseReceipt(*text, "r.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(receipt, *read));
}

TEST(ReceiptFile, NamesFileAndField) {
  const auto good = MessageText(FullReceipt(), OutputFormat::kJson);
  ASSERT_TRUE(good.ok());
  const std::vector<std::pair<std::string, std::string>> kFaults = {
      {"checkpoint: expected jobs/ID/checkpoints/STEP", R"({"checkpoint":"jobs/a-1"})"},
      {"count: expected 1 to 1024, got 0", R"({"count":0})"},
      {"count: expected 1 to 1024, got 1000000", R"({"count":1000000})"},
      {"classes: expected 1 or 3 classes, got 2", R"({"classes":[1,2]})"},
      {"sampler: expected the name", R"({"sampler":""})"},
      {"steps: expected 1 to 1000, got 0", R"({"steps":0})"},
      {"guidance: expected a number", R"({"guidance":"NaN"})"},
      {"guidance: expected a number", R"({"guidance":-1})"},
      {"image_hashes: expected 3 hashes, got 0", R"({"image_hashes":[]})"},
      {"image_hashes[1]: expected 32",
       R"({"image_hashes":["00000000000000000000000000000000","x","y"]})"},
      {"seed", R"({"seed":"many"})"},
      {"seed", R"({"seed":-1})"},
      {"colour", R"({"colour":1})"}};
  for (const auto& [text, patch] : kFaults) {
    nlohmann::json json = nlohmann::json::parse(*good);
    json.update(nlohmann::json::parse(patch));
    const absl::Status status = ParseReceipt(json.dump(), "r.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << patch;
    EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
    EXPECT_TRUE(absl::StartsWith(status.message(), "r.json: ")) << status;
  }
  for (const char* text : {"", "{", "[]", "null", "7"}) {
    EXPECT_FALSE(ParseReceipt(text, "r.json").ok()) << text;
  }
}

TEST(CompareReplay, NamesTheFirstImageAndWhatChanged) {
  const v1::Receipt before = FullReceipt();
  std::vector<std::string> hashes(before.image_hashes().begin(), before.image_hashes().end());
  v1::Receipt now = before;
  ReplayComparison same = CompareReplay(before, now, hashes);
  EXPECT_TRUE(same.same());
  EXPECT_EQ(ComparisonText(same), "3 of 3 images equal\n");

  now.set_build("0.2.0");
  EXPECT_TRUE(CompareReplay(before, now, hashes).same());
  hashes[1] = std::string(32, '0');
  now.set_weights_hash("cccc");
  const ReplayComparison other = CompareReplay(before, now, hashes);
  EXPECT_FALSE(other.same());
  EXPECT_EQ(ComparisonText(other), "2 of 3 images equal\nfirst difference: image 1, expected " +
                                       before.image_hashes(1) +
                                       ", got 00000000000000000000000000000000\n"
                                       "changed: weights aaaa -> cccc, build 0.1.0 -> 0.2.0\n");
  EXPECT_EQ(ComparisonJson(other)["first_difference"]["image"], 1);
}

class ReplayTest : public testing::Test {
 protected:
  ReplayTest() {
    server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
      return FakeSample(server_.api.sample_request, writer);
    };
    const CliResult made =
        server_.Cli({"sample", "--job", "a-1", "--classes", "1,2", "--n", "50", "--seed", "9",
                     "--out", dir_.Sub("a.png"), "--receipt", receipt_});
    EXPECT_EQ(made.exit_code, kExitOk) << made.err;
  }

  test::TempDir dir_;
  std::string receipt_ = dir_.Sub("receipt.json");
  FakeServer server_;
};

TEST_F(ReplayTest, SaysThatAllAreEqual) {
  const CliResult result = server_.Cli({"replay", receipt_, "--out", dir_.Sub("b.png")});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "100 of 100 images equal\n");
  EXPECT_EQ(server_.api.sample_request.checkpoint(), "jobs/a-1/checkpoints/200");
  EXPECT_TRUE(std::filesystem::exists(dir_.Sub("b.png")));
}

TEST_F(ReplayTest, OtherImagesAreExitCode20) {
  server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
    v1::SampleRequest other = server_.api.sample_request;
    other.set_seed(10);
    return FakeSample(other, writer);
  };
  const CliResult result = server_.Cli({"replay", receipt_, "-o", "json"});
  EXPECT_EQ(result.exit_code, kExitCorrupt);
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["equal"], 0);
  EXPECT_EQ(json["same"], false);
  EXPECT_EQ(json["first_difference"]["image"], 0);
}

TEST_F(ReplayTest, AMissingOrBadFileIsAnError) {
  EXPECT_EQ(server_.Cli({"replay", dir_.Sub("none.json")}).exit_code, kExitNotFound);
  test::WriteFile(receipt_, "{\"steps\": 3}");
  const CliResult result = server_.Cli({"replay", receipt_});
  EXPECT_EQ(result.exit_code, kExitInvalidSpec);
  EXPECT_TRUE(absl::StrContains(result.err, receipt_ + ": checkpoint: ")) << result.err;
}

}  // namespace
}  // namespace diffmoe
