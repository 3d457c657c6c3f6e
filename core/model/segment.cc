#include "core/model/segment.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/silu.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/model/embedding.h"
#include "core/model/fused_ops.h"

namespace diffmoe {
Segments::Segments(const ModelConfig& model, const Parameters& parameters) : model_(model) {
  const auto linear = [&](const std::string& name) {
    return LinearLayer{parameters.at(name + ".weight"), parameters.at(name + ".bias")};
  };
  patch_ = linear("x_embedder.proj");
  time_in_ = linear("t_embedder.mlp.0");
  time_out_ = linear("t_embedder.mlp.2");
  label_table_ = parameters.at("y_embedder.embedding_table.weight");
  final_modulation_ = linear("final_layer.adaLN_modulation.1");
  final_ = linear("final_layer.linear");
  // The published code stores the table in fp32, also in its fp64 runs.
  positions_ = PositionTable(model.image_size / model.patch_size, model.width)
                   .to(at::kFloat)
                   .to(parameters.dense().scalar_type());
  for (int64_t i = 0; i < model.depth; ++i) {
    const std::string prefix = absl::StrCat("blocks.", i, ".");
    DitBlock block;
    block.qkv = linear(prefix + "attn.qkv");
    block.proj = linear(prefix + "attn.proj");
    block.modulation = linear(prefix + "adaLN_modulation.1");
    block.activation = model.activation;
    block.heads = model.heads;
    if (model.IsMoeBlock(i)) {
      moe_blocks_.push_back(i);
    } else if (model.activation == Activation::kSwiglu) {
      block.gate.weight = parameters.at(prefix + "mlp.gate_proj.weight");
      block.up.weight = parameters.at(prefix + "mlp.up_proj.weight");
      block.down.weight = parameters.at(prefix + "mlp.down_proj.weight");
    } else {
      block.fc1 = linear(prefix + "mlp.fc1");
      block.fc2 = linear(prefix + "mlp.fc2");
    }
    blocks_.push_back(block);
  }
  AssignParameters(parameters);
}

void Segments::AssignParameters(const Parameters& parameters) {
  segment_parameters_.resize(moe_blocks_.size() + 1);
  segment_places_.resize(moe_blocks_.size() + 1);
  for (const ParameterPlace& place : parameters.layout().dense()) {
    const ParameterInfo& info = *place.info;
    size_t segment = 0;
    if (absl::StartsWith(info.name, "final_layer.")) {
      segment = moe_blocks_.size();
    } else if (info.block >= 0) {
      while (segment < moe_blocks_.size() && info.block > moe_blocks_[segment]) ++segment;
    }
    // Gate, predictor and shared expert belong to the MoE layer itself.
    if (info.block >= 0 && model_.IsMoeBlock(info.block) && absl::StrContains(info.name, ".mlp.")) {
      continue;
    }
    segment_parameters_[segment].push_back(parameters.at(info.name));
    segment_places_[segment].push_back(place);
  }
}

void Segments::Pack() {
  patch_.packed = std::make_shared<PackedLinear>(patch_.weight.flatten(1), patch_.bias);
  for (LinearLayer* layer : {&time_in_, &time_out_, &final_modulation_, &final_}) layer->Pack();
  for (DitBlock& block : blocks_) {
    for (LinearLayer* layer : LinearLayersOf(block)) layer->Pack();
  }
}

at::Tensor Segments::PositionsOf(int64_t side) const {
  if (side == model_.image_size / model_.patch_size) return positions_;
  return PositionTable(side, model_.width).to(at::kFloat).to(positions_.scalar_type());
}

at::Tensor Segments::Embed(const UnitInput& input, at::Tensor* conditioning) const {
  const at::Tensor x = EmbedPatches(patch_, input.images)
                           .add(PositionsOf(input.images.size(-1) / model_.patch_size));
  const at::Tensor time = EmbedTime(time_in_, time_out_, input.sinusoid.to(x.scalar_type()));
  *conditioning = at::silu(time.add(at::embedding(label_table_, input.labels)));
  return x;
}

SegmentState Segments::UntilMoe(int64_t first_block, at::Tensor x,
                                const at::Tensor& conditioning) const {
  size_t i = static_cast<size_t>(first_block);
  for (; !model_.IsMoeBlock(static_cast<int64_t>(i)); ++i) {
    x = RunDenseBlock(blocks_[i], x, conditioning);
  }
  const AttendedTokens tokens = RunAttentionHalf(blocks_[i], x, conditioning);
  return {tokens.residual, tokens.input, tokens.gate, conditioning};
}

SegmentState Segments::First(const UnitInput& input) const {
  at::Tensor conditioning;
  const at::Tensor x = Embed(input, &conditioning);
  return UntilMoe(0, x, conditioning);
}

SegmentState Segments::Next(int64_t i, const SegmentState& state, const at::Tensor& y) const {
  return UntilMoe(moe_block(i - 1) + 1, AddGated(state.residual, y, state.gate),
                  state.conditioning);
}

at::Tensor Segments::Last(const SegmentState& state, const at::Tensor& y) const {
  at::Tensor x = AddGated(state.residual, y, state.gate);
  for (size_t i = static_cast<size_t>(moe_blocks_.back()) + 1; i < blocks_.size(); ++i) {
    x = RunDenseBlock(blocks_[i], x, state.conditioning);
  }
  return Output(x, state.conditioning);
}

at::Tensor Segments::Dense(const UnitInput& input) const {
  at::Tensor conditioning;
  at::Tensor x = Embed(input, &conditioning);
  for (const DitBlock& block : blocks_) x = RunDenseBlock(block, x, conditioning);
  return Output(x, conditioning);
}

at::Tensor Segments::Output(const at::Tensor& x, const at::Tensor& conditioning) const {
  return Unpatchify(RunFinalLayer(final_modulation_, final_, x, conditioning), model_.patch_size,
                    model_.out_channels());
}

}  // namespace diffmoe
