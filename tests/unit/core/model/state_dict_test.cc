#include "core/model/state_dict.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "core/model/parameter_list.h"

namespace diffmoe {
namespace {

ModelConfig Small(Family family) {
  ModelConfig model;
  model.family = family;
  model.width = 16;
  model.depth = 2;
  model.experts = 4;
  return model;
}

// Names behind "blocks.1.mlp." without the experts but the first, in canonical order, with shapes.
std::vector<std::pair<std::string, std::vector<int64_t>>> MoeLayer(const ModelConfig& model) {
  const std::string prefix = "blocks.1.mlp.";
  std::vector<std::pair<std::string, std::vector<int64_t>>> layer;
  for (const ParameterInfo& info : DescribeParameters(model)) {
    if (info.name.starts_with(prefix) && info.expert <= 0) {
      layer.emplace_back(info.name.substr(prefix.size()), info.shape);
    }
  }
  return layer;
}

using Layer = std::vector<std::pair<std::string, std::vector<int64_t>>>;

TEST(ParameterList, SharedExpertsStandBeforeTheExperts) {
  ModelConfig model = Small(Family::kTokenChoice);
  model.shared_experts = 2;
  EXPECT_EQ(MoeLayer(model), (Layer{{"gate.weight", {4, 16}},
                                    {"shared_experts.gate_proj.weight", {32, 16}},
                                    {"shared_experts.up_proj.weight", {32, 16}},
                                    {"shared_experts.down_proj.weight", {16, 32}},
                                    {"experts.0.fc1.weight", {64, 16}},
                                    {"experts.0.fc1.bias", {64}},
                                    {"experts.0.fc2.weight", {16, 64}},
                                    {"experts.0.fc2.bias", {16}}}));
  model = Small(Family::kDiffMoe);
  model.shared_experts = 1;
  model.activation = Activation::kSwiglu;  // the shared layer of diffmoe stays GELU
  EXPECT_EQ(MoeLayer(model), (Layer{{"gate_weight", {4, 16}},
                                    {"capacity_predictor.0.weight", {16, 16}},
                                    {"capacity_predictor.0.bias", {16}},
                                    {"capacity_predictor.2.weight", {4, 16}},
                                    {"capacity_predictor.2.bias", {4}},
                                    {"shared_experts.fc1.weight", {128, 16}},
                                    {"shared_experts.fc1.bias", {128}},
                                    {"shared_experts.fc2.weight", {16, 128}},
                                    {"shared_experts.fc2.bias", {16}},
                                    {"experts.0.gate_proj.weight", {64, 16}},
                                    {"experts.0.up_proj.weight", {64, 16}},
                                    {"experts.0.down_proj.weight", {16, 64}}}));
}

TEST(ParameterList, FineGrainedExpertsAreNarrower) {
  ModelConfig model = Small(Family::kExpertChoice);
  model.expert_width_ratio = 0.25;
  EXPECT_EQ(MoeLayer(model), (Layer{{"gate_weight", {4, 16}},
                                    {"experts.0.fc1.weight", {16, 16}},
                                    {"experts.0.fc1.bias", {16}},
                                    {"experts.0.fc2.weight", {16, 16}},
                                    {"experts.0.fc2.bias", {16}}}));
}

TEST(ParameterList, KindsSayWhoHoldsWhat) {
  ModelConfig model = Small(Family::kDiffMoe);
  model.shared_experts = 1;
  for (const ParameterInfo& info : DescribeParameters(model)) {
    const bool predictor = info.name.find("capacity_predictor") != std::string::npos;
    const bool expert = info.name.find(".experts.") != std::string::npos;
    EXPECT_EQ(info.kind, predictor ? ParameterKind::kPredictor
                         : expert  ? ParameterKind::kExpert
                                   : ParameterKind::kDense)
        << info.name;
    EXPECT_EQ(info.expert >= 0, expert) << info.name;
    EXPECT_EQ(info.block >= 0, info.name.starts_with("blocks.")) << info.name;
  }
}

// The initial weights of a seed depend on a parameter's place in the list.
TEST(ParameterList, OrderOfTheFirstModelsStays) {
  const std::vector<std::string> expected = {
      "x_embedder.proj.weight",   "t_embedder.mlp.0.weight",
      "t_embedder.mlp.2.weight",  "y_embedder.",
      "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight",
      "blocks.0.adaLN",           "blocks.0.mlp.fc1.weight",
      "blocks.1.attn.qkv.weight", "blocks.1.adaLN",
      "blocks.1.mlp.gate_weight", "blocks.1.mlp.capacity_predictor.0",
      "blocks.1.mlp.experts.0",   "blocks.1.mlp.experts.3",
      "final_layer.adaLN",        "final_layer.linear.bias"};
  size_t next = 0;
  for (const ParameterInfo& info : DescribeParameters(Small(Family::kDiffMoe))) {
    if (next < expected.size() && info.name.starts_with(expected[next])) ++next;
  }
  EXPECT_EQ(next, expected.size()) << "not in its place: " << expected[next];
}

TEST(StateDict, HoldsEveryParameterOnce) {
  for (const Family family :
       {Family::kDense, Family::kTokenChoice, Family::kExpertChoice, Family::kDiffMoe}) {
    ModelConfig model = Small(family);
    model.shared_experts = family == Family::kDense ? 0 : 1;
    std::map<std::string, std::vector<int64_t>> ours, published;
    for (const ParameterInfo& info : DescribeParameters(model)) ours[info.name] = info.shape;
    size_t parameters = 0;
    for (const StateTensor& tensor : DescribeStateDict(model)) {
      if (tensor.role != StateRole::kParameter) continue;
      published[tensor.name] = tensor.shape;
      ++parameters;
    }
    EXPECT_EQ(published, ours);
    EXPECT_EQ(parameters, ours.size());
  }
}

}  // namespace
}  // namespace diffmoe
