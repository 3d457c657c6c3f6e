#include "server/sampling/sample_request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "server/sampling/request_text.h"

namespace diffmoe::server {
namespace {

using Change = std::function<void(v1::SampleRequest&)>;

v1::SampleRequest GoodRequest() {
  v1::SampleRequest request;
  request.add_classes(3);
  request.set_count(4);
  return request;
}

// diffmoe, 32 x 32 x 1, patches of 4, 10 classes, 8 experts.
v1::FieldViolation Violation1(const Change& change, const TrainingConfig& config = {}) {
  v1::SampleRequest request = GoodRequest();
  change(request);
  const auto violations = ValidateSampleRequest(request, config);
  EXPECT_LE(violations.size(), 1u);
  return violations.empty() ? v1::FieldViolation() : violations[0];
}

std::string Fault(const Change& change, const TrainingConfig& config = {}) {
  return Violation1(change, config).field();
}

TEST(SampleRequestTest, RangesAreChecked) {
  EXPECT_EQ(Fault([](auto&) {}), "");
  EXPECT_EQ(Fault([](auto& r) { r.set_classes(0, -1); }), "classes[0]");
  EXPECT_EQ(Fault([](auto& r) { r.set_classes(0, 10); }), "classes[0]");
  EXPECT_EQ(Fault([](auto& r) { r.clear_classes(); }), "classes");
  EXPECT_EQ(Fault([](auto& r) { r.add_classes(1); }), "classes");
  EXPECT_EQ(Fault([](auto& r) { r.set_count(1025); }), "count");
  EXPECT_EQ(Fault([](auto& r) { r.set_count(1'000'000); }), "count");
  EXPECT_EQ(Fault([](auto& r) { r.set_count(0); }), "count");
  EXPECT_EQ(Fault([](auto& r) { r.set_steps(0); }), "steps");
  EXPECT_EQ(Fault([](auto& r) { r.set_steps(1'000'000); }), "steps");
  EXPECT_EQ(Fault([](auto& r) { r.mutable_guidance_interval()->set_end(1.1); }),
            "guidance_interval");
  EXPECT_EQ(Fault([](auto& r) { r.mutable_guidance_interval()->set_begin(std::nan("")); }),
            "guidance_interval");
  EXPECT_EQ(Fault([](auto& r) { r.set_eta(std::nan("")); }), "eta");
  EXPECT_EQ(Fault([](auto& r) { r.set_negative_class(10); }), "negative_class");
  EXPECT_EQ(Fault([](auto& r) { r.set_negative_class(0); }), "");
  EXPECT_EQ(Fault([](auto& r) { r.set_preview_every(-1); }), "preview_every");
  EXPECT_EQ(Fault([](auto& r) { r.set_preview_every(1001); }), "preview_every");
  EXPECT_EQ(Fault([](auto& r) { r.set_preview_every(1000); }), "");
}

TEST(SampleRequestTest, GuidanceIsAFiniteNumber) {
  for (const double bad : {-1.0, 100.5, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(Fault([bad](auto& r) { r.set_guidance(bad); }), "guidance") << bad;
  }
  EXPECT_EQ(Fault([](auto& r) { r.set_guidance(0); }), "");
}

TEST(SampleRequestTest, SizeIsAMultipleOfThePatch) {
  for (const int bad : {-4, 0, 2, 30, 132}) {
    const v1::FieldViolation violation = Violation1([bad](auto& r) { r.set_image_size(bad); });
    EXPECT_EQ(violation.field(), "image_size") << bad;
    EXPECT_EQ(violation.description(),
              "expected a multiple of the patch size 4 from 4 to 128, got " + std::to_string(bad));
  }
  for (const int good : {4, 32, 128}) {
    EXPECT_EQ(Fault([good](auto& r) { r.set_image_size(good); }), "") << good;
  }
}

TEST(SampleRequestTest, UnknownEnumsListTheKnownOnes) {
  v1::FieldViolation violation =
      Violation1([](auto& r) { r.set_threshold_rule(static_cast<v1::ThresholdRule>(9)); });
  EXPECT_EQ(violation.field(), "threshold_rule");
  EXPECT_EQ(violation.description(), "expected one of DYNAMIC, CALIBRATED, INTERVAL, GATE, got 9");
  violation = Violation1([](auto& r) { r.set_encoding(static_cast<v1::ImageEncoding>(3)); });
  EXPECT_EQ(violation.description(), "expected one of RAW, PNG, got 3");
  violation = Violation1([](auto& r) { r.set_numeric_mode(static_cast<v1::NumericMode>(-1)); });
  EXPECT_EQ(violation.description(), "expected one of EXACT, FAST, got -1");
  violation = Violation1([](auto& r) { r.set_sampler("heum"); });
  EXPECT_EQ(violation.description(),
            "expected one of euler, heun, dopri5, euler_maruyama, ancestral, ddim, dpmpp_2m, got "
            "\"heum\"; did you mean \"heun\"?");
}

TEST(SampleRequestTest, CapacityAndItsRules) {
  const auto with = [](v1::ThresholdRule rule, std::optional<double> capacity) -> Change {
    return [=](v1::SampleRequest& r) {
      r.set_threshold_rule(rule);
      if (capacity) r.set_capacity(*capacity);
    };
  };
  for (const v1::ThresholdRule rule : {v1::CALIBRATED, v1::INTERVAL, v1::GATE}) {
    EXPECT_EQ(Fault(with(rule, {})), "capacity");
    EXPECT_EQ(Fault(with(rule, 1.5)), "");
  }
  EXPECT_EQ(Fault(with(v1::THRESHOLD_RULE_UNSPECIFIED, 8)), "");
  for (const double bad : {0.0, -1.0, 8.01, std::nan("")}) {
    EXPECT_EQ(Fault(with(v1::THRESHOLD_RULE_UNSPECIFIED, bad)), "capacity") << bad;
  }
  EXPECT_EQ(Fault(with(v1::DYNAMIC, 1)), "capacity");
  EXPECT_EQ(Fault(with(v1::DYNAMIC, {})), "");
}

TEST(SampleRequestTest, ModelsWithoutThresholdsHaveNoCapacity) {
  TrainingConfig dense, batch;
  dense.model.family = Family::kDense;
  batch.compatibility.inference_rule = InferenceRule::kBatchTopK;
  for (const TrainingConfig& config : {dense, batch}) {
    EXPECT_EQ(Fault([](auto& r) { r.set_capacity(1); }, config), "capacity");
    EXPECT_EQ(Fault([](auto& r) { r.set_threshold_rule(v1::DYNAMIC); }, config), "");
    v1::SampleRequest request = GoodRequest();
    request.set_threshold_rule(v1::GATE);
    request.set_capacity(1);
    EXPECT_EQ(ValidateSampleRequest(request, config).size(), 2u);
  }
}

TEST(SampleRequestTest, PngNeedsOneOrThreeChannels) {
  TrainingConfig config;
  for (const int channels : {1, 2, 3, 4}) {
    config.model.channels = channels;
    EXPECT_EQ(Fault([](auto& r) { r.set_encoding(v1::PNG); }, config),
              channels == 1 || channels == 3 ? "" : "encoding");
  }
}

TEST(SampleRequestTest, NoiseKeysDontWrapAround) {
  EXPECT_EQ(Fault([](auto& r) { r.set_first_image(4294967292u); }), "");
  EXPECT_EQ(Fault([](auto& r) { r.set_first_image(4294967293u); }), "first_image");
}

TEST(SampleRequestTest, StringsAreShortAndClean) {
  EXPECT_EQ(Fault([](auto& r) { r.set_request_id(std::string(64, 'x')); }), "");
  EXPECT_EQ(Fault([](auto& r) { r.set_request_id(std::string(65, 'x')); }), "request_id");
  EXPECT_EQ(Fault([](auto& r) { r.set_user(std::string("a\0b", 3)); }), "user");
  EXPECT_EQ(Fault([](auto& r) { r.set_user("line\nbreak"); }), "user");
  EXPECT_TRUE(IsCleanText("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"));
  for (const char* bad : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x7f",
                          "\xc2\x85", "a\xe2\x82"}) {
    EXPECT_FALSE(IsCleanText(bad)) << bad;
  }
}

TEST(SampleRequestTest, AllFaultsAtOnce) {
  v1::SampleRequest request = GoodRequest();
  request.set_classes(0, 10);
  request.set_count(0);
  request.set_steps(1001);
  request.set_guidance(std::nan(""));
  request.set_image_size(5);
  request.set_capacity(-1);
  request.set_user("\x01");
  EXPECT_EQ(ValidateSampleRequest(request, {}).size(), 7u);
}

TEST(SampleRequestTest, CompletionFillsDefaultsOnly) {
  v1::SampleRequest request = GoodRequest();
  request.set_steps(7);
  TrainingConfig config;
  CompleteSampleRequest(config, &request);
  EXPECT_EQ(request.steps(), 7);
  EXPECT_EQ(request.sampler(), "euler");
  EXPECT_EQ(request.threshold_rule(), v1::DYNAMIC);
  EXPECT_EQ(request.image_size(), 32);
  EXPECT_EQ(request.encoding(), v1::RAW);
  EXPECT_EQ(request.numeric_mode(), v1::EXACT);
  EXPECT_FALSE(request.has_eta());
  EXPECT_FALSE(request.has_guidance_interval());
  EXPECT_FALSE(request.has_negative_class());
  EXPECT_DOUBLE_EQ(request.guidance(), 2);
  ASSERT_EQ(request.classes_size(), 4);
  EXPECT_EQ(request.classes(3), 3);
  config.diffusion.process = ProcessKind::kDdpm;
  v1::SampleRequest other = GoodRequest();
  other.set_capacity(1.5);
  CompleteSampleRequest(config, &other);
  EXPECT_EQ(other.sampler(), "ddim");
  EXPECT_EQ(other.steps(), 50);
  EXPECT_EQ(other.threshold_rule(), v1::CALIBRATED);
  v1::SampleRequest adaptive = GoodRequest();
  adaptive.set_sampler("dopri5");
  CompleteSampleRequest({}, &adaptive);
  EXPECT_FALSE(adaptive.has_steps());
}

}  // namespace
}  // namespace diffmoe::server
