// The whole tiny model of every family against the published code's numbers: flow and DDPM losses
// with gradients, inference, guidance. Tolerances as measured between the reference's own fp32 and
// fp64 runs.
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include <cmath>

#include "core/diffusion/guidance.h"
#include "core/diffusion/rectified_flow.h"
#include "core/train/train_engine.h"
#include "tests/parity/tiny_model.h"

namespace diffmoe {
namespace {

at::Tensor Dropped(const at::Tensor& labels, const at::Tensor& drop) {
  return at::where(drop.ne(0), at::full_like(labels, kTinyNullClass), labels);
}

struct Tolerance {
  double output, relative, gradient;
};
constexpr Tolerance kFp32{1e-5, 1e-5, 1e-6}, kFp64{1e-9, 1e-9, 1e-9};

class ModelParity : public ::testing::TestWithParam<Family> {
 protected:
  std::string File(const std::string& kind) const {
    return "model_" + FileNameOf(GetParam()) + "_" + kind;
  }

  // One forward and backward pass of the training engine; `prefix`: rf or ddpm.
  void CheckTrainingStep(const std::string& prefix, ProcessKind process, at::ScalarType dtype,
                         const Fixture& golden, const Tolerance& tolerance, bool recompute) {
    const Fixture inputs(File("case"));
    TrainingConfig config = TinyConfig(GetParam());
    config.diffusion.process = process;
    config.recompute = recompute;
    const auto collectives = MakeLocalCollectives();
    TrainEngine engine(config, *collectives, {dtype});
    LoadTinyWeights(GetParam(), engine.parameters());
    engine.FinishRestore(TinyThresholds(GetParam()), true);
    const Batch batch{inputs.at("in.x0"), inputs.at(prefix + ".in.noise"),
                      inputs.at(prefix + ".in.t").to(at::kFloat),
                      Dropped(inputs.at("in.y"), inputs.at(prefix + ".in.drop"))};
    engine.ForwardBackward(batch);

    const at::Tensor output = golden.at(prefix + ".out.model");
    for (int64_t u = 0; u < 2; ++u) {
      EXPECT_TRUE(Close(engine.unit_outputs()[static_cast<size_t>(u)], output.narrow(0, 2 * u, 2),
                        tolerance.output));
    }
    double loss = engine.unit_losses()[0] + engine.unit_losses()[1];
    if (GetParam() == Family::kDiffMoe) {
      // The published loss holds the predictor's; token choice's balance loss has a gradient only.
      for (const MoeStepStats& stats : engine.moe_stats()[0]) {
        for (double unit : stats.unit_router_loss) loss += unit;
      }
    }
    const double want = golden.scalar(prefix + ".out.loss");
    EXPECT_NEAR(loss, want, tolerance.relative * std::abs(want));
    CheckGradients(engine, prefix, golden, tolerance);
    for (int64_t i = 0; i < engine.moe_layer_count(); ++i) {
      const std::string key = prefix + ".out.threshold." + std::to_string(2 * i + 1);
      if (!golden.contains(key)) continue;
      EXPECT_TRUE(Close(engine.moe_layer(i).threshold(), golden.at(key), 1e-6));
    }
  }

  void CheckGradients(const TrainEngine& engine, const std::string& prefix, const Fixture& golden,
                      const Tolerance& tolerance) {
    int compared = 0;
    for (const ParameterInfo& info : engine.layout().infos()) {
      const at::Tensor grad = engine.gradients().at(info.name);
      const std::string norm_key = prefix + ".grad_norm." + info.name;
      if (golden.contains(norm_key)) {
        const double norm = golden.scalar(norm_key);
        EXPECT_NEAR(grad.to(at::kDouble).norm().item<double>(), norm,
                    tolerance.gradient + tolerance.relative * norm)
            << info.name;
        ++compared;
      }
      const std::string key = prefix + ".grad." + info.name;
      if (golden.contains(key)) {
        EXPECT_TRUE(Close(grad, golden.at(key), tolerance.gradient, tolerance.relative))
            << info.name;
        ++compared;
      }
    }
    EXPECT_GT(compared, 0);
  }
};

TEST_P(ModelParity, FlowStepFp32) {
  for (bool recompute : {false, true}) {
    CheckTrainingStep("rf", ProcessKind::kRectifiedFlow, at::kFloat, Fixture(File("case")), kFp32,
                      recompute);
  }
}

TEST_P(ModelParity, FlowStepFp64) {
  CheckTrainingStep("rf", ProcessKind::kRectifiedFlow, at::kDouble, Fixture(File("fp64")), kFp64,
                    false);
}

TEST_P(ModelParity, DdpmStepFp32) {
  CheckTrainingStep("ddpm", ProcessKind::kDdpm, at::kFloat, Fixture(File("case")), kFp32, false);
}

TEST_P(ModelParity, Inference) {
  const Fixture golden(File("case")), fp64(File("fp64"));
  const auto denoiser = TinyDenoiser(GetParam(), at::kFloat, InferenceRule::kBatchTopK);
  const at::Tensor x = golden.at("eval.in.x"), labels = golden.at("eval.in.y");
  EXPECT_TRUE(Close(denoiser->Run(x, golden.at("eval.in.t_flow"), labels),
                    golden.at("eval.out.model_flow"), kFp32.output));
  EXPECT_TRUE(Close(denoiser->Run(x, golden.at("eval.in.t_ddpm").to(at::kFloat), labels),
                    golden.at("eval.out.model_ddpm"), kFp32.output));
  const auto wide = TinyDenoiser(GetParam(), at::kDouble, InferenceRule::kBatchTopK);
  EXPECT_TRUE(Close(wide->Run(x, golden.at("eval.in.t_flow"), labels),
                    fp64.at("eval.out.model_flow"), kFp64.output));
}

TEST_P(ModelParity, GuidanceOnThreeChannels) {
  const Fixture golden(File("case"));
  const auto denoiser = TinyDenoiser(GetParam(), at::kFloat, InferenceRule::kBatchTopK);
  DiffusionConfig diffusion;
  diffusion.process = ProcessKind::kDdpm;
  const auto process = MakeProcess(diffusion);
  Guidance guidance;
  guidance.scale = 1.5;
  guidance.channels = 3;
  // The second half of the file's batch repeats the first with the null class.
  const at::Tensor x = golden.at("cfg.in.x").narrow(0, 0, 2);
  // The file's samples stand at different times, which no sampler asks for.
  const at::Tensor t = golden.at("cfg.in.t").to(at::kFloat);
  const auto network = [&](const at::Tensor& images, const at::Tensor&, const at::Tensor& labels) {
    return denoiser->Run(images, t, labels);
  };
  const NetworkCall call{x, 300};
  const at::Tensor guided = GuidedOutput(
      network, *process, call, golden.at("cfg.in.y").narrow(0, 0, 2), kTinyNullClass, guidance);
  EXPECT_TRUE(Close(guided, golden.at("cfg.out.scale1p5").narrow(0, 0, 2), kFp32.output));
}

// The golden numbers of DiffMoE follow the published batch rule, which lets batch mates choose a
// sample's experts. By default a sample alone equals the same sample in a batch.
TEST_P(ModelParity, SampleAloneEqualsSampleInBatch) {
  const Fixture sampling("sampling_diffmoe");
  const auto denoiser = TinyDenoiser(GetParam(), at::kFloat, InferenceRule::kPerToken);
  const at::Tensor z = sampling.at("in.z"), labels = sampling.at("in.y");
  const at::Tensor t = at::full({4}, 0.3, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor together = denoiser->Run(z, t, labels);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(Close(denoiser->Run(z.narrow(0, i, 1), t.narrow(0, i, 1), labels.narrow(0, i, 1)),
                      together.narrow(0, i, 1), 1e-5));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ModelParity,
                         ::testing::Values(Family::kDense, Family::kTokenChoice,
                                           Family::kExpertChoice, Family::kDiffMoe),
                         [](const auto& family) { return FileNameOf(family.param); });

TEST(RectifiedFlow, Algebra) {
  const Fixture golden("rectified_flow_algebra");
  const at::Tensor x = golden.at("in.x"), noise = golden.at("in.noise");
  EXPECT_TRUE(Close(Interpolate(x, noise, golden.at("in.t")), golden.at("out.xt"), 1e-6));
  const FlowLoss loss = RectifiedFlowLoss(golden.at("in.model_out"), golden.at("out.target"),
                                          static_cast<double>(x.numel()));
  EXPECT_NEAR(loss.loss, golden.scalar("out.loss"), 1e-5 * golden.scalar("out.loss"));
  EXPECT_TRUE(Close(loss.grad_output, golden.at("out.grad_model_out"), 1e-7, 1e-5));
}

}  // namespace
}  // namespace diffmoe
