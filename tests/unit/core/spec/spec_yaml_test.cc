#include "core/spec/spec_yaml.h"

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/spec/spec_file.h"
#include "gtest/gtest.h"
#include "tests/unit/core/spec/spec_for_test.h"

namespace diffmoe {
namespace {

using Strings = std::vector<std::string>;

TEST(ParseSpecYaml, ReadsValuesAndLines) {
  const SpecDocument document = ParseSpecYaml(kValidYaml);
  EXPECT_EQ(Texts(CheckSpecDocument(document)), Strings{});
  EXPECT_EQ(document.spec.name(), "tiny-1");
  EXPECT_EQ(document.spec.model().width(), 64);
  EXPECT_EQ(document.spec.data().format(), v1::DATA_FORMAT_IDX);
  EXPECT_FALSE(document.spec.has_optimizer());
  EXPECT_EQ(document.lines.at("model.width"), 6);
  EXPECT_EQ(document.lines.at("parallel.ranks"), 18);
}

TEST(ParseSpecYaml, FiveFaultsGiveFiveReportsWithLines) {
  const std::string text =
      "name: tiny\n"
      "model:\n"
      "  image_size: 16\n"
      "  widht: 64\n"     // misspelt
      "  depth: \"2\"\n"  // text for a number
      "  heads: 2\n"
      "  classes: 10\n"
      "  experts: 5\n"  // not divisible by ranks
      "data:\n"
      "  format: idx\n"
      "  path: /data/fashion\n"
      "train:\n"
      "  steps: 40\n"
      "  steps: 50\n"  // duplicate
      "  global_batch: 16\n"
      "optimizer: {learning_rate: .nan}\n"  // not finite
      "parallel: {ranks: 2}\n";
  EXPECT_EQ(CheckYaml(text),
            (Strings{"model.widht|4|unknown key; did you mean \"width\"?",
                     "model.depth|5|expected a whole number, got text \"2\"",
                     "model.experts|8|expected a multiple of parallel.expert_parallel (2), over "
                     "which experts are split, got 5",
                     "train.steps|14|duplicate key: line 13 has it already",
                     "optimizer.learning_rate|16|expected a finite number, got \".nan\""}));
}

struct Case {
  const char* name;
  const char* from;
  const char* to;
  const char* violation;
};

TEST(ParseSpecYaml, RangeOfRanksSetsBothFields) {
  const SpecDocument document = ParseSpecYaml(YamlWith("ranks: 2", "ranks: {min: 1, max: 2}"));
  EXPECT_EQ(document.violations.size(), 0u);
  EXPECT_EQ(document.spec.parallel().ranks(), 2);
  EXPECT_EQ(document.spec.parallel().min_ranks(), 1);
}

class OneFault : public testing::TestWithParam<Case> {};

TEST_P(OneFault, IsReportedWithItsLine) {
  EXPECT_EQ(CheckYaml(YamlWith(GetParam().from, GetParam().to)), Strings{GetParam().violation});
}

INSTANTIATE_TEST_SUITE_P(
    Values, OneFault,
    testing::Values(
        Case{"too_large_real", "steps: 40", "steps: 40\n  minutes: 1e400",
             "train.minutes|16|expected a number that a 64-bit float can hold, got \"1e400\""},
        Case{"infinite", "steps: 40", "steps: 40\n  minutes: .inf",
             "train.minutes|16|expected a finite number, got \".inf\""},
        Case{"negative_infinite", "steps: 40", "steps: 40\n  minutes: -.INF",
             "train.minutes|16|expected a finite number, got \"-.INF\""},
        Case{"two_to_64", "steps: 40", "steps: 40\n  seed: 18446744073709551616",
             "train.seed|16|expected a whole number from 0 to 18446744073709551615, got "
             "\"18446744073709551616\""},
        Case{"negative_seed", "steps: 40", "steps: 40\n  seed: -1",
             "train.seed|16|expected a whole number from 0 to 18446744073709551615, got \"-1\""},
        Case{"two_to_32", "width: 64", "width: 4294967296",
             "model.width|6|expected a whole number from -2147483648 to 2147483647, got "
             "\"4294967296\""},
        Case{"real_for_whole", "depth: 2", "depth: 2.5",
             "model.depth|7|expected a whole number, got \"2.5\""},
        Case{"exponent_for_whole", "steps: 40", "steps: 1e3",
             "train.steps|15|expected a whole number, got \"1e3\""},
        Case{"hexadecimal", "width: 64", "width: 0x40",
             "model.width|6|expected a whole number, got \"0x40\""},
        Case{"word_for_number", "width: 64", "width: wide",
             "model.width|6|expected a whole number, got \"wide\""},
        Case{"quoted_number", "width: 64", "width: '64'",
             "model.width|6|expected a whole number, got text \"64\""},
        Case{"block_text", "width: 64", "width: |\n    64",
             "model.width|6|expected a whole number, got text \"64\\x0a\""},
        Case{"yes_for_bool", "format: idx", "format: idx\n  flip: yes",
             "data.flip|13|expected true or false, got \"yes\""},
        Case{"enum", "format: idx", "format: webp",
             "data.format|12|expected one of idx, folder, got \"webp\""},
        Case{"enum_upper", "format: idx", "format: IDX",
             "data.format|12|expected one of idx, folder, got \"IDX\""},
        Case{"nothing", "width: 64", "width:",
             "model.width|6|expected a whole number, got nothing: give a value or remove the line"},
        Case{"null", "width: 64", "width: ~",
             "model.width|6|expected a whole number, got nothing: give a value or remove the line"},
        Case{"list", "width: 64", "width: [64]",
             "model.width|6|expected a whole number, got a list"},
        Case{"mapping", "width: 64", "width: {a: 1}",
             "model.width|6|expected a whole number, got a mapping"},
        Case{"scalar_for_section", "parallel:\n  ranks: 2\n", "parallel: 2\n",
             "parallel|17|expected a mapping, got \"2\""},
        Case{"negative_rate", "parallel:", "optimizer: {learning_rate: -1}\nparallel:",
             "optimizer.learning_rate|17|expected more than 0, got -1"},
        Case{"required", "  width: 64\n", "",
             "model.width|2|is required unless model.size is given: expected a whole number, got "
             "nothing"},
        Case{"zero_ranks", "ranks: 2", "ranks: 0", "parallel.ranks|18|expected at least 1, got 0"},
        Case{"nul_in_text", "path: /data/fashion", "path: \"/data\\0\"",
             "data.path|13|expected UTF-8 text without control characters, got \"/data\\x00\""}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Keys, OneFault,
    testing::Values(
        Case{"misspelt", "experts: 4", "expert: 4",
             "model.expert|10|unknown key; did you mean \"experts\"?"},
        Case{"swapped", "heads: 2", "haeds: 2",
             "model.haeds|8|unknown key; did you mean \"heads\"?"},
        Case{"upper", "heads: 2", "Heads: 2", "model.Heads|8|unknown key; did you mean \"heads\"?"},
        Case{"section",
             "parallel:", "paralel:", "paralel|17|unknown key; did you mean \"parallel\"?"},
        Case{"other_section", "steps: 40", "steps: 40\n  learning_rate: 0.1",
             "train.learning_rate|16|unknown key; did you mean \"optimizer.learning_rate\"?"},
        Case{"far", "ranks: 2", "ranks: 2\n  zzzzzzzz: 1",
             "parallel.zzzzzzzz|19|unknown key; known here: ranks, expert_parallel, device, "
             "step_budget_seconds, min_ranks, max_restarts"},
        Case{"unprintable", "ranks: 2", "ranks: 2\n  \"\\e[2J\\n\": 1",
             "parallel.\"\\x1b[2J\\x0a\"|19|unknown key; known here: ranks, expert_parallel, "
             "device, "
             "step_budget_seconds, min_ranks, max_restarts"},
        Case{"range_without_max", "ranks: 2", "ranks: {min: 1}",
             "parallel.ranks|18|expected max beside min"},
        Case{"range_with_other_key", "ranks: 2", "ranks: {min: 1, max: 2, step: 1}",
             "parallel.ranks|18|expected min and max, got step"},
        Case{"range_upside_down", "ranks: 2", "ranks: {min: 2, max: 1}",
             "parallel.min_ranks|18|expected a power of two of at most parallel.ranks (1), got 2"},
        Case{"range_and_field", "ranks: 2", "min_ranks: 1\n  ranks: {min: 1, max: 2}",
             "parallel.min_ranks|19|duplicate: line 18 has it already"},
        Case{"list_as_key", "ranks: 2", "ranks: 2\n  ? [a]\n  : 1",
             "parallel|19|expected the name of a field as key, got a list"},
        Case{"duplicate_section",
             "parallel:", "data: {}\nparallel:", "data|17|duplicate key: line 11 has it already"},
        Case{"duplicate_value", "heads: 2", "heads: 2\n  heads: 2",
             "model.heads|9|duplicate key: line 8 has it already"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Documents, OneFault,
    testing::Values(Case{"alias", "ranks: 2", "ranks: &r 2",
                         "|18|anchors (&) and aliases (*) are refused: write the value out"},
                    Case{"tag", "ranks: 2", "ranks: !!int 2",
                         "|18|tags (!) are refused: write the plain value"},
                    Case{"second", "ranks: 2\n", "ranks: 2\n---\nname: b\n",
                         "|20|expected one YAML document, got a second one"},
                    Case{"control", "ranks: 2", "ranks: 2 # \x04",
                         "|18|expected text without control characters, got \\x04"}),
    [](const auto& test) { return test.param.name; });

TEST(ParseSpecYaml, SyntaxErrorKeepsTheFaultsBeforeIt) {
  const std::string text =
      "name: tiny\n"
      "model:\n"
      "  widht: 64\n"
      "  depth: two\n"
      "  heads: [2\n"
      "data:\n";
  const Strings got = CheckYaml(text);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0], "model.widht|3|unknown key; did you mean \"width\"?");
  EXPECT_EQ(got[1], "model.depth|4|expected a whole number, got \"two\"");
  EXPECT_TRUE(absl::StartsWith(got[2], "|6|not valid YAML: ") ||
              absl::StartsWith(got[2], "|5|not valid YAML: "))
      << got[2];
}

TEST(ParseSpecYaml, EmptyAndNonMappingDocuments) {
  EXPECT_EQ(CheckYaml(""),
            Strings{"|1|expected a mapping with name, model, data and train, got nothing"});
  EXPECT_EQ(CheckYaml("# only a comment\n"),
            Strings{"|1|expected a mapping with name, model, data and train, got nothing"});
  EXPECT_EQ(CheckYaml("- a\n- b\n"),
            Strings{"|1|expected a mapping with name, model, data and train, got a list"});
  EXPECT_EQ(CheckYaml("hello"),
            Strings{"|1|expected a mapping with name, model, data and train, got \"hello\""});
}

// Nesting in every form that YAML has for it.
TEST(ParseSpecYaml, RefusesDeepNesting) {
  std::string indented, compact, hidden;
  for (int i = 0; i < 5000; ++i) {
    absl::StrAppend(&indented, std::string(i, ' '), "a:\n");
    absl::StrAppend(&compact, "- ");
    absl::StrAppend(&hidden, "[\" # \",\n");  // a comment sign in quotes before each bracket
  }
  const std::string flow(5000, '['), maps = [] {
    std::string out;
    for (int i = 0; i < 5000; ++i) out += "{a: ";
    return out;
  }();
  std::string quoted_brackets;
  for (int i = 0; i < 5000; ++i) quoted_brackets += "\" # \": [";
  for (const std::string& text : {indented, compact, flow, maps, hidden, "a: " + flow,
                                  "[\" #\", " + flow + "\n]", quoted_brackets}) {
    const Strings got = CheckYaml(text);
    ASSERT_FALSE(got.empty());
    EXPECT_TRUE(absl::StrContains(got[0], "too deep") || absl::StrContains(got[0], "not valid"))
        << got[0];
  }
  EXPECT_TRUE(absl::StrContains(CheckYaml(indented)[0], "too deep"));
  EXPECT_TRUE(absl::StrContains(CheckYaml(flow)[0], "|1|too deep: expected at most 64 levels"));
}

TEST(ParseSpecYaml, AliasBombIsRefusedAtItsSize) {
  std::string text = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'z'; ++c) {
    absl::StrAppend(&text, std::string(1, c), ": &", std::string(1, c), " [");
    for (int i = 0; i < 9; ++i) absl::StrAppend(&text, i ? "," : "", "*", std::string(1, c - 1));
    absl::StrAppend(&text, "]\n");
  }
  const Strings got = CheckYaml(text);
  ASSERT_FALSE(got.empty());
  EXPECT_EQ(got[0], "|1|anchors (&) and aliases (*) are refused: write the value out");
  EXPECT_LE(got.size(), kMaxSpecViolations + 1);
}

TEST(ParseSpecYaml, ListsABoundedNumberOfFaults) {
  std::string text = kValidYaml;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "  qq", i, "zzzzzzz: 1\n");
  const Strings got = CheckYaml(text);
  EXPECT_EQ(got.size(), kMaxSpecViolations);
}

TEST(OverrideField, SetsOverTheFile) {
  SpecDocument document = ParseSpecYaml(kValidYaml);
  OverrideField("train.steps=7", &document);
  OverrideField("optimizer.learning_rate=0.5", &document);
  OverrideField("data.path=/other=place", &document);
  EXPECT_EQ(Texts(CheckSpecDocument(document)), Strings{});
  EXPECT_EQ(document.spec.train().steps(), 7);
  EXPECT_EQ(document.spec.optimizer().learning_rate(), 0.5);
  EXPECT_EQ(document.spec.data().path(), "/other=place");
}

TEST(OverrideField, FaultsAreViolations) {
  SpecDocument document = ParseSpecYaml(kValidYaml);
  OverrideField("train.step=7", &document);
  OverrideField("steps", &document);
  OverrideField("model=7", &document);
  OverrideField("model.width=wide", &document);
  OverrideField("model.heads=3", &document);
  EXPECT_EQ(
      Texts(CheckSpecDocument(document)),
      (Strings{"|0|--set \"train.step=7\": expected FIELD=VALUE; did you mean \"train.steps\"?",
               "|0|--set \"steps\": expected FIELD=VALUE, for example train.steps=50",
               "|0|--set \"model=7\": expected FIELD=VALUE, for example train.steps=50",
               "model.width|0|--set: expected a whole number, got \"wide\""}));
}

TEST(AddLines, GivesViolationsOfTheCoordinatorTheirLines) {
  const SpecDocument document = ParseSpecYaml(kValidYaml);
  std::vector<v1::FieldViolation> violations(3);
  violations[0].set_field("model.experts");
  violations[1].set_field("model.family");  // not in the file: its section
  violations[2].set_field("checkpoint.keep");
  AddLines(document, &violations);
  EXPECT_EQ(violations[0].line(), 10);
  EXPECT_EQ(violations[1].line(), 2);
  EXPECT_EQ(violations[2].line(), 1);
}

TEST(ReadyJobs, AreAllValid) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(DIFFMOE_SOURCE_DIR) + "/deploy/jobs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const absl::StatusOr<std::string> text = ReadSpecFile(entry.path());
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(CheckYaml(*text), Strings{}) << entry.path();
  }
  EXPECT_GE(files, 5);
}

}  // namespace
}  // namespace diffmoe
