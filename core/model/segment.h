// The per-sample part of the network between two pool-wide MoE layers. A segment knows nothing of
// other samples or ranks: it is an ordinary differentiable function of its inputs and of the dense
// parameters. Source: DiT blocks with adaLN-Zero (arXiv 2212.09748).
//
//   images, t, labels -> [embed, dense blocks, attention half of the MoE block] -> MoE -> [rest,
//   dense blocks, ...] -> ... -> output
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/dit_block.h"
#include "core/model/parameters.h"
#include "core/spec/training_config.h"

namespace diffmoe {

// What crosses a MoE layer, for one unit of b samples.
struct SegmentState {
  at::Tensor residual;      // [b, S, D] residual stream before the MoE output is added
  at::Tensor moe_input;     // [b, S, D] normalised and modulated tokens
  at::Tensor gate;          // [b, D] adaLN gate of the MoE output
  at::Tensor conditioning;  // [b, D] SiLU of the time and label embedding
};

struct UnitInput {
  at::Tensor images;    // [b, C, H, W] noisy images
  at::Tensor sinusoid;  // [b, 256] TimeSinusoid of the scaled time
  at::Tensor labels;    // [b] int64, `classes` = null class
};

// Segments of one model; segment i ends in front of the i-th MoE layer, the last one ends in the
// output.
class Segments {
 public:
  // Keeps references: `parameters` must outlive this object. Takes the tensors of `parameters` as
  // they are now (call Parameters::RequireGradients first when training).
  Segments(const ModelConfig& model, const Parameters& parameters);

  // Inference: from now on the layers use packed weights (core/kernels/packed_linear.h), a copy of
  // those of now.
  void Pack();

  int64_t count() const { return static_cast<int64_t>(moe_blocks_.size()) + 1; }
  // Index of the block that holds the i-th MoE layer.
  int64_t moe_block(int64_t i) const { return moe_blocks_[static_cast<size_t>(i)]; }
  int64_t moe_layers() const { return static_cast<int64_t>(moe_blocks_.size()); }

  // Segment 0. When the model has no MoE layer, use RunAll's last part: `Output` of the result.
  SegmentState First(const UnitInput& input) const;
  // Segment i in [1, moe_layers()): from the state in front of MoE layer i - 1 and its output y [b,
  // S, D].
  SegmentState Next(int64_t i, const SegmentState& state, const at::Tensor& y) const;
  // The last segment: [b, out_channels, H, W].
  at::Tensor Last(const SegmentState& state, const at::Tensor& y) const;
  // A model without MoE layers in one call.
  at::Tensor Dense(const UnitInput& input) const;

  // Dense parameters used by segment i, in canonical order.
  const std::vector<at::Tensor>& parameters_of(int64_t i) const {
    return segment_parameters_[static_cast<size_t>(i)];
  }
  // Their places in the dense buffer, in the same order.
  const std::vector<ParameterPlace>& places_of(int64_t i) const {
    return segment_places_[static_cast<size_t>(i)];
  }

 private:
  at::Tensor Embed(const UnitInput& input, at::Tensor* conditioning) const;
  // [side * side, D]; sides other than the model's extend its grid of positions.
  at::Tensor PositionsOf(int64_t side) const;
  SegmentState UntilMoe(int64_t first_block, at::Tensor x, const at::Tensor& conditioning) const;
  at::Tensor Output(const at::Tensor& x, const at::Tensor& conditioning) const;
  void AssignParameters(const Parameters& parameters);

  const ModelConfig model_;
  std::vector<int64_t> moe_blocks_;
  LinearLayer patch_, time_in_, time_out_, final_modulation_, final_;
  at::Tensor label_table_, positions_;
  std::vector<DitBlock> blocks_;
  std::vector<std::vector<at::Tensor>> segment_parameters_;
  std::vector<std::vector<ParameterPlace>> segment_places_;
};

}  // namespace diffmoe
