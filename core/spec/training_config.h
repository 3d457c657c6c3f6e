// The training spec as plain structs, for code that may include neither Torch nor Protobuf. Filled
// from a complete (defaults applied, validated) diffmoe.v1.TrainingSpec by spec_convert.h; each
// field's meaning stands in proto/diffmoe/v1/training_spec.proto.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace diffmoe {

enum class Family { kDense, kTokenChoice, kExpertChoice, kDiffMoe };
// Which tokens compete for an expert: those of one sample, of one rank, or of the global batch.
enum class PoolScope { kSample, kRank, kGlobal };
enum class Activation { kGelu, kSwiglu };

struct ModelConfig {
  Family family = Family::kDiffMoe;
  int64_t image_size = 32;
  int64_t channels = 1;
  int64_t patch_size = 4;
  int64_t width = 192;
  int64_t depth = 6;
  int64_t heads = 6;
  double mlp_ratio = 4;
  Activation activation = Activation::kGelu;  // of every feed-forward layer
  int64_t classes = 10;
  int64_t experts = 8;
  double expert_width_ratio = 1;        // hidden width of an expert over that of a dense block
  int64_t shared_experts = 0;           // feed-forward layers that every token passes
  double capacity = 1;                  // diffmoe, expert_choice
  int64_t top_k = 1;                    // token_choice: experts per token
  PoolScope pool = PoolScope::kGlobal;  // of the expert's choice; sample for expert_choice
  int64_t moe_every = 2;
  double time_scale = 1000;
  bool learn_sigma = false;  // twice the output channels; the second half is the variance of DDPM

  int64_t out_channels() const { return learn_sigma ? 2 * channels : channels; }
  int64_t tokens_per_sample() const {
    return (image_size / patch_size) * (image_size / patch_size);
  }
  int64_t hidden() const { return static_cast<int64_t>(mlp_ratio * static_cast<double>(width)); }
  int64_t expert_hidden() const {
    return static_cast<int64_t>(mlp_ratio * expert_width_ratio * static_cast<double>(width));
  }
  // Of the one layer that stands for all shared experts: GELU of twice the dense width for diffmoe,
  // SwiGLU of shared_experts * width for the others.
  int64_t shared_hidden() const {
    return family == Family::kDiffMoe ? 2 * hidden() : shared_experts * width;
  }
  bool HasExperts() const { return family != Family::kDense; }
  bool IsMoeBlock(int64_t block) const { return HasExperts() && (block + 1) % moe_every == 0; }
};

enum class DataFormat { kIdx, kFolder };
enum class Resize { kCrop, kPad };

struct DataConfig {
  DataFormat format = DataFormat::kIdx;
  std::string path;
  std::string split = "train";
  Resize resize = Resize::kCrop;
  bool flip = false;
  int64_t max_bad_files = 10;
};

enum class ProcessKind { kRectifiedFlow, kDdpm };
enum class TimeSampling { kUniform, kLogitNormal };

struct DiffusionConfig {
  ProcessKind process = ProcessKind::kRectifiedFlow;
  TimeSampling time_sampling = TimeSampling::kLogitNormal;
  double label_dropout = 0.1;
};

struct OptimizerConfig {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  int64_t warmup_steps = 0;
  double final_ratio = 1;
  double clip_norm = 0;
  double ema_decay = 0.9999;
  bool ema_warmup = true;  // the decay rises to ema_decay: min(ema_decay, (1 + s) / (10 + s))
};

enum class DeviceKind { kCpu, kCuda };
enum class Precision { kFp32, kBf16 };

enum class InferenceRule { kPerToken, kBatchTopK };
enum class ThresholdInit { kQuantile, kZero };

// Only to reproduce the published code; the defaults are ours.
struct CompatibilityConfig {
  InferenceRule inference_rule = InferenceRule::kPerToken;
  ThresholdInit threshold_init = ThresholdInit::kQuantile;
  bool sum_predictor_loss_over_layers = false;  // false: mean over layers
  bool round_capacity_down = false;             // false: remainders go to the first experts
};

struct TrainingConfig {
  std::string name;
  ModelConfig model;
  DataConfig data;
  DiffusionConfig diffusion;
  OptimizerConfig optimizer;
  int64_t steps = 1;
  int64_t global_batch = 1;
  uint64_t seed = 0;
  int64_t unit_samples = 2;
  int64_t accumulation = 1;   // microbatches per step; the pool is the microbatch
  bool recompute = false;     // activations are computed again in the backward pass
  bool deterministic = true;  // false: one unit per rank, sums in the order that is fastest
  Precision precision = Precision::kFp32;
  std::optional<double> minutes;
  std::optional<std::string> initial_weights;  // safetensors file with the weights of step 0
  int64_t ranks = 1;
  int64_t expert_parallel = 0;  // ranks over which the experts are split; 0: all
  DeviceKind device = DeviceKind::kCpu;
  double step_budget_seconds = 60;
  int64_t max_restarts = 5;
  int64_t checkpoint_every_steps = 500;
  int64_t checkpoint_keep = 3;
  CompatibilityConfig compatibility;
};

}  // namespace diffmoe
