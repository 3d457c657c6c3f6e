#include "core/diffusion/sampler_kind.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace diffmoe {
namespace {

constexpr SamplerKind kKinds[] = {SamplerKind::kEuler,      SamplerKind::kHeun,
                                  SamplerKind::kDopri5,     SamplerKind::kEulerMaruyama,
                                  SamplerKind::kAncestral,  SamplerKind::kDdim,
                                  SamplerKind::kDpmSolver2M};

SamplerOptions Options(SamplerKind kind, int64_t steps = 50, double eta = 0) {
  SamplerOptions options;
  options.kind = kind;
  options.steps = steps;
  options.eta = eta;
  return options;
}

std::vector<std::string> Fields(const SamplerOptions& options, ProcessKind process) {
  std::vector<std::string> fields;
  for (const OptionFault& fault : CheckSamplerOptions(options, process)) {
    fields.push_back(fault.field);
  }
  return fields;
}

TEST(SamplerKind, NamesAreReadBack) {
  for (const SamplerKind kind : kKinds) {
    EXPECT_EQ(ParseSampler(SamplerName(kind)).value(), kind) << SamplerName(kind);
    EXPECT_TRUE(CheckSamplerOptions(Options(kind), ProcessOf(kind)).empty()) << SamplerName(kind);
  }
}

TEST(SamplerKind, AnUnknownNameGetsTheNearestOne) {
  const absl::Status status = ParseSampler("eulre").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "did you mean \"euler\"?")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "dpmpp_2m")) << status;
  EXPECT_FALSE(absl::StrContains(ParseSampler("xyzzy").status().message(), "did you mean"));
}

TEST(SamplerKind, DefaultsFitTheirProcess) {
  for (const ProcessKind process : {ProcessKind::kRectifiedFlow, ProcessKind::kDdpm}) {
    EXPECT_EQ(ProcessOf(DefaultSampler(process)), process);
  }
}

TEST(CheckSamplerOptions, NamesTheSamplersOfTheProcess) {
  const auto faults = CheckSamplerOptions(Options(SamplerKind::kDdim), ProcessKind::kRectifiedFlow);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].field, "sampler");
  EXPECT_EQ(faults[0].description,
            "expected one of euler, heun, dopri5, euler_maruyama for a model trained with "
            "rectified_flow, got ddim");
}

TEST(CheckSamplerOptions, BoundsOfStepsAndEta) {
  using Names = std::vector<std::string>;
  const ProcessKind flow = ProcessKind::kRectifiedFlow, ddpm = ProcessKind::kDdpm;
  EXPECT_EQ(Fields(Options(SamplerKind::kEuler, 0), flow), Names{"steps"});
  EXPECT_EQ(Fields(Options(SamplerKind::kEuler, 1), flow), Names{});
  EXPECT_EQ(Fields(Options(SamplerKind::kEuler, 1001), flow), Names{"steps"});
  EXPECT_EQ(Fields(Options(SamplerKind::kDdim, 1), ddpm), Names{"steps"});
  EXPECT_EQ(Fields(Options(SamplerKind::kDdim, 2, 1), ddpm), Names{});
  EXPECT_EQ(Fields(Options(SamplerKind::kDdim, 50, 1.1), ddpm), Names{"eta"});
  EXPECT_EQ(Fields(Options(SamplerKind::kAncestral, 50, 0.5), ddpm), Names{"eta"});
  EXPECT_EQ(Fields(Options(SamplerKind::kHeun, 0, -1), ddpm), (Names{"sampler", "steps", "eta"}));
}

}  // namespace
}  // namespace diffmoe
