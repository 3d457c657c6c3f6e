#include "core/spec/spec_convert.h"

namespace diffmoe {
namespace {

ModelConfig ToModelConfig(const v1::ModelSpec& spec) {
  ModelConfig config;
  config.family = spec.family() == v1::FAMILY_DENSE ? Family::kDense : Family::kDiffMoe;
  config.image_size = spec.image_size();
  config.channels = spec.channels();
  config.patch_size = spec.patch_size();
  config.width = spec.width();
  config.depth = spec.depth();
  config.heads = spec.heads();
  config.mlp_ratio = spec.mlp_ratio();
  config.classes = spec.classes();
  config.experts = spec.experts();
  config.capacity = spec.capacity();
  config.moe_every = spec.moe_every();
  config.time_scale = spec.time_scale();
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

TrainingConfig ToTrainingConfig(const v1::TrainingSpec& spec) {
  TrainingConfig config;
  config.name = spec.name();
  config.model = ToModelConfig(spec.model());
  config.data = ToDataConfig(spec.data());
  config.diffusion.time_sampling = spec.diffusion().time_sampling() == v1::TIME_SAMPLING_UNIFORM
                                       ? TimeSampling::kUniform
                                       : TimeSampling::kLogitNormal;
  config.diffusion.label_dropout = spec.diffusion().label_dropout();
  config.optimizer = ToOptimizerConfig(spec.optimizer());
  config.steps = spec.train().steps();
  config.global_batch = spec.train().global_batch();
  config.seed = spec.train().seed();
  config.unit_samples = spec.train().unit_samples();
  if (spec.train().has_minutes()) config.minutes = spec.train().minutes();
  config.ranks = spec.parallel().ranks();
  config.device =
      spec.parallel().device() == v1::DEVICE_CUDA ? DeviceKind::kCuda : DeviceKind::kCpu;
  config.step_budget_seconds = spec.parallel().step_budget_seconds();
  config.max_restarts = spec.parallel().max_restarts();
  config.checkpoint_every_steps = spec.checkpoint().every_steps();
  config.checkpoint_keep = spec.checkpoint().keep();
  return config;
}

}  // namespace diffmoe
