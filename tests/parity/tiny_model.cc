#include "tests/parity/tiny_model.h"

namespace diffmoe {

std::string FileNameOf(Family family) {
  switch (family) {
    case Family::kDense:
      return "dense";
    case Family::kTokenChoice:
      return "tc";
    case Family::kExpertChoice:
      return "ec";
    case Family::kDiffMoe:
      return "diffmoe";
  }
  return "";
}

TrainingConfig TinyConfig(Family family) {
  TrainingConfig config;
  config.model.family = family;
  config.model.image_size = 8;
  config.model.channels = 4;
  config.model.patch_size = 2;
  config.model.width = 48;
  config.model.depth = 4;
  config.model.heads = 4;
  config.model.experts = 4;
  config.model.pool = family == Family::kExpertChoice ? PoolScope::kSample : PoolScope::kGlobal;
  config.model.time_scale = 1;
  config.model.learn_sigma = true;
  config.global_batch = 4;
  config.unit_samples = 2;
  config.steps = 10;
  config.compatibility.threshold_init = ThresholdInit::kZero;
  config.compatibility.sum_predictor_loss_over_layers = true;
  return config;
}

void LoadTinyWeights(Family family, const Parameters& parameters) {
  const Fixture weights("model_" + FileNameOf(family) + "_weights");
  for (const ParameterInfo& info : parameters.layout().infos()) {
    parameters.at(info.name).detach().copy_(weights.at(info.name));
  }
}

std::vector<std::vector<float>> TinyThresholds(Family family) {
  if (!TinyConfig(family).model.HasExperts()) return {};
  if (family != Family::kDiffMoe) return {{}, {}};
  const Fixture weights("model_diffmoe_weights");
  std::vector<std::vector<float>> thresholds;
  for (const std::string block : {"1", "3"}) {
    const at::Tensor tau = weights.at("blocks." + block + ".mlp.expert_threshold");
    thresholds.emplace_back(tau.data_ptr<float>(), tau.data_ptr<float>() + tau.numel());
  }
  return thresholds;
}

std::unique_ptr<Denoiser> TinyDenoiser(Family family, at::ScalarType dtype, InferenceRule rule) {
  MoeOptions options;
  options.inference_rule = rule;
  auto denoiser = std::make_unique<Denoiser>(TinyConfig(family).model, dtype, options);
  LoadTinyWeights(family, denoiser->parameters());
  denoiser->SetThresholds(TinyThresholds(family));
  return denoiser;
}

}  // namespace diffmoe
