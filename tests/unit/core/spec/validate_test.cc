#include "core/spec/validate.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "core/spec/spec_convert.h"
#include "core/spec/spec_fields.h"
#include "gtest/gtest.h"
#include "tests/unit/core/spec/spec_for_test.h"

namespace diffmoe {
namespace {

using Strings = std::vector<std::string>;

Strings CheckWith(const std::function<void(v1::TrainingSpec&)>& change) {
  v1::TrainingSpec spec = ValidSpec();
  change(spec);
  return Texts(ValidateSpec(spec));
}

TEST(ValidateSpec, AcceptsAValidSpec) { EXPECT_EQ(Texts(ValidateSpec(ValidSpec())), Strings{}); }

TEST(ValidateSpec, EmptySpecNamesEveryRequiredSection) {
  EXPECT_EQ(Texts(ValidateSpec({})),
            (Strings{"name|0|is required: expected text, got nothing",
                     "model|0|is required: expected a mapping, got nothing",
                     "data|0|is required: expected a mapping, got nothing",
                     "train|0|is required: expected a mapping, got nothing"}));
}

TEST(ValidateSpec, ReportsTheSameBeforeAndAfterDefaults) {
  v1::TrainingSpec spec = ValidSpec();
  spec.mutable_parallel()->set_ranks(8);
  spec.mutable_train()->clear_global_batch();
  v1::TrainingSpec complete = spec;
  ApplyDefaults(&complete);
  EXPECT_EQ(Texts(ValidateSpec(spec)), Texts(ValidateSpec(complete)));
  EXPECT_EQ(ValidateSpec(spec).size(), 2u);
}

TEST(ApplyDefaults, EveryDefaultFitsItsFieldAndItsRule) {
  v1::TrainingSpec spec = ValidSpec();
  ApplyDefaults(&spec);
  EXPECT_EQ(Texts(ValidateSpec(spec)), Strings{});
  for (const std::string& path : AllSpecFieldPaths()) {
    const auto* field = FindSpecField(path);
    ASSERT_NE(field, nullptr) << path;
    EXPECT_FALSE(RuleOf(*field).doc().empty()) << path;
    if (!RuleOf(*field).has_default_value()) continue;
    std::unique_ptr<google::protobuf::Message> section(
        google::protobuf::MessageFactory::generated_factory()
            ->GetPrototype(field->containing_type())
            ->New());
    EXPECT_TRUE(SetFieldFromText(section.get(), *field, RuleOf(*field).default_value()).ok())
        << path;
  }
}

TEST(ApplyDefaults, FillsAbsentSectionsAndKeepsGivenValues) {
  v1::TrainingSpec spec = ValidSpec();
  ApplyDefaults(&spec);
  EXPECT_EQ(spec.model().family(), v1::FAMILY_DIFFMOE);
  EXPECT_EQ(spec.model().channels(), 1);
  EXPECT_EQ(spec.optimizer().learning_rate(), 1e-4);
  EXPECT_EQ(spec.checkpoint().keep(), 3);
  EXPECT_EQ(spec.diffusion().time_sampling(), v1::TIME_SAMPLING_LOGIT_NORMAL);
  EXPECT_FALSE(spec.train().has_minutes());
}

struct Case {
  const char* name;
  std::function<void(v1::TrainingSpec&)> change;
  const char* violation;
};

class OneRule : public testing::TestWithParam<Case> {};

TEST_P(OneRule, IsReportedOnceWithExpectedAndGot) {
  EXPECT_EQ(CheckWith(GetParam().change), Strings{GetParam().violation});
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, OneRule,
    testing::Values(
        Case{"name_upper", [](auto& s) { s.set_name("Tiny"); },
             "name|0|expected lower-case letters, digits and '-', a letter first, got \"Tiny\""},
        Case{"name_digit_first", [](auto& s) { s.set_name("1tiny"); },
             "name|0|expected lower-case letters, digits and '-', a letter first, got \"1tiny\""},
        Case{"name_slash", [](auto& s) { s.set_name("a/b"); },
             "name|0|expected lower-case letters, digits and '-', a letter first, got \"a/b\""},
        Case{"name_empty", [](auto& s) { s.set_name(""); },
             "name|0|expected lower-case letters, digits and '-', a letter first, got \"\""},
        Case{"name_newline", [](auto& s) { s.set_name("a\nb"); },
             "name|0|expected UTF-8 text without control characters, got \"a\\x0ab\""},
        Case{"name_long", [](auto& s) { s.set_name(std::string(41, 'a')); },
             "name|0|expected at most 40 bytes, got 41"},
        Case{"path_relative", [](auto& s) { s.mutable_data()->set_path("data"); },
             "data.path|0|expected an absolute path, got \"data\""},
        Case{"path_up", [](auto& s) { s.mutable_data()->set_path("/data/../etc"); },
             "data.path|0|expected a path without \"..\", got \"/data/../etc\""},
        Case{"path_nul", [](auto& s) { s.mutable_data()->set_path(std::string("/a\0b", 4)); },
             "data.path|0|expected UTF-8 text without control characters, got \"/a\\x00b\""},
        Case{"path_utf8", [](auto& s) { s.mutable_data()->set_path("/a\xc0\xaf"); },
             "data.path|0|expected UTF-8 text without control characters, got \"/a\\xc0\\xaf\""},
        Case{"split", [](auto& s) { s.mutable_data()->set_split("test"); },
             "data.split|0|expected train or t10k, got \"test\""},
        Case{"below_min", [](auto& s) { s.mutable_model()->set_depth(0); },
             "model.depth|0|expected at least 1, got 0"},
        Case{"above_max", [](auto& s) { s.mutable_model()->set_classes(100001); },
             "model.classes|0|expected at most 100000, got 100001"},
        Case{"not_above", [](auto& s) { s.mutable_optimizer()->set_learning_rate(-1); },
             "optimizer.learning_rate|0|expected more than 0, got -1"},
        Case{"nan", [](auto& s) { s.mutable_optimizer()->set_learning_rate(kNan); },
             "optimizer.learning_rate|0|expected a finite number, got nan"},
        Case{"infinite", [](auto& s) { s.mutable_train()->set_minutes(kInf); },
             "train.minutes|0|expected a finite number, got inf"},
        Case{"enum_unknown",
             [](auto& s) { s.mutable_model()->set_family(static_cast<v1::Family>(77)); },
             "model.family|0|expected one of dense, token_choice, expert_choice, diffmoe, got "
             "number 77"},
        Case{"enum_unspecified",
             [](auto& s) { s.mutable_data()->set_format(v1::DATA_FORMAT_UNSPECIFIED); },
             "data.format|0|expected one of idx, folder, got unspecified"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    SeveralFields, OneRule,
    testing::Values(
        Case{"patch", [](auto& s) { s.mutable_model()->set_patch_size(5); },
             "model.image_size|0|expected a multiple of model.patch_size (5), got 16"},
        Case{"heads", [](auto& s) { s.mutable_model()->set_heads(3); },
             "model.heads|0|expected a divisor of model.width (64), got 3"},
        Case{"width", [](auto& s) { s.mutable_model()->set_width(66); },
             "model.width|0|expected a multiple of 4 (sine and cosine of two positions), got 66"},
        Case{"batch", [](auto& s) { s.mutable_train()->set_global_batch(15); },
             "train.global_batch|0|expected a multiple of parallel.ranks (2), got 15"},
        Case{"unit", [](auto& s) { s.mutable_train()->set_unit_samples(3); },
             "train.unit_samples|0|expected a divisor of the images per rank (16 / 2 = 8), got 3"},
        Case{"unit_too_large", [](auto& s) { s.mutable_train()->set_unit_samples(16); },
             "train.unit_samples|0|expected a divisor of the images per rank (16 / 2 = 8), got 16"},
        Case{"units", [](auto& s) { s.mutable_train()->set_global_batch(24); },
             "train.unit_samples|0|expected a power of two of units per rank, got 12 images per "
             "rank / 2 = 6 units"},
        Case{"ranks",
             [](auto& s) {
               s.mutable_parallel()->set_ranks(3);
               s.mutable_train()->set_global_batch(12);
               s.mutable_model()->set_experts(6);
             },
             "parallel.ranks|0|expected a power of two, got 3"},
        Case{"experts_over_ranks", [](auto& s) { s.mutable_model()->set_experts(5); },
             "model.experts|0|expected a multiple of parallel.expert_parallel (2), over which "
             "experts are split, got 5"},
        Case{"no_moe_block", [](auto& s) { s.mutable_model()->set_moe_every(3); },
             "model.moe_every|0|expected at most model.depth (2), so that there is a MoE block, "
             "got 3"},
        Case{"capacity_over_experts", [](auto& s) { s.mutable_model()->set_capacity(4.5); },
             "model.capacity|0|expected at most model.experts (4), got 4.5"},
        Case{"capacity_below_one_token", [](auto& s) { s.mutable_model()->set_capacity(0.01); },
             "model.capacity|0|expected at least experts / tokens (0.015625), so that an expert "
             "takes at least one token, got 0.01"},
        Case{"fewer_tokens_than_experts",
             [](auto& s) {
               s.mutable_model()->set_patch_size(16);
               s.mutable_model()->set_experts(32);
             },
             "model.experts|0|expected at most the tokens of a step (16 images * 1 = 16), got 32"}),
    [](const auto& test) { return test.param.name; });

TEST(ValidateSpec, ReportsAllViolationsAtOnceWithoutFollowUps) {
  const Strings got = CheckWith([](auto& s) {
    s.set_name("UPPER");
    s.mutable_model()->set_patch_size(0);  // would divide by zero
    s.mutable_model()->set_heads(5);
    s.mutable_parallel()->set_ranks(0);
    s.mutable_data()->clear_format();
  });
  EXPECT_EQ(got, (Strings{"name|0|expected lower-case letters, digits and '-', a letter first, got "
                          "\"UPPER\"",
                          "model.patch_size|0|expected at least 1, got 0",
                          "data.format|0|is required: expected one of idx, folder, got nothing",
                          "parallel.ranks|0|expected at least 1, got 0",
                          "model.heads|0|expected a divisor of model.width (64), got 5"}));
}

TEST(ValidateSpec, RefusesFieldsOfANewerSender) {
  v1::TrainingSpec spec = ValidSpec();
  spec.mutable_model()
      ->GetReflection()
      ->MutableUnknownFields(spec.mutable_model())
      ->AddVarint(99, 1);
  EXPECT_EQ(Texts(ValidateSpec(spec)),
            Strings{"model|0|expected fields that this version knows, got field number 99: the "
                    "sender is newer"});
}

TEST(ToTrainingConfig, CarriesEveryField) {
  v1::TrainingSpec spec = ValidSpec();
  spec.mutable_train()->set_minutes(1.5);
  spec.mutable_train()->set_seed(std::numeric_limits<uint64_t>::max());
  spec.mutable_data()->set_resize(v1::RESIZE_PAD);
  spec.mutable_optimizer()->set_clip_norm(2);
  spec.mutable_diffusion()->set_time_sampling(v1::TIME_SAMPLING_UNIFORM);
  const TrainingConfig config = ToTrainingConfig(spec);
  EXPECT_EQ(config.name, "tiny-1");
  EXPECT_EQ(config.model.family, Family::kDiffMoe);
  EXPECT_EQ(config.model.tokens_per_sample(), 16);
  EXPECT_EQ(config.model.width, 64);
  EXPECT_TRUE(config.model.IsMoeBlock(1));
  EXPECT_FALSE(config.model.IsMoeBlock(0));
  EXPECT_EQ(config.data.format, DataFormat::kIdx);
  EXPECT_EQ(config.data.resize, Resize::kPad);
  EXPECT_EQ(config.data.path, "/data/fashion");
  EXPECT_EQ(config.diffusion.time_sampling, TimeSampling::kUniform);
  EXPECT_EQ(config.diffusion.label_dropout, 0.1);
  EXPECT_EQ(config.optimizer.clip_norm, 2);
  EXPECT_EQ(config.optimizer.epsilon, 1e-8);
  EXPECT_EQ(config.steps, 40);
  EXPECT_EQ(config.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(config.minutes, 1.5);
  EXPECT_EQ(config.ranks, 2);
  EXPECT_EQ(config.device, DeviceKind::kCpu);
  EXPECT_EQ(config.max_restarts, 5);
  EXPECT_EQ(config.checkpoint_every_steps, 500);
}

}  // namespace
}  // namespace diffmoe
