// Counts, names and shapes of every published model against the lists of this code.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "core/model/parameter_list.h"
#include "core/model/state_dict.h"

namespace diffmoe {
namespace {

nlohmann::json ReadJson(const std::string& name) {
  std::ifstream file(std::string(DIFFMOE_SOURCE_DIR) + "/tests/parity/fixtures/" + name);
  return nlohmann::json::parse(file);
}

Family FamilyOf(const std::string& name) {
  const std::map<std::string, Family> families = {{"dense", Family::kDense},
                                                  {"tc", Family::kTokenChoice},
                                                  {"ec", Family::kExpertChoice},
                                                  {"diffmoe", Family::kDiffMoe}};
  return families.at(name);
}

// The published setting: 32x32 latents of 4 channels, patch 2, 1000 classes, learned variance.
ModelConfig Published(Family family) {
  ModelConfig model;
  model.family = family;
  model.image_size = 32;
  model.channels = 4;
  model.patch_size = 2;
  model.width = 384;
  model.depth = 12;
  model.heads = 6;
  model.classes = 1000;
  model.learn_sigma = true;
  return model;
}

TEST(ParamCounts, EqualThePublishedOnes) {
  const nlohmann::json rows = ReadJson("param_counts.json")["counts"];
  for (const nlohmann::json& row : rows) {
    ModelConfig model = Published(FamilyOf(row["family"]));
    model.depth = row["depth"];
    model.width = row["width"];
    model.heads = row["heads"];
    if (!row["experts"].is_null()) model.experts = row["experts"];
    model.shared_experts = row["shared"];
    model.activation = row["ffn"] == "swiglu" ? Activation::kSwiglu : Activation::kGelu;

    std::map<StateRole, int64_t> elements;
    for (const StateTensor& tensor : DescribeStateDict(model)) {
      elements[tensor.role] += tensor.elements();
    }
    int64_t listed = 0;
    for (const ParameterInfo& info : DescribeParameters(model)) listed += info.elements();

    const int64_t trainable = elements[StateRole::kParameter];
    const int64_t table = elements[StateRole::kPositionTable];
    EXPECT_EQ(trainable, row["trainable"].get<int64_t>()) << row;
    EXPECT_EQ(listed, trainable) << row;
    EXPECT_EQ(table, row["frozen_pos_embed"].get<int64_t>()) << row;
    EXPECT_EQ(trainable + table, row["total"].get<int64_t>()) << row;
    EXPECT_EQ(elements[StateRole::kThreshold] + elements[StateRole::kThresholdDecay],
              row["buffer_elements"].get<int64_t>())
        << row;
  }
  EXPECT_EQ(rows.size(), 84u);
}

TEST(StateDict, HasThePublishedNamesAndShapesInOrder) {
  const struct {
    const char* file;
    Family family;
    int64_t experts;
  } kCases[] = {{"state_dict_dit_s.json", Family::kDense, 8},
                {"state_dict_tc_s_e8.json", Family::kTokenChoice, 8},
                {"state_dict_ec_s_e8.json", Family::kExpertChoice, 8},
                {"state_dict_diffmoe_s_e16.json", Family::kDiffMoe, 16}};
  for (const auto& c : kCases) {
    ModelConfig model = Published(c.family);
    model.experts = c.experts;
    nlohmann::json ours = nlohmann::json::array();
    for (const StateTensor& tensor : DescribeStateDict(model)) {
      ours.push_back({tensor.name, tensor.shape});
    }
    EXPECT_EQ(ours, ReadJson(c.file)) << c.file;
  }
}

}  // namespace
}  // namespace diffmoe
