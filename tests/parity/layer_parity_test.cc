// One MoE layer of every family against the published code's numbers: training forward and
// backward, thresholds after three calls, inference by both rules. Tolerances: fp64 code of
// independent order differs by 1.8e-15; 1e-10 leaves room for other CPUs.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/moe/moe_layer.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr double kTolerance = 1e-10, kThresholdTolerance = 1e-12;
constexpr int64_t kWidth = 16;

// One MoE block of width 16; a sample has `tokens_per_sample` tokens (one patch row when that is no
// square: the layer doesn't see positions).
ModelConfig LayerModel(Family family, int64_t experts, double capacity) {
  ModelConfig model;
  model.family = family;
  model.image_size = 16;
  model.patch_size = 4;
  model.width = kWidth;
  model.depth = 1;
  model.heads = 1;
  model.experts = experts;
  model.capacity = capacity;
  model.pool = family == Family::kExpertChoice ? PoolScope::kSample : PoolScope::kGlobal;
  model.moe_every = 1;
  return model;
}

MoeOptions PublishedOptions() {
  MoeOptions options;
  options.threshold_init = ThresholdInit::kZero;
  options.round_capacity_down = true;
  return options;
}

class Layer {
 public:
  Layer(const Fixture& fixture, const ModelConfig& model, const MoeOptions& options)
      : collectives(MakeLocalCollectives()),
        layout(model, 0, 1),
        parameters(layout, at::kDouble),
        gradients(layout, at::kDouble) {
    for (const ParameterInfo& info : layout.infos()) {
      const std::string key = Key(info.name);
      if (!key.empty()) parameters.at(info.name).detach().copy_(fixture.at(key));
    }
    moe = std::make_unique<MoeLayer>(model, 0, parameters, parameters, options, *collectives);
  }

  // "blocks.0.mlp.gate_weight" -> "gate_weight"; empty for what is not in the layer.
  static std::string Key(const std::string& name) {
    const std::string prefix = "blocks.0.mlp.";
    return absl::StartsWith(name, prefix) ? name.substr(prefix.size()) : "";
  }

  // Runs backward and compares dx and all weight gradients with grad.*.
  void CheckBackward(const Fixture& fixture, MoeLayer::Saved& saved) {
    std::vector<std::vector<at::Tensor>> units;
    const at::Tensor dx =
        moe->Backward(fixture.at("in.cot").view({-1, kWidth}), saved, gradients, &units);
    EXPECT_TRUE(Close(dx, fixture.at("grad.x"), kTolerance));
    for (const ParameterPlace& place : layout.experts()) {
      const std::string key = Key(place.info->name);
      EXPECT_TRUE(Close(gradients.at(place.info->name), fixture.at("grad." + key), kTolerance))
          << key;
    }
    for (size_t i = 0; i < moe->unit_places().size(); ++i) {
      at::Tensor sum = units[0][i].clone();
      for (size_t u = 1; u < units.size(); ++u) sum.add_(units[u][i]);
      const std::string key = Key(moe->unit_places()[i].info->name);
      EXPECT_TRUE(Close(sum, fixture.at("grad." + key), kTolerance)) << key;
    }
  }

  std::unique_ptr<Collectives> collectives;
  ParameterLayout layout;
  Parameters parameters, gradients;
  std::unique_ptr<MoeLayer> moe;
};

struct TrainingCase {
  const char* file;
  int64_t experts;
  double capacity;
  int64_t unit_tokens;
  int64_t shared_experts = 0;
  Activation activation = Activation::kGelu;
};

class DiffMoeTraining : public ::testing::TestWithParam<std::tuple<TrainingCase, bool>> {};

TEST_P(DiffMoeTraining, ForwardBackwardAndThresholds) {
  const auto& [c, recompute] = GetParam();
  const Fixture fixture(c.file);
  ModelConfig model = LayerModel(Family::kDiffMoe, c.experts, c.capacity);
  model.shared_experts = c.shared_experts;
  model.activation = c.activation;
  Layer layer(fixture, model, PublishedOptions());
  MoeLayer::SavedPtr saved;
  MoeStepStats stats;
  const auto forward = [&](const std::string& input) {
    const at::Tensor y = layer.moe->Forward(fixture.at(input).view({-1, kWidth}), c.unit_tokens,
                                            !recompute, &saved, &stats);
    layer.moe->UpdateThreshold(MoeLayer::Quantiles(*saved));
    return y;
  };
  EXPECT_TRUE(Close(forward("in.x"), fixture.at("out.y"), kTolerance));
  EXPECT_TRUE(Close(layer.moe->threshold(), fixture.at("out.threshold1"), kThresholdTolerance));
  EXPECT_TRUE(
      Close(MoeLayer::Quantiles(*saved), fixture.at("out.kth_pred_score"), kThresholdTolerance));
  double bce = 0;
  for (double unit : stats.unit_router_loss) bce += unit;
  EXPECT_NEAR(bce, fixture.scalar("out.bce"), kThresholdTolerance);
  EXPECT_TRUE(Close(MoeLayer::Mask(*saved), fixture.at("out.mask"), 0));
  layer.CheckBackward(fixture, *saved);
  // Recomputation in the backward pass moves no threshold.
  EXPECT_TRUE(Close(layer.moe->threshold(), fixture.at("out.threshold1"), kThresholdTolerance));
  for (const std::string call : {"2", "3"}) {
    EXPECT_TRUE(Close(forward("in.x_call" + call), fixture.at("out.y_call" + call), kTolerance));
    EXPECT_TRUE(
        Close(layer.moe->threshold(), fixture.at("out.threshold" + call), kThresholdTolerance));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Files, DiffMoeTraining,
    ::testing::Combine(
        ::testing::Values(TrainingCase{"diffmoe_layer_train_e4_c1", 4, 1, 16},
                          TrainingCase{"diffmoe_layer_train_e4_c1", 4, 1, 48},
                          TrainingCase{"diffmoe_layer_train_e4_c2", 4, 2, 16},
                          TrainingCase{"diffmoe_layer_train_e8_c1", 8, 1, 16},
                          TrainingCase{"diffmoe_layer_train_e4_c1_shared", 4, 1, 16, 1},
                          TrainingCase{"diffmoe_layer_train_e8_c2_shared", 8, 2, 16, 1},
                          TrainingCase{"diffmoe_layer_train_e4_c1_swiglu", 4, 1, 16, 0,
                                       Activation::kSwiglu},
                          TrainingCase{"diffmoe_layer_train_ragged_e4_c1p5", 4, 1.5, 7}),
        ::testing::Bool()),
    [](const auto& c) {
      return absl::StrCat(std::get<0>(c.param).file, "_", std::get<0>(c.param).unit_tokens,
                          std::get<1>(c.param) ? "_recompute" : "");
    });

struct InferenceCase {
  const char* file;
  int64_t experts;
  int64_t shared_experts;
};

class DiffMoeInference : public ::testing::TestWithParam<InferenceCase> {};

TEST_P(DiffMoeInference, ByTokenAndByPublishedBatchRule) {
  const Fixture fixture(GetParam().file);
  ModelConfig model = LayerModel(Family::kDiffMoe, GetParam().experts, 1);
  model.shared_experts = GetParam().shared_experts;
  MoeOptions batch_rule = PublishedOptions();
  batch_rule.inference_rule = InferenceRule::kBatchTopK;
  Layer by_token(fixture, model, PublishedOptions()), by_batch(fixture, model, batch_rule);
  const at::Tensor x = fixture.at("in.x").view({-1, kWidth});
  for (const std::string name : {"zero", "half", "after3", "calib", "mixed", "one"}) {
    by_token.moe->SetThreshold(fixture.at("in.tau." + name), true);
    by_batch.moe->SetThreshold(fixture.at("in.tau." + name), true);
    int64_t used = 0;
    EXPECT_TRUE(Close(by_token.moe->Infer(x, x.size(0), &used), fixture.at("out.y_mask." + name),
                      kTolerance))
        << name;
    EXPECT_EQ(used, fixture.at("out.mask_token." + name).sum().item<int64_t>()) << name;
    // A sample alone gives the rows that it has in the batch.
    EXPECT_TRUE(Close(by_token.moe->Infer(x.narrow(0, 0, 16), 16, &used),
                      fixture.at("out.y_mask." + name).select(0, 0), kTolerance))
        << name;
    used = 0;
    EXPECT_TRUE(Close(by_batch.moe->Infer(x, x.size(0), &used), fixture.at("out.y_ref." + name),
                      kTolerance))
        << name;
    EXPECT_EQ(used, fixture.at("out.count." + name).sum().item<int64_t>()) << name;
  }
  if (!fixture.contains("out.y_ref_alone0.mixed")) return;
  // Under the published rule batch mates matter.
  by_batch.moe->SetThreshold(fixture.at("in.tau.mixed"), true);
  int64_t used = 0;
  const at::Tensor alone = by_batch.moe->Infer(x.narrow(0, 0, 16), 16, &used);
  EXPECT_TRUE(Close(alone, fixture.at("out.y_ref_alone0.mixed"), kTolerance));
  EXPECT_FALSE(Close(alone, fixture.at("out.y_ref.mixed").select(0, 0), kTolerance));
}

INSTANTIATE_TEST_SUITE_P(Files, DiffMoeInference,
                         ::testing::Values(InferenceCase{"diffmoe_layer_infer_e4", 4, 0},
                                           InferenceCase{"diffmoe_layer_infer_e4_shared", 4, 1},
                                           InferenceCase{"diffmoe_layer_infer_e8", 8, 0}),
                         [](const auto& c) { return c.param.file; });

struct BaselineCase {
  const char* file;
  Family family;
  int64_t experts;
  double capacity;  // of expert choice
  int64_t top_k;    // of token choice
  int64_t shared_experts;
};

class Baseline : public ::testing::TestWithParam<BaselineCase> {};

TEST_P(Baseline, TrainingInferenceAndGradients) {
  const BaselineCase& c = GetParam();
  const Fixture fixture(c.file);
  ModelConfig model = LayerModel(c.family, c.experts, c.capacity);
  model.top_k = c.top_k;
  model.shared_experts = c.shared_experts;
  Layer layer(fixture, model, PublishedOptions());
  const at::Tensor x = fixture.at("in.x").view({-1, kWidth});
  MoeLayer::SavedPtr saved;
  MoeStepStats stats;
  EXPECT_TRUE(Close(layer.moe->Forward(x, 16, true, &saved, &stats), fixture.at("out.y_train"),
                    kTolerance));
  if (c.family == Family::kTokenChoice) {
    const at::Tensor chosen = fixture.at("out.topk_idx");
    at::Tensor want = at::zeros({x.size(0), c.experts}, at::TensorOptions().dtype(at::kByte));
    want.scatter_(1, chosen, 1);
    EXPECT_TRUE(Close(MoeLayer::Mask(*saved), want, 0));
    double balance = 0;
    for (double unit : stats.unit_router_loss) balance += unit;
    EXPECT_NEAR(balance, fixture.scalar("out.aux_loss"), kThresholdTolerance);
  } else {
    const at::Tensor chosen = fixture.at("out.topk_ids");  // [B, E, K]
    at::Tensor want = at::zeros({3, c.experts, 16}, at::TensorOptions().dtype(at::kByte));
    want.scatter_(2, chosen, 1);
    EXPECT_TRUE(Close(MoeLayer::Mask(*saved), want.transpose(1, 2).reshape({-1, c.experts}), 0));
  }
  layer.CheckBackward(fixture, *saved);
  int64_t used = 0;
  EXPECT_TRUE(Close(layer.moe->Infer(x, x.size(0), &used), fixture.at("out.y_eval"), kTolerance));
  EXPECT_TRUE(Close(layer.moe->Infer(x.narrow(0, 16, 16), 16, &used),
                    fixture.at("out.y_eval").select(0, 1), kTolerance));
}

class BalanceLoss : public ::testing::TestWithParam<BaselineCase> {};

TEST_P(BalanceLoss, GradientsWithoutIt) {
  const BaselineCase& c = GetParam();
  const Fixture fixture(c.file);
  ModelConfig model = LayerModel(c.family, c.experts, c.capacity);
  model.top_k = c.top_k;
  model.shared_experts = c.shared_experts;
  MoeOptions options;
  options.balance_loss_weight = 0;
  Layer layer(fixture, model, options);
  MoeLayer::SavedPtr saved;
  layer.moe->Forward(fixture.at("in.x").view({-1, kWidth}), 16, true, &saved, nullptr);
  std::vector<std::vector<at::Tensor>> units;
  const at::Tensor dx =
      layer.moe->Backward(fixture.at("in.cot").view({-1, kWidth}), *saved, layer.gradients, &units);
  EXPECT_TRUE(Close(dx, fixture.at("grad_noaux.x"), kTolerance));
  EXPECT_TRUE(Close(units[0][0].add(units[1][0]).add(units[2][0]),
                    fixture.at("grad_noaux.gate.weight"), kTolerance));
}

std::vector<BaselineCase> TokenChoiceCases() {
  return {{"tc_layer_e4_top1", Family::kTokenChoice, 4, 1, 1, 0},
          {"tc_layer_e8_top1", Family::kTokenChoice, 8, 1, 1, 0},
          {"tc_layer_e4_top2_shared2", Family::kTokenChoice, 4, 1, 2, 2}};
}

std::string NameOf(const ::testing::TestParamInfo<BaselineCase>& c) { return c.param.file; }

INSTANTIATE_TEST_SUITE_P(TokenChoice, Baseline, ::testing::ValuesIn(TokenChoiceCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(TokenChoice, BalanceLoss, ::testing::ValuesIn(TokenChoiceCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(
    ExpertChoice, Baseline,
    ::testing::Values(BaselineCase{"ec_layer_e4_c1", Family::kExpertChoice, 4, 1, 1, 0},
                      BaselineCase{"ec_layer_e8_c2", Family::kExpertChoice, 8, 2, 1, 0},
                      BaselineCase{"ec_layer_e4_c1_shared2", Family::kExpertChoice, 4, 1, 1, 2}),
    NameOf);

}  // namespace
}  // namespace diffmoe
