// Families, sizes and processes: which fields apply, dependent defaults, rules over several fields.
#include <functional>
#include <string>

#include "core/spec/spec_convert.h"
#include "core/spec/spec_fields.h"
#include "gtest/gtest.h"
#include "tests/unit/core/spec/spec_for_test.h"

namespace diffmoe {
namespace {

using Strings = std::vector<std::string>;

constexpr char kModel[] =
    "name: tiny\n"
    "data: {format: idx, path: /data}\n"
    "train: {steps: 4, global_batch: 16, unit_samples: 2}\n"
    "parallel: {ranks: 2}\n"
    "model:\n"
    "  image_size: 16\n"
    "  patch_size: 4\n"
    "  classes: 10\n";
constexpr char kShape[] = "  width: 64\n  depth: 2\n  heads: 2\n";

// The valid spec with more lines under model, and overrides; "field|description" of each violation.
Strings Check(const std::string& model_lines, const Strings& overrides = {}) {
  SpecDocument document = ParseSpecYaml(std::string(kModel) + model_lines);
  for (const std::string& assignment : overrides) OverrideField(assignment, &document);
  const auto violations = CheckSpecDocument(document);
  // Applied defaults never change the verdict.
  v1::TrainingSpec complete = document.spec;
  ApplyDefaults(&complete);
  if (document.unreadable.empty()) {
    EXPECT_EQ(Texts(ValidateSpec(complete)), Texts(ValidateSpec(document.spec)));
  }
  Strings out;
  for (const auto& violation : violations) {
    out.push_back(violation.field() + "|" + violation.description());
  }
  return out;
}

TrainingConfig ConfigOf(const std::string& model_lines, const Strings& overrides = {}) {
  EXPECT_EQ(Check(model_lines, overrides), Strings{});
  SpecDocument document = ParseSpecYaml(std::string(kModel) + model_lines);
  for (const std::string& assignment : overrides) OverrideField(assignment, &document);
  return ToTrainingConfig(document.spec);
}

TEST(FieldConditions, NameFieldsAndValuesThatExist) {
  int conditions = 0;
  for (const std::string& path : AllSpecFieldPaths()) {
    const v1::FieldRule& rule = RuleOf(*FindSpecField(path));
    if (!rule.required_unless().empty()) {
      EXPECT_NE(FindSpecField(rule.required_unless()), nullptr) << path;
    }
    const FieldCondition condition = ConditionOf(rule);
    if (condition.field.empty()) continue;
    ++conditions;
    const auto* decides = FindSpecField(condition.field);
    ASSERT_NE(decides, nullptr) << path;
    v1::ModelSpec model;
    v1::DiffusionSpec diffusion;
    for (const std::string& value : condition.values) {
      google::protobuf::Message* message = &model;
      if (decides->containing_type() == v1::DiffusionSpec::descriptor()) message = &diffusion;
      EXPECT_TRUE(SetFieldFromText(message, *decides, value).ok()) << path << " " << value;
    }
  }
  EXPECT_GT(conditions, 8);
}

TEST(Size, FillsTheShapeAndYieldsToGivenFields) {
  const ModelConfig xl = ConfigOf("  size: XL\n").model;
  EXPECT_EQ(xl.depth, 28);
  EXPECT_EQ(xl.width, 1152);
  EXPECT_EQ(xl.heads, 16);
  EXPECT_EQ(ConfigOf("  size: S\n").model.width, 384);
  EXPECT_EQ(ConfigOf("  size: B\n").model.heads, 12);
  EXPECT_EQ(ConfigOf("  size: L\n").model.depth, 24);
  const ModelConfig shallow = ConfigOf("  size: B\n  depth: 4\n").model;
  EXPECT_EQ(shallow.depth, 4);
  EXPECT_EQ(shallow.width, 768);
}

TEST(Size, OrTheShapeIsRequired) {
  const std::string rest =
      "is required unless model.size is given: expected a whole number, got nothing";
  EXPECT_EQ(Check(""),
            (Strings{"model.width|" + rest, "model.depth|" + rest, "model.heads|" + rest}));
  EXPECT_EQ(Check("  width: 64\n  heads: 2\n"), Strings{"model.depth|" + rest});
  // No follow-ups about the shape that a bad size would have filled.
  EXPECT_EQ(Check("  size: M\n"), Strings{"model.size|expected one of S, B, L, XL, got \"M\""});
  EXPECT_EQ(Check("  size: S\n  heads: 5\n"),
            Strings{"model.heads|expected a divisor of model.width (384), got 5"});
}

TEST(Family, OnlyItsOwnFieldsMayBeGiven) {
  const std::string shape = kShape;
  const std::string moe = " token_choice, expert_choice, diffmoe and not to dense; got ";
  EXPECT_EQ(Check(shape + "  family: diffmoe\n  top_k: 2\n"),
            Strings{"model.top_k|expected no value, as it applies to model.family token_choice "
                    "and not to diffmoe; got 2"});
  EXPECT_EQ(Check(shape + "  top_k: 1\n"),  // the default family
            Strings{"model.top_k|expected no value, as it applies to model.family token_choice "
                    "and not to diffmoe; got 1"});
  EXPECT_EQ(Check(shape + "  family: token_choice\n  capacity: 1\n  pool: global\n"),
            (Strings{"model.capacity|expected no value, as it applies to model.family "
                     "expert_choice, diffmoe and not to token_choice; got 1",
                     "model.pool|expected no value, as it applies to model.family expert_choice, "
                     "diffmoe and not to token_choice; got global"}));
  EXPECT_EQ(
      Check(shape + "  family: dense\n  experts: 8\n", {"parallel.expert_parallel=2"}),
      (Strings{
          "parallel.expert_parallel|expected no value, as it applies to model.family" + moe + "2",
          "model.experts|expected no value, as it applies to model.family" + moe + "8"}));
  EXPECT_EQ(Check(shape + "  family: expert_choice\n", {"compatibility.inference_rule=batch_topk"}),
            Strings{"compatibility.inference_rule|expected no value, as it applies to "
                    "model.family diffmoe and not to expert_choice; got batch_topk"});
  // A family that can't be read says nothing about the others.
  EXPECT_EQ(Check(shape + "  family: moe\n  top_k: 2\n").size(), 1u);
}

TEST(Family, DependentDefaults) {
  EXPECT_EQ(ConfigOf(kShape).model.pool, PoolScope::kGlobal);
  EXPECT_EQ(ConfigOf(kShape).expert_parallel, 2);
  const TrainingConfig choice = ConfigOf(std::string(kShape) + "  family: expert_choice\n");
  EXPECT_EQ(choice.model.family, Family::kExpertChoice);
  EXPECT_EQ(choice.model.pool, PoolScope::kSample);
  EXPECT_FALSE(choice.model.learn_sigma);
  EXPECT_TRUE(ConfigOf(kShape, {"diffusion.process=ddpm"}).model.learn_sigma);
  EXPECT_FALSE(ConfigOf(std::string(kShape) + "  learn_sigma: false\n", {"diffusion.process=ddpm"})
                   .model.learn_sigma);
  const TrainingConfig dense = ConfigOf(std::string(kShape) + "  family: dense\n");
  EXPECT_FALSE(dense.model.HasExperts());
  EXPECT_EQ(dense.model.shared_experts, 0);
}

TEST(Family, EveryFieldIsCarried) {
  const TrainingConfig config =
      ConfigOf(std::string(kShape) +
                   "  family: token_choice\n  experts: 16\n  expert_width_ratio: 0.25\n"
                   "  shared_experts: 2\n  top_k: 4\n  activation: swiglu\n  moe_every: 1\n",
               {"train.accumulation=2", "train.recompute=true", "train.deterministic=false",
                "train.precision=bf16", "train.initial_weights=/w.safetensors",
                "parallel.expert_parallel=1", "diffusion.process=ddpm"});
  EXPECT_EQ(config.model.family, Family::kTokenChoice);
  EXPECT_EQ(config.model.experts, 16);
  EXPECT_EQ(config.model.expert_hidden(), 64);
  EXPECT_EQ(config.model.shared_hidden(), 128);
  EXPECT_EQ(config.model.top_k, 4);
  EXPECT_EQ(config.model.activation, Activation::kSwiglu);
  EXPECT_EQ(config.model.moe_every, 1);
  EXPECT_EQ(config.accumulation, 2);
  EXPECT_TRUE(config.recompute);
  EXPECT_FALSE(config.deterministic);
  EXPECT_EQ(config.precision, Precision::kBf16);
  EXPECT_EQ(config.initial_weights, "/w.safetensors");
  EXPECT_EQ(config.expert_parallel, 1);
  EXPECT_EQ(config.diffusion.process, ProcessKind::kDdpm);

  const TrainingConfig published =
      ConfigOf(std::string(kShape) + "  pool: rank\n",
               {"compatibility.inference_rule=batch_topk", "compatibility.threshold_init=zero",
                "compatibility.sum_predictor_loss_over_layers=true",
                "compatibility.round_capacity_down=true"});
  EXPECT_EQ(published.model.pool, PoolScope::kRank);
  EXPECT_EQ(published.compatibility.inference_rule, InferenceRule::kBatchTopK);
  EXPECT_EQ(published.compatibility.threshold_init, ThresholdInit::kZero);
  EXPECT_TRUE(published.compatibility.sum_predictor_loss_over_layers);
  EXPECT_TRUE(published.compatibility.round_capacity_down);

  const TrainingConfig plain = ConfigOf(kShape);
  EXPECT_TRUE(plain.deterministic);
  EXPECT_FALSE(plain.initial_weights.has_value());
  EXPECT_EQ(plain.compatibility.inference_rule, InferenceRule::kPerToken);
  EXPECT_EQ(plain.compatibility.threshold_init, ThresholdInit::kQuantile);
}

struct Case {
  const char* name;
  const char* model_lines;
  Strings overrides;
  const char* violation;
};

class FamilyRule : public testing::TestWithParam<Case> {};

TEST_P(FamilyRule, IsReportedOnceWithExpectedAndGot) {
  EXPECT_EQ(Check(std::string(kShape) + GetParam().model_lines, GetParam().overrides),
            Strings{GetParam().violation});
}

INSTANTIATE_TEST_SUITE_P(
    SeveralFields, FamilyRule,
    testing::Values(
        Case{"top_k",
             "  family: token_choice\n  top_k: 9\n",
             {},
             "model.top_k|expected at most model.experts (8), got 9"},
        Case{"shared_diffmoe",
             "  shared_experts: 2\n",
             {},
             "model.shared_experts|expected at most 1 for model.family diffmoe, got 2"},
        Case{"narrow_expert",
             "  expert_width_ratio: 0.001\n",
             {},
             "model.expert_width_ratio|expected an expert of hidden width 1 at least, got 64 "
             "(width) * 4 (mlp_ratio) * 0.001"},
        Case{"expert_parallel",
             "",
             {"parallel.expert_parallel=4"},
             "parallel.expert_parallel|expected a divisor of parallel.ranks (2), got 4"},
        Case{"experts",
             "  experts: 7\n",
             {"parallel.expert_parallel=2"},
             "model.experts|expected a multiple of parallel.expert_parallel (2), over which "
             "experts are split, got 7"},
        Case{"sample_pool",
             "  family: expert_choice\n  experts: 32\n",
             {},
             "model.experts|expected at most the tokens of a sample (1 image * 16 = 16), got 32"},
        Case{"rank_pool",
             "  pool: rank\n  experts: 64\n",
             {"train.accumulation=4", "train.unit_samples=1"},
             "model.experts|expected at most the tokens of a rank (2 images * 16 = 32), got 64"},
        Case{"microbatch_pool",
             "  experts: 128\n",
             {"train.accumulation=4", "train.unit_samples=1"},
             "model.experts|expected at most the tokens of a microbatch (4 images * 16 = 64), got "
             "128"},
        Case{"sample_capacity",
             "  family: expert_choice\n  experts: 16\n  capacity: 0.5\n",
             {},
             "model.capacity|expected at least experts / tokens (1), so that an expert takes at "
             "least one token, got 0.5"},
        Case{"accumulation",
             "",
             {"train.accumulation=3"},
             "train.global_batch|expected a multiple of train.accumulation * parallel.ranks (3 * "
             "2), got 16"},
        Case{"accumulated_units",
             "",
             {"train.accumulation=4", "train.unit_samples=4"},
             "train.unit_samples|expected a divisor of the images per rank and microbatch (16 / 4 "
             "/ 2 = 2), got 4"},
        Case{"accumulated_power",
             "",
             {"train.accumulation=2", "train.global_batch=24", "train.unit_samples=1"},
             "train.unit_samples|expected a power of two of units per rank, got 6 images per rank "
             "and microbatch / 1 = 6 units"},
        Case{"ddpm_times",
             "",
             {"diffusion.process=ddpm", "diffusion.time_sampling=uniform"},
             "diffusion.time_sampling|expected no value, as it applies to diffusion.process "
             "rectified_flow and not to ddpm; got uniform"},
        Case{"weights_path",
             "",
             {"train.initial_weights=w.safetensors"},
             "train.initial_weights|expected an absolute path, got \"w.safetensors\""},
        Case{"weights_up",
             "",
             {"train.initial_weights=/a/../w"},
             "train.initial_weights|expected a path without \"..\", got \"/a/../w\""}),
    [](const auto& test) { return test.param.name; });

TEST(FamilyRule, ExpertsNeedNotBeAMultipleOfRanks) {
  EXPECT_EQ(Check(std::string(kShape) + "  experts: 7\n", {"parallel.expert_parallel=1"}),
            Strings{});
}

}  // namespace
}  // namespace diffmoe
