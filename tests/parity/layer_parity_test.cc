// The DiffMoE layer against the published code's numbers: training forward and backward, thresholds
// after three calls, per-token inference. Tolerances: fp64 code of independent order differs
// by 1.8e-15; 1e-10 leaves room for other CPUs.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/match.h"
#include "core/moe/moe_layer.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr double kTolerance = 1e-10, kThresholdTolerance = 1e-12;

// One MoE block of width 16 over 16 tokens per sample.
ModelConfig LayerModel(int64_t experts, double capacity) {
  ModelConfig model;
  model.image_size = 16;
  model.patch_size = 4;
  model.width = 16;
  model.depth = 1;
  model.heads = 1;
  model.experts = experts;
  model.capacity = capacity;
  model.moe_every = 1;
  return model;
}

class Layer {
 public:
  Layer(const Fixture& fixture, const ModelConfig& model)
      : collectives(MakeLocalCollectives()),
        layout(model, 0, 1),
        parameters(layout, at::kDouble),
        gradients(layout, at::kDouble) {
    for (const ParameterInfo& info : layout.infos()) {
      const std::string key = Key(info.name);
      if (!key.empty()) parameters.at(info.name).detach().copy_(fixture.at(key));
    }
    MoeOptions options;
    options.capacity = model.capacity;
    options.threshold_starts_at_zero = true;
    moe = std::make_unique<MoeLayer>(model, 0, parameters, options, *collectives);
  }

  // "blocks.0.mlp.gate_weight" -> "gate_weight"; empty for what is not in the layer.
  static std::string Key(const std::string& name) {
    const std::string prefix = "blocks.0.mlp.";
    return absl::StartsWith(name, prefix) ? name.substr(prefix.size()) : "";
  }

  std::unique_ptr<Collectives> collectives;
  ParameterLayout layout;
  Parameters parameters, gradients;
  std::unique_ptr<MoeLayer> moe;
};

struct Case {
  const char* file;
  int64_t experts;
  double capacity;
  int64_t unit_samples;
};

class LayerTraining : public ::testing::TestWithParam<Case> {};

TEST_P(LayerTraining, ForwardBackwardAndThresholds) {
  const Fixture fixture(GetParam().file);
  const ModelConfig model = LayerModel(GetParam().experts, GetParam().capacity);
  Layer layer(fixture, model);
  const at::Tensor x = fixture.at("in.x").view({-1, 16});
  const int64_t unit_tokens = 16 * GetParam().unit_samples;
  MoeLayer::SavedPtr saved;
  MoeStepStats stats;
  const at::Tensor y = layer.moe->Forward(x, unit_tokens, true, &saved, &stats);
  EXPECT_TRUE(Close(y, fixture.at("out.y"), kTolerance));
  EXPECT_TRUE(Close(layer.moe->threshold(), fixture.at("out.threshold1"), kThresholdTolerance));
  double bce = 0;
  for (double unit : stats.unit_predictor_loss) bce += unit;
  EXPECT_NEAR(bce, fixture.scalar("out.bce"), kThresholdTolerance);
  const at::Tensor ids = fixture.at("out.topk_ids");
  for (int64_t e = 0; e < model.experts; ++e) {
    const std::vector<int64_t>& selected = layer.moe->last_selection()[static_cast<size_t>(e)];
    ASSERT_EQ(static_cast<int64_t>(selected.size()), ids.size(1));
    for (int64_t i = 0; i < ids.size(1); ++i) {
      EXPECT_EQ(selected[static_cast<size_t>(i)], ids[e][i].item<int64_t>()) << "expert " << e;
    }
  }

  std::vector<std::vector<at::Tensor>> units;
  const at::Tensor dx =
      layer.moe->Backward(fixture.at("in.cot").view({-1, 16}), *saved, layer.gradients, &units);
  EXPECT_TRUE(Close(dx, fixture.at("grad.x"), kTolerance));
  for (const ParameterPlace& place : layer.layout.experts()) {
    const std::string key = Layer::Key(place.info->name);
    EXPECT_TRUE(Close(layer.gradients.at(place.info->name), fixture.at("grad." + key), kTolerance))
        << key;
  }
  for (size_t i = 0; i < layer.moe->router_places().size(); ++i) {
    at::Tensor sum = units[0][i].clone();
    for (size_t u = 1; u < units.size(); ++u) sum.add_(units[u][i]);
    const std::string key = Layer::Key(layer.moe->router_places()[i].info->name);
    EXPECT_TRUE(Close(sum, fixture.at("grad." + key), kTolerance)) << key;
  }

  for (const char* call : {"2", "3"}) {
    const at::Tensor again =
        layer.moe->Forward(fixture.at(std::string("in.x_call") + call).view({-1, 16}), unit_tokens,
                           true, &saved, &stats);
    EXPECT_TRUE(Close(again, fixture.at(std::string("out.y_call") + call), kTolerance));
    EXPECT_TRUE(Close(layer.moe->threshold(), fixture.at(std::string("out.threshold") + call),
                      kThresholdTolerance));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, LayerTraining,
                         ::testing::Values(Case{"diffmoe_layer_train_e4_c1", 4, 1, 1},
                                           Case{"diffmoe_layer_train_e4_c1", 4, 1, 3},
                                           Case{"diffmoe_layer_train_e4_c2", 4, 2, 1},
                                           Case{"diffmoe_layer_train_e8_c1", 8, 1, 1}));

class LayerInference : public ::testing::TestWithParam<std::pair<const char*, int64_t>> {};

TEST_P(LayerInference, PerTokenThresholds) {
  const Fixture fixture(GetParam().first);
  Layer layer(fixture, LayerModel(GetParam().second, 1));
  const at::Tensor x = fixture.at("in.x").view({-1, 16});
  for (const char* name : {"zero", "half", "after3", "calib", "mixed", "one"}) {
    layer.moe->SetThreshold(fixture.at(std::string("in.tau.") + name), true);
    int64_t used = 0;
    EXPECT_TRUE(Close(layer.moe->Infer(x, x.size(0), &used),
                      fixture.at(std::string("out.y_mask.") + name), kTolerance))
        << name;
    EXPECT_EQ(used, fixture.at(std::string("out.mask_token.") + name).sum().item<int64_t>())
        << name;
    // A sample alone gives the rows that it has in the batch.
    const at::Tensor alone = layer.moe->Infer(x.narrow(0, 0, 16), 16, &used);
    EXPECT_TRUE(
        Close(alone, fixture.at(std::string("out.y_mask.") + name).select(0, 0), kTolerance))
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, LayerInference,
                         ::testing::Values(std::pair{"diffmoe_layer_infer_e4", int64_t{4}},
                                           std::pair{"diffmoe_layer_infer_e8", int64_t{8}}));

}  // namespace
}  // namespace diffmoe
