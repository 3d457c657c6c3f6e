// Ten AdamW steps of the tiny DiffMoE against the published code, in fp32 and in fp64: losses,
// gradient norms, thresholds, final weights, moments, averages.
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/train/train_engine.h"
#include "tests/parity/tiny_model.h"

namespace diffmoe {
namespace {

// The published code keeps the decay as an fp32 buffer, also in the fp64 copies.
constexpr double kPublishedThresholdDecay = 0.95f;

struct Tolerance {
  double loss, grad_norm, threshold, weight, key_bias;
};
// The key bias has no true gradient (softmax ignores it), so in fp32 Adam amplifies rounding noise
// there; in fp64 the noise stays below Adam's epsilon.
constexpr Tolerance kFp32{1e-5, 1e-4, 1e-5, 5e-5, 2e-3};
constexpr Tolerance kFp64{1e-8, 1e-8, 1e-8, 1e-8, 1e-8};

// (sum, L2 norm) in fp64.
void ExpectSums(const at::Tensor& got, const at::Tensor& want, double tolerance,
                const std::string& name) {
  const double scale = 1 + std::abs(want[1].item<double>());
  EXPECT_NEAR(got.norm().item<double>(), want[1].item<double>(), tolerance * scale) << name;
  const double elements = std::sqrt(static_cast<double>(got.numel()));
  EXPECT_NEAR(got.sum().item<double>(), want[0].item<double>(), tolerance * scale * elements)
      << name;
}

class TenSteps {
 public:
  TenSteps(at::ScalarType dtype, const Fixture& golden, const Tolerance& tolerance)
      : collectives_(MakeLocalCollectives()), golden_(golden), tolerance_(tolerance) {
    TrainingConfig config = TinyConfig(Family::kDiffMoe);
    config.optimizer = {};
    config.optimizer.learning_rate = 1e-3;
    config.optimizer.ema_decay = 0.99;
    config.optimizer.ema_warmup = false;
    engine_ = std::make_unique<TrainEngine>(config, *collectives_,
                                            EngineOptions{dtype, kPublishedThresholdDecay});
    LoadTinyWeights(Family::kDiffMoe, engine_->parameters());
    engine_->StartAverage();
  }

  void Run() {
    const Fixture inputs("train10_diffmoe");
    for (int64_t step = 0; step < 10; ++step) {
      const at::Tensor labels = inputs.at("in.y")[step];
      const Batch batch{inputs.at("in.x")[step], inputs.at("in.noise")[step],
                        inputs.at("in.t")[step],
                        at::where(inputs.at("in.drop")[step].ne(0),
                                  at::full_like(labels, kTinyNullClass), labels)};
      CheckStep(step, engine_->Step(step, batch, 0));
    }
  }

  TrainEngine& engine() { return *engine_; }

 private:
  void CheckStep(int64_t step, const StepFigures& figures) {
    const auto want = [&](const std::string& key) {
      return golden_.at("out." + key)[step].item<double>();
    };
    const double loss = want("loss");
    EXPECT_NEAR(figures.loss + figures.predictor_loss, loss, tolerance_.loss * loss) << step;
    EXPECT_NEAR(figures.loss, want("mse"), tolerance_.loss * loss) << step;
    double squares = 0;
    for (const ParameterInfo& info : engine_->layout().infos()) {
      const double norm = engine_->gradients().at(info.name).norm().item<double>();
      squares += norm * norm;
    }
    EXPECT_NEAR(std::sqrt(squares), want("grad_norm"), tolerance_.grad_norm * want("grad_norm"))
        << step;
    EXPECT_NEAR(figures.predictor_loss, want("bce1") + want("bce3"), tolerance_.loss * loss)
        << step;
    EXPECT_TRUE(Close(engine_->moe_layer(0).threshold(), golden_.at("out.thr1")[step],
                      tolerance_.threshold))
        << step;
    // Published averages cover the thresholds as well, so theirs lag behind.
    average_threshold_.mul_(0.99).add_(engine_->moe_layer(0).threshold().to(at::kDouble), 0.01);
    EXPECT_TRUE(Close(average_threshold_, golden_.at("out.ema_thr1")[step], tolerance_.threshold))
        << step;
    EXPECT_TRUE(Close(engine_->moe_layer(1).threshold(), golden_.at("out.thr3")[step],
                      tolerance_.threshold))
        << step;
  }

  std::unique_ptr<Collectives> collectives_;
  const Fixture& golden_;
  Tolerance tolerance_;
  std::unique_ptr<TrainEngine> engine_;
  at::Tensor average_threshold_ = at::zeros({4}, at::TensorOptions().dtype(at::kDouble));
};

void ExpectWeight(const at::Tensor& got, const at::Tensor& want, const std::string& name,
                  const Tolerance& tolerance) {
  if (name.find("attn.qkv.bias") == std::string::npos) {
    EXPECT_TRUE(Close(got, want, tolerance.weight)) << name;
    return;
  }
  for (int64_t third = 0; third < 3; ++third) {
    EXPECT_TRUE(Close(got.narrow(0, 48 * third, 48), want.narrow(0, 48 * third, 48),
                      third == 1 ? tolerance.key_bias : tolerance.weight))
        << name << ", third " << third;
  }
}

// Every tensor of the file that names a parameter with this prefix, against `state`.
void CheckState(TrainEngine& engine, const Fixture& golden, const std::string& prefix,
                const std::string& state, const Tolerance& tolerance) {
  int compared = 0;
  for (const ParameterInfo& info : engine.layout().infos()) {
    if (!golden.contains(prefix + info.name)) continue;
    ExpectWeight(engine.State(state + info.name), golden.at(prefix + info.name), info.name,
                 tolerance);
    ++compared;
  }
  EXPECT_GT(compared, 0) << prefix;
}

void CheckSums(TrainEngine& engine, const Fixture& golden, const std::string& prefix,
               const std::string& state, double tolerance) {
  int compared = 0;
  for (const ParameterInfo& info : engine.layout().infos()) {
    // The key bias is a third of this one.
    if (info.name.find("attn.qkv.bias") != std::string::npos) continue;
    if (!golden.contains(prefix + info.name)) continue;
    ExpectSums(engine.State(state + info.name).to(at::kDouble), golden.at(prefix + info.name),
               tolerance, info.name);
    ++compared;
  }
  EXPECT_GT(compared, 0) << prefix;
}

TEST(TenSteps, Fp32) {
  const Fixture golden("train10_diffmoe"), final_weights("train10_diffmoe_final_weights");
  TenSteps run(at::kFloat, golden, kFp32);
  run.Run();
  CheckState(run.engine(), final_weights, "", "model/", kFp32);
  CheckState(run.engine(), golden, "ema.", "ema/", kFp32);
  CheckState(run.engine(), golden, "adam_m.", "adam_m/", kFp32);
  CheckState(run.engine(), golden, "adam_v.", "adam_v/", kFp32);
  CheckSums(run.engine(), golden, "ema_sum.", "ema/", 1e-5);
}

TEST(TenSteps, Fp64) {
  const Fixture golden("train10_diffmoe_fp64");
  TenSteps run(at::kDouble, golden, kFp64);
  run.Run();
  CheckState(run.engine(), golden, "final.", "model/", kFp64);
  CheckState(run.engine(), golden, "ema.", "ema/", kFp64);
  CheckSums(run.engine(), golden, "final_sum.", "model/", 1e-8);
}

}  // namespace
}  // namespace diffmoe
