// `diffmoe sample` with what the sampling service offers beyond a grid.
#include <atomic>
#include <filesystem>

#include "absl/strings/match.h"
#include "client/commands/sample_flags.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"
#include "tests/unit/client/fake_sampler.h"

namespace diffmoe {
namespace {

using Writer = grpc::ServerWriter<v1::SampleResponse>;

class SampleServiceTest : public testing::Test {
 protected:
  SampleServiceTest() {
    server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
      return FakeSample(server_.api.sample_request, writer);
    };
  }

  CliResult Sample(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"sample", "--job", "a-1", "--class", "3", "--seed", "7"});
    return server_.Cli(arguments);
  }

  static grpc::Status QueueFull(int64_t delay_ms) {
    v1::ErrorDetails details;
    details.set_reason(v1::QUEUE_FULL);
    details.set_retry_delay_ms(delay_ms);
    return ApiError(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", details);
  }

  test::TempDir dir_;
  std::string png_ = dir_.Sub("grid.png");
  FakeServer server_;
};

TEST_F(SampleServiceTest, EveryFlagReachesTheRequest) {
  const CliResult result = Sample({"--n",
                                   "2",
                                   "--capacity",
                                   "0.75",
                                   "--threshold-rule",
                                   "Interval",
                                   "--size",
                                   "64",
                                   "--preview",
                                   dir_.Sub("preview.png"),
                                   "--preview-every",
                                   "5",
                                   "--negative-class",
                                   "1",
                                   "--fast",
                                   "--request-id",
                                   "mine",
                                   "--first-image",
                                   "100",
                                   "--user",
                                   "ann",
                                   "--out",
                                   png_});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  const v1::SampleRequest& request = server_.api.sample_request;
  EXPECT_EQ(request.capacity(), 0.75);
  EXPECT_EQ(request.threshold_rule(), v1::INTERVAL);
  EXPECT_EQ(request.image_size(), 64);
  EXPECT_EQ(request.preview_every(), 5);
  EXPECT_EQ(request.negative_class(), 1);
  EXPECT_EQ(request.numeric_mode(), v1::FAST);
  EXPECT_EQ(request.request_id(), "mine");
  EXPECT_EQ(request.first_image(), 100u);
  EXPECT_EQ(request.user(), "ann");
}

TEST_F(SampleServiceTest, DefaultsStayTheCoordinators) {
  EXPECT_EQ(Sample({"--n", "1", "--out", png_}).exit_code, kExitOk);
  const v1::SampleRequest& request = server_.api.sample_request;
  EXPECT_FALSE(request.has_capacity());
  EXPECT_FALSE(request.has_image_size());
  EXPECT_FALSE(request.has_negative_class());
  EXPECT_EQ(request.threshold_rule(), v1::THRESHOLD_RULE_UNSPECIFIED);
  EXPECT_EQ(request.preview_every(), 0);
  EXPECT_EQ(request.encoding(), v1::IMAGE_ENCODING_UNSPECIFIED);
  EXPECT_EQ(request.numeric_mode(), v1::NUMERIC_MODE_UNSPECIFIED);
  EXPECT_EQ(request.user(), LoginName());
  EXPECT_FALSE(LoginName().empty());
}

TEST_F(SampleServiceTest, BadFlagsAreUsageErrors) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> kFaults = {
      {"--threshold-rule: expected one of dynamic", {"--threshold-rule", "magic"}},
      {"--deadline: expected a duration", {"--deadline", "soon"}},
      {"--deadline: expected a duration", {"--deadline", "-3s"}},
      {"--preview", {"--preview-every", "3"}},
      {"--out", {"--png-dir", dir_.Sub("d"), "--out", png_}}};
  for (const auto& [text, arguments] : kFaults) {
    const CliResult result = Sample(arguments);
    EXPECT_EQ(result.exit_code, kExitUsage) << arguments[0];
    EXPECT_TRUE(absl::StrContains(result.err, text)) << result.err;
  }
}

TEST_F(SampleServiceTest, ALongImageComesInParts) {
  server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
    const v1::SampleRequest& request = server_.api.sample_request;
    for (int i = 0; i < 2; ++i) {
      const std::string pixels = FakePixels(request, i);
      for (int64_t offset = 0; offset < 16; offset += 5) {
        v1::SampleResponse event = FakeImage(request, i);
        event.mutable_image()->set_offset(offset);
        event.mutable_image()->set_pixels(pixels.substr(static_cast<size_t>(offset), 5));
        writer->Write(event);
      }
    }
    v1::SampleResponse event;
    *event.mutable_finished()->mutable_receipt() = FakeReceipt(request);
    writer->Write(event);
    return grpc::Status::OK;
  };
  const CliResult result = Sample({"--n", "2", "--out", png_, "--raw", dir_.Sub("raw")});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  const v1::SampleRequest& request = server_.api.sample_request;
  EXPECT_EQ(test::ReadFile(dir_.Sub("raw")), FakePixels(request, 0) + FakePixels(request, 1));
}

TEST_F(SampleServiceTest, AChangedPixelIsFound) {
  server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
    const v1::SampleRequest& request = server_.api.sample_request;
    v1::SampleResponse event = FakeImage(request, 0);
    (*event.mutable_image()->mutable_pixels())[5] ^= 1;
    writer->Write(event);
    *event.mutable_finished()->mutable_receipt() = FakeReceipt(request);
    writer->Write(event);
    return grpc::Status::OK;
  };
  const CliResult result = Sample({"--n", "1", "--out", png_});
  EXPECT_EQ(result.exit_code, kExitCorrupt);
  EXPECT_TRUE(absl::StrContains(result.err, "image 0 ")) << result.err;
  EXPECT_FALSE(std::filesystem::exists(png_));
}

TEST_F(SampleServiceTest, PngFilesAreWrittenAsTheyCame) {
  server_.api.sample = [this](FakeApi::Context*, Writer* writer) {
    v1::SampleResponse event;
    for (int i = 0; i < 2; ++i) {
      event = FakeImage(server_.api.sample_request, i);
      event.mutable_image()->set_encoding(v1::PNG);
      event.mutable_image()->set_pixels("png file " + std::to_string(i));
      event.mutable_image()->set_total_bytes(10);
      writer->Write(event);
    }
    *event.mutable_finished()->mutable_receipt() = FakeReceipt(server_.api.sample_request);
    writer->Write(event);
    return grpc::Status::OK;
  };
  const CliResult result = Sample({"--n", "2", "--png-dir", dir_.Sub("new/dir")});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(server_.api.sample_request.encoding(), v1::PNG);
  EXPECT_EQ(test::ReadFile(dir_.Sub("new/dir/00000.png")), "png file 0");
  EXPECT_EQ(test::ReadFile(dir_.Sub("new/dir/00001.png")), "png file 1");
}

TEST_F(SampleServiceTest, AnotherEncodingThanAskedForIsRefused) {
  const CliResult result = Sample({"--n", "1", "--png-dir", dir_.Sub("d")});
  EXPECT_EQ(result.exit_code, kExitCorrupt);
  EXPECT_TRUE(absl::StrContains(result.err, "expected encoding PNG, got RAW")) << result.err;
  EXPECT_FALSE(std::filesystem::exists(dir_.Sub("d")));
}

TEST_F(SampleServiceTest, TheReceiptFileIsTheReceipt) {
  const std::string file = dir_.Sub("receipt.json");
  EXPECT_EQ(Sample({"--n", "2", "--out", png_, "--receipt", file}).exit_code, kExitOk);
  const nlohmann::json json = nlohmann::json::parse(test::ReadFile(file));
  EXPECT_EQ(json["seed"], "7");
  EXPECT_EQ(json["image_hashes"].size(), 2);
  const CliResult printed = Sample({"--n", "2", "--out", png_, "-o", "json"});
  EXPECT_EQ(printed.out, test::ReadFile(file));
}

TEST_F(SampleServiceTest, PreviewsStandInTheGridWhileTheRequestRuns) {
  const std::string preview = dir_.Sub("preview.png");
  bool seen = false;
  server_.api.sample = [&](FakeApi::Context*, Writer* writer) {
    v1::SampleResponse event;
    *event.mutable_preview()->mutable_image() = FakeImage(server_.api.sample_request, 1).image();
    writer->Write(event);
    seen = test::WaitUntil(absl::Seconds(20), [&] { return std::filesystem::exists(preview); });
    // A part of a preview whose beginning was dropped.
    event.mutable_preview()->mutable_image()->set_offset(8);
    writer->Write(event);
    return FakeSample(server_.api.sample_request, writer);
  };
  const CliResult result = Sample({"--n", "2", "--out", png_, "--preview", preview});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(seen);
  EXPECT_EQ(server_.api.sample_request.preview_every(), 10);
  // In the end it shows the images themselves.
  EXPECT_EQ(test::ReadFile(preview), test::ReadFile(png_));
}

TEST_F(SampleServiceTest, ARefusalForLoadIsTriedAgain) {
  std::atomic<int> calls = 0;
  server_.api.sample = [&](FakeApi::Context*, Writer* writer) {
    if (++calls < 3) return QueueFull(5);
    return FakeSample(server_.api.sample_request, writer);
  };
  const CliResult result = Sample({"--n", "1", "--out", png_});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(absl::StrContains(result.err, "the queue is full; trying again in 0.0s"))
      << result.err;
}

TEST_F(SampleServiceTest, ARefusalEndsTheCallWhenWaitingIsNotWantedOrTooLong) {
  std::atomic<int> calls = 0;
  server_.api.sample = [&](FakeApi::Context*, Writer*) {
    ++calls;
    return QueueFull(60'000);
  };
  EXPECT_EQ(Sample({"--n", "1", "--out", png_, "--no-wait"}).exit_code, kExitQuota);
  const CliResult late = Sample({"--n", "1", "--out", png_, "--deadline", "30s"});
  EXPECT_EQ(late.exit_code, kExitQuota);
  EXPECT_TRUE(absl::StrContains(late.err, "Try again in 60 s.")) << late.err;
  EXPECT_EQ(calls, 2);
}

TEST_F(SampleServiceTest, TheDeadlineEndsTheCallAndSaysHowFarItCame) {
  std::atomic<bool> cancelled = false;
  server_.api.sample = [&](FakeApi::Context* context, Writer* writer) {
    EXPECT_LT(context->deadline(), std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::SampleResponse event;
    event.mutable_progress()->set_step(3);
    event.mutable_progress()->set_steps(50);
    writer->Write(event);
    cancelled = test::WaitUntil(absl::Seconds(20), [&] { return context->IsCancelled(); });
    return grpc::Status::CANCELLED;
  };
  const CliResult result = Sample({"--n", "1", "--out", png_, "--deadline", "500ms"});
  EXPECT_EQ(result.exit_code, kExitDeadline) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "the deadline of 500ms passed; last seen: "))
      << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "denoise step 3/50")) << result.err;
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return cancelled.load(); }));
  EXPECT_FALSE(std::filesystem::exists(png_));
}

}  // namespace
}  // namespace diffmoe
