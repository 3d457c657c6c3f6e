#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>

#include "absl/strings/match.h"
#include "client/sample_images.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

v1::SampleResponse ImageEvent(int index, int label) {
  v1::SampleResponse event;
  v1::SampleResponse::Image& image = *event.mutable_image();
  image.set_index(index);
  image.set_label(label);
  image.set_height(2);
  image.set_width(2);
  image.set_channels(1);
  image.set_pixels(std::string(4, static_cast<char>(index)));
  return event;
}

class SampleTest : public testing::Test {
 protected:
  SampleTest() {
    server_.api.sample = [this](FakeApi::Context*, grpc::ServerWriter<v1::SampleResponse>* writer) {
      return Answer(writer, server_.api.sample_request.count());
    };
  }

  // The events of a whole call; fewer images than asked for when `images` is smaller.
  grpc::Status Answer(grpc::ServerWriter<v1::SampleResponse>* writer, int images) {
    v1::SampleResponse event;
    event.mutable_queued()->set_reason("starting a sampler");
    writer->Write(event);
    event.mutable_started()->set_checkpoint("jobs/a-1/checkpoints/200");
    writer->Write(event);
    event.mutable_progress()->set_step(1);
    event.mutable_progress()->set_steps(2);
    writer->Write(event);
    for (int i = 0; i < images; ++i) writer->Write(ImageEvent(i, 3));
    v1::Receipt& receipt = *event.mutable_finished()->mutable_receipt();
    receipt.set_checkpoint("jobs/a-1/checkpoints/200");
    receipt.set_seed(7);
    receipt.set_sampler("ddim");
    receipt.set_eta(0.5);
    receipt.set_steps(2);
    receipt.set_guidance(2);
    receipt.set_count(images);
    receipt.add_capacity(0.99);
    receipt.mutable_guidance_interval()->set_begin(0.25);
    receipt.mutable_guidance_interval()->set_end(0.75);
    receipt.set_network_calls(8);
    receipt.set_seconds(1.5);
    receipt.set_thresholds_hash("abcd");
    writer->Write(event);
    return grpc::Status::OK;
  }

  test::TempDir dir_;
  std::string png_ = dir_.Sub("grid.png");
  FakeServer server_;
};

TEST_F(SampleTest, WritesGridRawAndReceipt) {
  const std::string raw = dir_.Sub("out.bin");
  const CliResult result = server_.Cli({"sample",
                                        "--job",
                                        "a-1@step=200",
                                        "--class",
                                        "3",
                                        "--n",
                                        "4",
                                        "--seed",
                                        "7",
                                        "--steps",
                                        "2",
                                        "--guidance",
                                        "2.5",
                                        "--guidance-interval",
                                        "0.25,0.75",
                                        "--sampler",
                                        "ddim",
                                        "--eta",
                                        "0.5",
                                        "--out",
                                        png_,
                                        "--raw",
                                        raw});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  const v1::SampleRequest& request = server_.api.sample_request;
  EXPECT_EQ(request.checkpoint(), "jobs/a-1/checkpoints/200");
  EXPECT_EQ(request.count(), 4);
  ASSERT_EQ(request.classes_size(), 1);
  EXPECT_EQ(request.classes(0), 3);
  EXPECT_EQ(request.seed(), 7u);
  EXPECT_EQ(request.steps(), 2);
  EXPECT_EQ(request.guidance(), 2.5);
  EXPECT_EQ(request.guidance_interval().begin(), 0.25);
  EXPECT_EQ(request.guidance_interval().end(), 0.75);
  EXPECT_EQ(request.sampler(), "ddim");
  EXPECT_EQ(request.eta(), 0.5);
  EXPECT_EQ(result.out,
            "checkpoint       jobs/a-1/checkpoints/200\n"
            "seed             7\n"
            "sampler          ddim, 2 steps, eta 0.5\n"
            "guidance         2 from 0.25 to 0.75 of the way\n"
            "images           4\n"
            "C per MoE layer  0.990\n"
            "thresholds       abcd\n"
            "network calls    8\n"
            "time             1.5s\n");
  EXPECT_EQ(result.err, "sampling jobs/a-1/checkpoints/200\nwrote " + png_ + "\nwrote " + raw +
                            ": uint8 [4, 2, 2, 1]\n");
  std::string expected;
  for (char i = 0; i < 4; ++i) expected += std::string(4, i);
  EXPECT_EQ(test::ReadFile(raw), expected);
  EXPECT_EQ(test::ReadFile(png_).substr(1, 3), "PNG");
}

TEST_F(SampleTest, LeavesDefaultsToTheCoordinator) {
  EXPECT_EQ(
      server_.Cli({"sample", "--job", "a-1", "--class", "3", "--n", "1", "--out", png_}).exit_code,
      kExitOk);
  EXPECT_EQ(server_.api.sample_request.checkpoint(), "jobs/a-1");
  EXPECT_FALSE(server_.api.sample_request.has_seed());
  EXPECT_FALSE(server_.api.sample_request.has_steps());
  EXPECT_FALSE(server_.api.sample_request.has_guidance());
  EXPECT_FALSE(server_.api.sample_request.has_guidance_interval());
  EXPECT_FALSE(server_.api.sample_request.has_eta());
  EXPECT_EQ(server_.api.sample_request.sampler(), "");
}

TEST_F(SampleTest, SeveralClassesMakeARowEach) {
  EXPECT_EQ(server_
                .Cli({"sample", "--job", "a-1", "--classes", "5,6", "--n", "2", "--out", png_, "-o",
                      "json"})
                .exit_code,
            kExitOk);
  const auto& classes = server_.api.sample_request.classes();
  EXPECT_EQ(std::vector<int>(classes.begin(), classes.end()), (std::vector<int>{5, 5, 6, 6}));
  EXPECT_EQ(server_.api.sample_request.count(), 4);
}

TEST_F(SampleTest, AllAsksForTheJobsClasses) {
  server_.api.job.mutable_spec()->mutable_model()->set_classes(3);
  const CliResult result = server_.Cli(
      {"sample", "--job", "a-1@step=5", "--class", "all", "--n", "1", "--out", png_, "-o", "json"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(server_.api.asked_name, "jobs/a-1");
  EXPECT_EQ(server_.api.sample_request.count(), 3);
  EXPECT_EQ(nlohmann::json::parse(result.out)["seed"], "7");
}

TEST_F(SampleTest, ImagesThatDoNotFitAreNotWritten) {
  const std::vector<std::pair<std::string, std::function<void(v1::SampleResponse::Image*)>>>
      kFaults = {{"index from 0 to 1, got 2", [](auto* image) { image->set_index(2); }},
                 {"got -1", [](auto* image) { image->set_index(-1); }},
                 {"got it again", [](auto* image) { image->set_index(0); }},
                 {"3 bytes", [](auto* image) { image->set_pixels("abc"); }},
                 {"2147483647x2147483647x1",
                  [](auto* image) {
                    image->set_height(2147483647);
                    image->set_width(2147483647);
                  }},
                 {"0x2x1", [](auto* image) {
                    image->set_height(0);
                    image->set_pixels("");
                  }}};
  for (const auto& [text, change] : kFaults) {
    server_.api.sample = [&](FakeApi::Context*, grpc::ServerWriter<v1::SampleResponse>* writer) {
      writer->Write(ImageEvent(0, 3));
      v1::SampleResponse event = ImageEvent(1, 3);
      change(event.mutable_image());
      writer->Write(event);
      return grpc::Status::OK;
    };
    const CliResult result =
        server_.Cli({"sample", "--job", "a-1", "--class", "3", "--n", "2", "--out", png_});
    EXPECT_EQ(result.exit_code, kExitCorrupt) << text;
    EXPECT_TRUE(absl::StrContains(result.err, text)) << result.err;
    EXPECT_FALSE(std::filesystem::exists(png_));
  }
}

TEST_F(SampleTest, MissingImagesAndAMissingReceiptAreErrors) {
  server_.api.sample = [this](FakeApi::Context*, grpc::ServerWriter<v1::SampleResponse>* writer) {
    return Answer(writer, 1);
  };
  const CliResult missing =
      server_.Cli({"sample", "--job", "a-1", "--class", "3", "--n", "2", "--out", png_});
  EXPECT_EQ(missing.exit_code, kExitCorrupt);
  EXPECT_TRUE(
      absl::StrContains(missing.err, "expected 2 images from the coordinator, image 1 is missing"))
      << missing.err;
  server_.api.sample = [](FakeApi::Context*, grpc::ServerWriter<v1::SampleResponse>*) {
    return grpc::Status::OK;
  };
  EXPECT_EQ(server_.Cli({"sample", "--job", "a-1", "--class", "3", "--out", png_}).exit_code,
            kExitCorrupt);
}

TEST_F(SampleTest, ErrorsOfTheCoordinatorAreShownWithTheirViolations) {
  server_.api.sample = [](FakeApi::Context*, grpc::ServerWriter<v1::SampleResponse>*) {
    v1::ErrorDetails details;
    details.set_reason(v1::INVALID_REQUEST);
    v1::FieldViolation* violation = details.add_violations();
    violation->set_field("classes");
    violation->set_description("expected 0 to 9, got 10");
    return ApiError(grpc::StatusCode::INVALID_ARGUMENT, "1 fault in the request", details);
  };
  const CliResult result = server_.Cli({"sample", "--job", "a-1", "--class", "10", "--out", png_});
  EXPECT_EQ(result.exit_code, kExitInvalidSpec);
  EXPECT_EQ(result.err, "diffmoe: 1 fault in the request\n  classes: expected 0 to 9, got 10\n");
}

TEST_F(SampleTest, NegativeClassesReachTheCoordinator) {
  server_.Cli({"sample", "--job", "a-1", "--class", "-1", "--n", "1", "--out", png_});
  ASSERT_EQ(server_.api.sample_request.classes_size(), 1);
  EXPECT_EQ(server_.api.sample_request.classes(0), -1);
}

TEST_F(SampleTest, InterruptCancelsTheCall) {
  std::atomic<bool> cancelled = false;
  server_.api.sample = [&](FakeApi::Context* context,
                           grpc::ServerWriter<v1::SampleResponse>* writer) {
    v1::SampleResponse event;
    event.mutable_started()->set_checkpoint("jobs/a-1/checkpoints/200");
    writer->Write(event);
    cancelled = test::WaitUntil(absl::Seconds(20), [&] { return context->IsCancelled(); });
    return grpc::Status::CANCELLED;
  };
  auto process =
      test::Process::Start({.argv = {test::Program("diffmoe"), "--server", server_.address,
                                     "sample", "--job", "a-1", "--class", "3", "--out", png_},
                            .environment = {},
                            .working_dir = ""});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForText("sampling jobs", absl::Seconds(20)));
  (*process)->Signal(SIGTERM);
  const auto exit = (*process)->Wait(absl::Seconds(20));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_code, kExitInterrupted);
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return cancelled.load(); }));
  EXPECT_FALSE(std::filesystem::exists(png_));
}

}  // namespace
}  // namespace diffmoe
