#include "core/model/state_dict.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/model/parameter_list.h"

namespace diffmoe {
namespace {

using Iterator = std::vector<StateTensor>::iterator;

// Moves the tensors of [begin, end) whose names contain `part` to the end of the range.
void MoveBack(Iterator begin, Iterator end, const std::string& part) {
  std::stable_partition(
      begin, end, [&](const StateTensor& tensor) { return !absl::StrContains(tensor.name, part); });
}

// From our order (experts last) to the published one.
void OrderBlock(const ModelConfig& model, Iterator begin, Iterator end) {
  if (model.family == Family::kTokenChoice) MoveBack(begin, end, ".mlp.gate.");
  MoveBack(begin, end, ".mlp.shared_experts.");
  MoveBack(begin, end, ".mlp.capacity_predictor.");
  MoveBack(begin, end, ".adaLN_modulation.");
}

}  // namespace

int64_t StateTensor::elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

std::vector<StateTensor> DescribeStateDict(const ModelConfig& model) {
  std::vector<StateTensor> list;
  list.push_back(
      {"pos_embed", {1, model.tokens_per_sample(), model.width}, StateRole::kPositionTable, -1});
  for (const ParameterInfo& info : DescribeParameters(model)) {
    list.push_back({info.name, info.shape, StateRole::kParameter, info.block});
    if (model.family == Family::kDiffMoe && absl::EndsWith(info.name, ".mlp.gate_weight")) {
      const std::string prefix = absl::StrCat("blocks.", info.block, ".mlp.");
      list.push_back(
          {prefix + "expert_threshold", {model.experts}, StateRole::kThreshold, info.block});
      list.push_back({prefix + "ema_decay", {1}, StateRole::kThresholdDecay, info.block});
    }
  }
  for (auto begin = list.begin(); begin != list.end();) {
    const auto end = std::find_if(
        begin, list.end(), [&](const StateTensor& tensor) { return tensor.block != begin->block; });
    if (begin->block >= 0) {
      OrderBlock(model, begin, end);
    } else if (begin != list.begin()) {
      MoveBack(begin, end, "final_layer.adaLN_modulation.");
    }
    begin = end;
  }
  return list;
}

}  // namespace diffmoe
