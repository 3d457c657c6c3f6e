#include "tests/observe/queries.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <regex>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

constexpr double kShortestSeconds = 1;
constexpr double kShortestWindowSeconds = 4;  // a rate needs some scrapes

std::string DeployFile(const std::string& name) {
  return ReadFile(absl::StrCat(DIFFMOE_SOURCE_DIR "/deploy/", name));
}

// "10m" as seconds; 0 for another unit.
double DurationSeconds(const std::string& text) {
  const std::map<char, double> units = {{'s', 1}, {'m', 60}, {'h', 3600}};
  double number = 0;
  const auto unit = units.find(text.back());
  if (unit == units.end() || !absl::SimpleAtod(text.substr(0, text.size() - 1), &number)) return 0;
  return number * unit->second;
}

std::string Scaled(const std::string& duration, double factor, double shortest) {
  const double seconds = DurationSeconds(duration);
  if (seconds == 0) return duration;  // "0m" fires at once
  return absl::StrCat(std::ceil(std::max(shortest, seconds / factor) * 1000), "ms");
}

// Replaces group 2 of each match, which is a duration; 1 and 3 stay.
std::string ReplaceEach(const std::string& text, const std::regex& pattern,
                        const std::function<std::string(const std::string&)>& change) {
  std::string result;
  auto last = text.cbegin();
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) {
    const std::smatch& match = *it;
    result.append(last, match[0].first);
    result += match[1].str() + change(match[2].str()) + match[3].str();
    last = match[0].second;
  }
  result.append(last, text.cend());
  return result;
}

std::set<std::string> MetricsOf(const std::string& expression) {
  static const std::regex kName(R"(\b(?:job_id:)?diffmoe_[\w:]+|\bup\b)");
  std::set<std::string> names;
  for (std::sregex_iterator it(expression.begin(), expression.end(), kName), end; it != end; ++it) {
    names.insert(it->str());
  }
  return names;
}

}  // namespace

std::vector<PanelQuery> DashboardQueries(const std::string& rate_window) {
  std::vector<std::filesystem::path> files;
  for (const auto& file :
       std::filesystem::directory_iterator(DIFFMOE_SOURCE_DIR "/deploy/grafana")) {
    files.push_back(file.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<PanelQuery> queries;
  for (const auto& file : files) {
    const auto dashboard = nlohmann::json::parse(ReadFile(file));
    for (const nlohmann::json& panel : dashboard["panels"]) {
      for (const nlohmann::json& target : panel.value("targets", nlohmann::json::array())) {
        queries.push_back(
            {absl::StrCat(file.stem().string(), ": ", panel["title"].get<std::string>()),
             absl::StrReplaceAll(target["expr"].get<std::string>(),
                                 {{"$__rate_interval", rate_window}, {"$job_id", ".*"}})});
      }
    }
  }
  return queries;
}

std::vector<PanelQuery> RuleInputs() {
  std::vector<PanelQuery> inputs;
  for (const char* file : {"prometheus/recording_rules.yml", "prometheus/alert_rules.yml"}) {
    std::string rule;
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(DeployFile(file), '\n'))) {
      absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
      if (absl::ConsumePrefix(&text, "- alert: ")) rule = absl::StrCat("alert: ", text);
      if (absl::ConsumePrefix(&text, "- record: ")) rule = absl::StrCat("record: ", text);
      if (!absl::ConsumePrefix(&text, "expr: ")) continue;
      for (const std::string& name : MetricsOf(std::string(text))) inputs.push_back({rule, name});
    }
  }
  return inputs;
}

std::vector<std::string> AlertNames() {
  std::vector<std::string> names;
  for (const absl::string_view line :
       absl::StrSplit(DeployFile("prometheus/alert_rules.yml"), '\n')) {
    absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
    if (absl::ConsumePrefix(&text, "- alert: ")) names.emplace_back(text);
  }
  return names;
}

std::string ScaledRules(const std::string& file, double factor) {
  std::string text = DeployFile("prometheus/" + file);
  const auto window = [factor](const std::string& duration) {
    return Scaled(duration, factor, kShortestWindowSeconds);
  };
  const auto wait = [factor](const std::string& duration) {
    return Scaled(duration, factor, kShortestSeconds);
  };
  text = ReplaceEach(text, std::regex(R"((\[)(\d+[smh])(\]))"), window);
  text = ReplaceEach(text, std::regex(R"((\boffset )(\d+[smh])(\b))"), window);
  text = ReplaceEach(text, std::regex(R"((\bfor: )(\d+[smh])(\n))"), wait);
  text = ReplaceEach(
      text, std::regex(R"((predict_linear\([^,]*, )(\d+)(\)))"),
      [factor](const std::string& seconds) { return absl::StrCat(std::stod(seconds) / factor); });
  return ReplaceEach(text, std::regex(R"((\binterval: )(\d+[smh])(\n))"),
                     [](const std::string&) { return "1s"; });
}

}  // namespace diffmoe::test
