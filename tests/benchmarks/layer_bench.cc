#include "tests/benchmarks/layer_bench.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <memory>
#include <vector>

#include "core/moe/moe_layer.h"
#include "tests/benchmarks/timing.h"

namespace diffmoe::bench {
namespace {

constexpr int64_t kTokens = 2048, kUnitTokens = 512;
constexpr int kRounds = 9;

// The products of one step of the layer: per expert two forward and four backward, and those of the
// predictor (no gradient of its input) and gate.
class LayerProducts {
 public:
  LayerProducts(int64_t width, int64_t experts)
      : experts_(experts),
        x_(at::randn({kTokens / experts, width})),
        h_(at::randn({kTokens / experts, 4 * width})),
        w1_(at::randn({4 * width, width})),
        w2_(at::randn({width, 4 * width})),
        tokens_(at::randn({kUnitTokens, width})),
        predictor_(at::randn({width, width})) {}

  void Run() const {
    for (int64_t e = 0; e < experts_; ++e) {
      at::mm(x_, w1_.t());
      at::mm(h_, w2_.t());
      at::mm(x_, w2_);
      at::mm(h_, w1_);
      at::mm(h_.t(), x_);
      at::mm(x_.t(), h_);
    }
    for (int64_t begin = 0; begin < kTokens; begin += kUnitTokens) {
      at::mm(tokens_, predictor_.t());
      at::mm(tokens_.t(), tokens_);
    }
  }

 private:
  const int64_t experts_;
  const at::Tensor x_, h_, w1_, w2_, tokens_, predictor_;
};

}  // namespace

LayerFigures MeasureMoeLayer(int64_t width, int64_t experts) {
  ModelConfig model;
  model.width = width;
  model.depth = 1;
  model.heads = 6;
  model.moe_every = 1;
  model.experts = experts;
  const auto collectives = MakeLocalCollectives();
  const ParameterLayout layout(model, 0, 1);
  Parameters parameters(layout, at::kFloat), gradients(layout, at::kFloat);
  parameters.Initialize(1);
  MoeLayer layer(model, 0, parameters, parameters, MoeOptions{}, *collectives);
  const at::Tensor x = at::randn({kTokens, width}), dy = at::randn({kTokens, width});
  const LayerProducts products(width, experts);
  // In turn, so that a disturbance meets both.
  std::vector<double> layer_seconds, gemm_seconds;
  for (int round = 0; round < kRounds; ++round) {
    gemm_seconds.push_back(TimeOf(1, [&] { products.Run(); }));
    layer_seconds.push_back(TimeOf(1, [&] {
      MoeLayer::SavedPtr saved;
      MoeStepStats stats;
      std::vector<std::vector<at::Tensor>> units;
      layer.Forward(x, kUnitTokens, /*keep_activations=*/true, &saved, &stats);
      layer.Backward(dy, *saved, gradients, &units);
    }));
  }
  return {Median(layer_seconds), Median(gemm_seconds)};
}

}  // namespace diffmoe::bench
