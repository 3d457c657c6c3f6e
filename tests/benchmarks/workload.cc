#include "tests/benchmarks/workload.h"

#include <stdexcept>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/model/parameters.h"

namespace diffmoe::bench {
namespace {

// S: width 384, depth 12. `side` in latent pixels of 4 channels; batch 32, 512 rows a unit.
TrainingConfig SmallModel(Family family, int64_t experts, int64_t side) {
  TrainingConfig config;
  ModelConfig& model = config.model;
  model.family = family;
  model.image_size = side;
  model.channels = 4;
  model.patch_size = 2;
  model.width = 384;
  model.depth = 12;
  model.heads = 6;
  model.experts = experts;
  model.classes = 1000;
  config.global_batch = 32;
  config.unit_samples = 512 / model.tokens_per_sample();
  return config;
}

TrainingConfig Demo() {
  TrainingConfig config;
  config.model = {};
  config.global_batch = 32;
  config.unit_samples = 8;
  return config;
}

std::vector<Workload> AllWorkloads() {
  return {{"demo", Demo(), 10, 0.60, 0.55, true},
          {"s-e8", SmallModel(Family::kDiffMoe, 8, 16), 4, 0.70, 0.62, true},
          {"s-e16", SmallModel(Family::kDiffMoe, 16, 16), 4, 0.65, {}, false},
          {"s-e8-32", SmallModel(Family::kDiffMoe, 8, 32), 2, 0.70, 0.68, false},
          {"dense-s", SmallModel(Family::kDense, 8, 32), 2, {}, {}, false}};
}

// Multiply-adds per image that a weight takes part in.
double UsesPerImage(const ModelConfig& model, const ParameterInfo& weight) {
  const double tokens = static_cast<double>(model.tokens_per_sample());
  if (weight.shape.size() < 2 || absl::StrContains(weight.name, "embedding_table")) return 0;
  if (absl::StrContains(weight.name, "t_embedder") || absl::StrContains(weight.name, "adaLN")) {
    return 1;
  }
  if (weight.kind == ParameterKind::kExpert) {
    const double per_token =
        model.family == Family::kTokenChoice ? static_cast<double>(model.top_k) : model.capacity;
    return tokens * per_token / static_cast<double>(model.experts);
  }
  return tokens;
}

}  // namespace

Workload MakeWorkload(const std::string& name) {
  absl::string_view base = name;
  const bool fast = absl::ConsumeSuffix(&base, "+fast");
  for (Workload& workload : AllWorkloads()) {
    if (workload.name != base) continue;
    workload.name = name;
    workload.config.deterministic = !fast;
    workload.config.steps = 1000;
    workload.config.optimizer.learning_rate = 1e-4;
    workload.config.optimizer.clip_norm = 1;
    return workload;
  }
  throw std::invalid_argument(
      absl::StrCat("no workload '", name, "'; there are ", absl::StrJoin(WorkloadNames(), ", ")));
}

const std::vector<std::string>& WorkloadNames() {
  static const std::vector<std::string> names{"demo", "s-e8", "s-e16", "s-e8-32", "dense-s"};
  return names;
}

double FlopsPerImage(const ModelConfig& model) {
  const double tokens = static_cast<double>(model.tokens_per_sample());
  // Attention: scores and mixing.
  double multiply_adds =
      static_cast<double>(model.depth) * 2 * tokens * tokens * static_cast<double>(model.width);
  for (const ParameterInfo& weight : DescribeParameters(model)) {
    multiply_adds += static_cast<double>(weight.elements()) * UsesPerImage(model, weight);
  }
  return 3 * 2 * multiply_adds;
}

int64_t StateBytes(const TrainingConfig& config, int rank, int ranks) {
  const ParameterLayout layout(config.model, rank, ranks);
  const int64_t elements = 2 * layout.dense_elements() + 3 * layout.slice_elements() +
                           2 * layout.expert_elements() + 3 * layout.owned_elements();
  return 4 * elements;
}

}  // namespace diffmoe::bench
