#include "core/spec/spec_convert.h"

#include "core/spec/validate.h"

namespace diffmoe {
namespace {

Family ToFamily(v1::Family family) {
  switch (family) {
    case v1::FAMILY_DENSE:
      return Family::kDense;
    case v1::FAMILY_TOKEN_CHOICE:
      return Family::kTokenChoice;
    case v1::FAMILY_EXPERT_CHOICE:
      return Family::kExpertChoice;
    default:
      return Family::kDiffMoe;
  }
}

PoolScope ToPoolScope(v1::Pool pool) {
  return pool == v1::POOL_SAMPLE ? PoolScope::kSample
         : pool == v1::POOL_RANK ? PoolScope::kRank
                                 : PoolScope::kGlobal;
}

// Fields that don't apply to the family keep the struct's defaults.
ModelConfig ToModelConfig(const v1::ModelSpec& spec) {
  ModelConfig config;
  config.family = ToFamily(spec.family());
  config.image_size = spec.image_size();
  config.channels = spec.channels();
  config.patch_size = spec.patch_size();
  config.width = spec.width();
  config.depth = spec.depth();
  config.heads = spec.heads();
  config.mlp_ratio = spec.mlp_ratio();
  config.activation =
      spec.activation() == v1::ACTIVATION_SWIGLU ? Activation::kSwiglu : Activation::kGelu;
  config.classes = spec.classes();
  if (spec.has_time_scale()) config.time_scale = spec.time_scale();
  config.learn_sigma = spec.learn_sigma();
  if (spec.has_experts()) config.experts = spec.experts();
  if (spec.has_expert_width_ratio()) config.expert_width_ratio = spec.expert_width_ratio();
  if (spec.has_shared_experts()) config.shared_experts = spec.shared_experts();
  if (spec.has_capacity()) config.capacity = spec.capacity();
  if (spec.has_top_k()) config.top_k = spec.top_k();
  if (spec.has_pool()) config.pool = ToPoolScope(spec.pool());
  if (spec.has_moe_every()) config.moe_every = spec.moe_every();
  return config;
}

DataConfig ToDataConfig(const v1::DataSpec& spec) {
  DataConfig config;
  config.format = spec.format() == v1::DATA_FORMAT_FOLDER ? DataFormat::kFolder : DataFormat::kIdx;
  config.path = spec.path();
  config.split = spec.split();
  config.resize = spec.resize() == v1::RESIZE_PAD ? Resize::kPad : Resize::kCrop;
  config.flip = spec.flip();
  config.max_bad_files = spec.max_bad_files();
  return config;
}

DiffusionConfig ToDiffusionConfig(const v1::DiffusionSpec& spec) {
  DiffusionConfig config;
  config.process = spec.process() == v1::DIFFUSION_PROCESS_DDPM ? ProcessKind::kDdpm
                                                                : ProcessKind::kRectifiedFlow;
  config.time_sampling = spec.time_sampling() == v1::TIME_SAMPLING_UNIFORM
                             ? TimeSampling::kUniform
                             : TimeSampling::kLogitNormal;
  config.label_dropout = spec.label_dropout();
  return config;
}

CompatibilityConfig ToCompatibilityConfig(const v1::CompatibilitySpec& spec) {
  CompatibilityConfig config;
  config.inference_rule = spec.inference_rule() == v1::INFERENCE_RULE_BATCH_TOPK
                              ? InferenceRule::kBatchTopK
                              : InferenceRule::kPerToken;
  config.threshold_init = spec.threshold_init() == v1::THRESHOLD_INIT_ZERO
                              ? ThresholdInit::kZero
                              : ThresholdInit::kQuantile;
  config.sum_predictor_loss_over_layers = spec.sum_predictor_loss_over_layers();
  config.round_capacity_down = spec.round_capacity_down();
  return config;
}

OptimizerConfig ToOptimizerConfig(const v1::OptimizerSpec& spec) {
  OptimizerConfig config;
  config.learning_rate = spec.learning_rate();
  config.beta1 = spec.beta1();
  config.beta2 = spec.beta2();
  config.epsilon = spec.epsilon();
  config.weight_decay = spec.weight_decay();
  config.warmup_steps = spec.warmup_steps();
  config.final_ratio = spec.final_ratio();
  config.clip_norm = spec.clip_norm();
  config.ema_decay = spec.ema_decay();
  return config;
}

}  // namespace

TrainingConfig ToTrainingConfig(v1::TrainingSpec spec) {
  ApplyDefaults(&spec);
  TrainingConfig config;
  config.name = spec.name();
  config.model = ToModelConfig(spec.model());
  config.data = ToDataConfig(spec.data());
  config.diffusion = ToDiffusionConfig(spec.diffusion());
  config.optimizer = ToOptimizerConfig(spec.optimizer());
  const v1::TrainSpec& train = spec.train();
  config.steps = train.steps();
  config.global_batch = train.global_batch();
  config.seed = train.seed();
  config.unit_samples = train.unit_samples();
  config.accumulation = train.accumulation();
  config.recompute = train.recompute();
  config.deterministic = train.deterministic();
  config.precision = train.precision() == v1::PRECISION_BF16 ? Precision::kBf16 : Precision::kFp32;
  if (train.has_minutes()) config.minutes = train.minutes();
  if (train.has_initial_weights()) config.initial_weights = train.initial_weights();
  const v1::ParallelSpec& parallel = spec.parallel();
  config.ranks = parallel.ranks();
  config.expert_parallel =
      parallel.has_expert_parallel() ? parallel.expert_parallel() : parallel.ranks();
  config.device = parallel.device() == v1::DEVICE_CUDA ? DeviceKind::kCuda : DeviceKind::kCpu;
  config.step_budget_seconds = parallel.step_budget_seconds();
  config.max_restarts = parallel.max_restarts();
  config.checkpoint_every_steps = spec.checkpoint().every_steps();
  config.checkpoint_keep = spec.checkpoint().keep();
  config.compatibility = ToCompatibilityConfig(spec.compatibility());
  return config;
}

}  // namespace diffmoe
