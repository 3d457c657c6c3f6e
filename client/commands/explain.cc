#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands/commands.h"
#include "client/output/table.h"
#include "core/base/exit_code.h"
#include "core/spec/spec_fields.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

using google::protobuf::FieldDescriptor;

std::string RangeText(const v1::FieldRule& rule) {
  if (!rule.has_min() && !rule.has_above() && !rule.has_max()) return "";
  std::string text;
  if (rule.has_min()) absl::StrAppendFormat(&text, "from %.15g", rule.min());
  if (rule.has_above()) absl::StrAppendFormat(&text, "above %.15g", rule.above());
  if (rule.has_max()) {
    absl::StrAppendFormat(&text, "%s%.15g", text.empty() ? "up to " : " to ", rule.max());
  }
  return text;
}

std::string DefaultText(const v1::FieldRule& rule) {
  if (rule.required()) return "required";
  if (!rule.required_unless().empty()) return "required unless " + rule.required_unless();
  return rule.has_default_value() ? rule.default_value() : rule.default_note();
}

std::string AppliesText(const v1::FieldRule& rule) {
  const FieldCondition condition = ConditionOf(rule);
  if (condition.field.empty()) return "";
  return absl::StrCat(condition.field, " ", absl::StrJoin(condition.values, ", "));
}

// The field and, for a section, all below it; every field for an empty path.
std::vector<std::string> PathsUnder(const std::string& path) {
  std::vector<std::string> paths;
  for (const std::string& candidate : AllSpecFieldPaths()) {
    if (path.empty() || candidate == path || absl::StartsWith(candidate, path + ".")) {
      paths.push_back(candidate);
    }
  }
  return paths;
}

std::string FieldDocumentation(const std::string& path) {
  const FieldDescriptor& field = *FindSpecField(path);
  const v1::FieldRule& rule = RuleOf(field);
  return absl::StrCat(
      path, "\n  ", rule.doc(), "\n\n",
      KeyValueText(
          {{"  expects", ExpectedTextOf(field)},
           {"  range", RangeText(rule)},
           {"  longest", rule.has_max_length() ? absl::StrCat(rule.max_length(), " bytes") : ""},
           {"  default", DefaultText(rule)},
           {"  only for", AppliesText(rule)}}));
}

std::string FieldsTable(const std::vector<std::string>& paths) {
  Table table({"FIELD", "DEFAULT", "MEANING"});
  for (const std::string& path : paths) {
    const v1::FieldRule& rule = RuleOf(*FindSpecField(path));
    table.AddRow({path, DefaultText(rule), rule.doc()});
  }
  return table.ToString();
}

std::string RulesText(const std::vector<std::string>& paths, OutputFormat format) {
  auto list = nlohmann::ordered_json::array();
  for (const std::string& path : paths) {
    const FieldDescriptor& field = *FindSpecField(path);
    const v1::FieldRule& rule = RuleOf(field);
    list.push_back({{"field", path},
                    {"doc", rule.doc()},
                    {"expects", ExpectedTextOf(field)},
                    {"range", RangeText(rule)},
                    {"default_value", rule.default_value()},
                    {"default_note", rule.default_note()},
                    {"required", rule.required()},
                    {"required_unless", rule.required_unless()},
                    {"applies_when", rule.applies_when()}});
  }
  return JsonText(list, format);
}

absl::StatusOr<int> Explain(const Context& context, const std::string& path) {
  const std::vector<std::string> paths = PathsUnder(path);
  if (paths.empty()) {
    const std::string nearest = NearestName(path, AllSpecFieldPaths());
    return absl::NotFoundError(absl::StrCat(
        "no field ", QuoteForMessage(path),
        nearest.empty() ? "; `diffmoe explain` lists all" : "; did you mean \"" + nearest + "\"?"));
  }
  if (context.format != OutputFormat::kTable) {
    context.out << RulesText(paths, context.format);
  } else if (paths.size() == 1) {
    context.out << FieldDocumentation(paths[0]);
  } else {
    context.out << FieldsTable(paths);
  }
  context.out << std::flush;
  return kExitOk;
}

}  // namespace

void AddExplainCommand(CLI::App* app, Context* context) {
  auto path = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand("explain", "What a field of the spec means");
  command->add_option("FIELD", *path, "For example model.experts, or a section; absent: all");
  command->callback(
      [context, path] { context->action = [context, path] { return Explain(*context, *path); }; });
}

}  // namespace diffmoe
