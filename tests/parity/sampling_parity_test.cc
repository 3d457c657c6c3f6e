// Whole sampling runs of the tiny models against the published code: every x of Euler, Heun, DDPM
// and DDIM, dopri5's end point and the times at which it calls the network. The published code
// routes by batch at inference, and calls the network once per half of the guidance in flow
// samplers, once for both in DDPM.
#include <algorithm>

#include "core/diffusion/denoiser.h"
#include "core/diffusion/guidance.h"
#include "core/diffusion/sampler.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr int64_t kNullClass = 10, kSteps = 10, kImages = 4;
constexpr double kScale = 1.5;

ModelConfig TinyModel(Family family) {
  ModelConfig model;
  model.family = family;
  model.image_size = 8;
  model.channels = 4;
  model.patch_size = 2;
  model.width = 48;
  model.depth = 4;
  model.heads = 4;
  model.experts = 4;
  model.time_scale = 1;
  model.learn_sigma = true;
  return model;
}

// What a run went through.
struct Trajectory {
  std::vector<at::Tensor> x;  // after every step, the start first
  std::vector<NetworkCall> calls;
};

struct Row {
  Family family;
  bool packed;  // by the weights' packed layout
};

class SamplingParity : public testing::TestWithParam<Row> {
 protected:
  SamplingParity() {
    const Fixture weights("model_" + Name() + "_weights");
    for (const ParameterInfo& info : denoiser_.layout().infos()) {
      denoiser_.parameters().at(info.name).detach().copy_(weights.at(info.name));
    }
    std::vector<std::vector<float>> thresholds;
    for (int64_t i = 0; i < denoiser_.moe_layer_count(); ++i) {
      const at::Tensor tau =
          weights.at("blocks." + std::to_string(2 * i + 1) + ".mlp.expert_threshold");
      thresholds.emplace_back(tau.data_ptr<float>(), tau.data_ptr<float>() + tau.numel());
    }
    denoiser_.SetThresholds(thresholds);
    if (GetParam().packed) denoiser_.Pack();
  }

  static std::string Name() { return GetParam().family == Family::kDense ? "dense" : "diffmoe"; }
  static MoeOptions Published() {
    MoeOptions options;
    options.inference_rule = InferenceRule::kBatchTopK;
    return options;
  }

  Trajectory Run(SamplerKind kind, const std::string& start, double scale,
                 const StepNoise& noise = {}) const {
    DiffusionConfig config;
    config.process = ProcessOf(kind);
    const std::unique_ptr<Process> process = MakeProcess(config);
    const bool ddpm = config.process == ProcessKind::kDdpm;
    Guidance guidance;
    guidance.scale = scale;
    guidance.joint = ddpm;
    guidance.channels = ddpm ? 3 : 0;
    SamplerOptions options;
    options.kind = kind;
    options.steps = kSteps;
    const auto sampler = MakeSampler(options, config.process, golden_.at(start), noise);
    const Network network = [&](const at::Tensor& x, const at::Tensor& t,
                                const at::Tensor& labels) {
      return denoiser_.Run(x, process->ModelTime(t, 1), labels);
    };
    Trajectory out{{sampler->x()}, {}};
    while (!sampler->done()) {
      out.calls.push_back(sampler->next());
      sampler->Feed(GuidedOutput(network, *process, out.calls.back(), golden_.at("in.y"),
                                 kNullClass, guidance));
      if (sampler->steps_done() == static_cast<int64_t>(out.x.size())) {
        out.x.push_back(sampler->x());
      }
    }
    return out;
  }

  void CheckEveryX(const Trajectory& run, const std::string& key, double tolerance) const {
    const at::Tensor want = golden_.at(key).narrow(1, 0, kImages);
    ASSERT_EQ(static_cast<int64_t>(run.x.size()), want.size(0));
    for (size_t i = 0; i < run.x.size(); ++i) {
      EXPECT_TRUE(Close(run.x[i], want[static_cast<int64_t>(i)], tolerance)) << "x after " << i;
    }
  }

  const Fixture golden_{"sampling_" + Name()};
  Denoiser denoiser_{TinyModel(GetParam().family), at::kFloat, Published()};
};

TEST_P(SamplingParity, Euler) {
  const Trajectory run = Run(SamplerKind::kEuler, "in.z", kScale);
  CheckEveryX(run, "euler.out.x", 1e-5);
  EXPECT_EQ(run.calls.size(), 10u);
}

TEST_P(SamplingParity, EulerWithoutGuidance) {
  EXPECT_TRUE(Close(Run(SamplerKind::kEuler, "in.z", 1).x.back(),
                    golden_.at("euler_nocfg.out.x_end"), 1e-5));
}

TEST_P(SamplingParity, Heun) {
  const Trajectory run = Run(SamplerKind::kHeun, "in.z", kScale);
  CheckEveryX(run, "heun.out.x", 1e-5);
  ASSERT_EQ(run.calls.size(), 20u);
  EXPECT_EQ(run.calls.back().t, 1);  // the corrector of the last step
  const at::Tensor predicted = golden_.at("heun.out.x_predicted");
  for (int64_t i = 0; i < kSteps; ++i) {
    EXPECT_TRUE(Close(run.calls[static_cast<size_t>(2 * i + 1)].x, predicted[i], 1e-5)) << i;
  }
}

TEST_P(SamplingParity, Dopri5) {
  const Trajectory run = Run(SamplerKind::kDopri5, "in.z_dopri", kScale);
  // The published runs differ only in the times at which they report.
  for (const std::string key : {"dopri5_grid10", "dopri5_grid2"}) {
    EXPECT_TRUE(Close(run.x.back(), golden_.at(key + ".out.x_end"), 2e-5)) << key;
    const at::Tensor want = golden_.at(key + ".out.t_evals");
    ASSERT_EQ(static_cast<int64_t>(run.calls.size()), want.numel()) << key;
    // Relative beyond t = 1: all times scale with the first step, which comes from the difference
    // of two nearly equal fp32 slopes.
    for (size_t i = 0; i < run.calls.size(); ++i) {
      const double t = want[static_cast<int64_t>(i)].item<double>();
      EXPECT_NEAR(run.calls[i].t, t, 1e-4 * std::max(1.0, t)) << key << " call " << i;
    }
  }
}

// DDPM trajectories of an untrained model grow to several hundred: tolerance relative to that.
TEST_P(SamplingParity, Ancestral) {
  const at::Tensor noise = golden_.at("ddpm10.in.noise").narrow(1, 0, kImages);
  const Trajectory run =
      Run(SamplerKind::kAncestral, "in.z", kScale, [&](int64_t step) { return noise[step]; });
  CheckEveryX(run, "ddpm10.out.x", 1e-5 * golden_.at("ddpm10.out.x").abs().max().item<double>());
}

TEST_P(SamplingParity, Ddim) {
  CheckEveryX(Run(SamplerKind::kDdim, "in.z", kScale), "ddim10.out.x",
              1e-5 * golden_.at("ddim10.out.x").abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Models, SamplingParity,
                         testing::Values(Row{Family::kDense, false}, Row{Family::kDense, true},
                                         Row{Family::kDiffMoe, false}, Row{Family::kDiffMoe, true}),
                         [](const auto& row) {
                           return std::string(row.param.family == Family::kDense ? "dense"
                                                                                 : "diffmoe") +
                                  (row.param.packed ? "_packed" : "");
                         });

}  // namespace
}  // namespace diffmoe
