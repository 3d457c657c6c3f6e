#include "client/names.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/api_status.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

constexpr size_t kMaxIdBytes = 100;

bool IsJobId(absl::string_view id) {
  for (char c : id) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
  }
  return !id.empty() && id.size() <= kMaxIdBytes;
}

}  // namespace

absl::StatusOr<std::string> JobName(absl::string_view text) {
  absl::string_view id = text;
  absl::ConsumePrefix(&id, "jobs/");
  if (!IsJobId(id)) {
    return absl::NotFoundError(
        absl::StrCat("no job can have this id: expected one such as fashion-demo-1, got ",
                     QuoteForMessage(text)));
  }
  return absl::StrCat("jobs/", id);
}

absl::StatusOr<std::string> CheckpointName(absl::string_view job, absl::string_view step) {
  ASSIGN_OR_RETURN(const std::string name, JobName(job));
  int64_t number = 0;
  if (step != "latest" && (!absl::SimpleAtoi(step, &number) || number < 0)) {
    return UsageError(
        absl::StrCat("expected a step number or latest, got ", QuoteForMessage(step)));
  }
  if (step == "latest") return absl::StrCat(name, "/checkpoints/latest");
  return absl::StrCat(name, "/checkpoints/", number);
}

absl::StatusOr<std::string> CheckpointNameFromReference(absl::string_view text) {
  const size_t at = text.find('@');
  if (at == absl::string_view::npos) return JobName(text);
  absl::string_view step = text.substr(at + 1);
  if (step == "latest") return JobName(text.substr(0, at));
  if (!absl::ConsumePrefix(&step, "step=") || step == "latest") {
    return UsageError(
        absl::StrCat("expected JOB, JOB@latest or JOB@step=NUMBER, got ", QuoteForMessage(text)));
  }
  return CheckpointName(text.substr(0, at), step);
}

absl::StatusOr<v1::GuidanceInterval> ParseGuidanceInterval(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(text, absl::MaxSplits(',', 1));
  double begin = 0, end = 0;
  if (!absl::SimpleAtod(ends.first, &begin) || !absl::SimpleAtod(ends.second, &end)) {
    return UsageError(absl::StrCat(
        "--guidance-interval: expected two numbers such as 0.2,0.8, got ", QuoteForMessage(text)));
  }
  v1::GuidanceInterval interval;
  interval.set_begin(begin);
  interval.set_end(end);
  return interval;
}

absl::StatusOr<std::vector<int32_t>> ParseClasses(absl::string_view text) {
  std::vector<int32_t> classes;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t number = 0;
    if (!absl::SimpleAtoi(part, &number)) {
      return UsageError(absl::StrCat("expected class numbers such as 3 or 0,1,2, or all, got ",
                                     QuoteForMessage(text)));
    }
    classes.push_back(number);
  }
  return classes;
}

absl::StatusOr<absl::Duration> ParsePositiveDuration(absl::string_view flag,
                                                     absl::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration <= absl::ZeroDuration() ||
      duration > absl::Hours(24 * 365)) {
    return UsageError(absl::StrCat(flag, ": expected a duration such as 30s, 250ms or 1m30s, got ",
                                   QuoteForMessage(text)));
  }
  return duration;
}

absl::StatusOr<uint64_t> ParseSeed(absl::string_view text) {
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(text, &seed)) {
    return UsageError(absl::StrCat("--seed: expected a whole number from 0 to ",
                                   std::numeric_limits<uint64_t>::max(), ", got ",
                                   QuoteForMessage(text)));
  }
  return seed;
}

absl::StatusOr<std::vector<double>> ParseNumbers(absl::string_view flag, absl::string_view text) {
  std::vector<double> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    double number = 0;
    if (!absl::SimpleAtod(part, &number) || !std::isfinite(number)) {
      return UsageError(
          absl::StrCat(flag, ": expected numbers such as 0.5,1,2, got ", QuoteForMessage(text)));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<v1::ThresholdRule> ParseThresholdRule(absl::string_view text) {
  v1::ThresholdRule rule = v1::THRESHOLD_RULE_UNSPECIFIED;
  if (v1::ThresholdRule_Parse(absl::AsciiStrToUpper(text), &rule) &&
      rule != v1::THRESHOLD_RULE_UNSPECIFIED) {
    return rule;
  }
  return UsageError(
      absl::StrCat("--threshold-rule: expected one of dynamic, calibrated, interval, gate, got ",
                   QuoteForMessage(text)));
}

std::vector<int32_t> RepeatClasses(const std::vector<int32_t>& classes, int each) {
  std::vector<int32_t> repeated;
  for (int32_t label : classes) repeated.insert(repeated.end(), static_cast<size_t>(each), label);
  return repeated;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseLabel(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return UsageError(absl::StrCat("--label: expected KEY=VALUE, got ", QuoteForMessage(text)));
  }
  return std::pair{std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

absl::StatusOr<v1::JobState> ParseJobState(absl::string_view text) {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  if (v1::JobState_Parse(absl::AsciiStrToUpper(text), &state) &&
      state != v1::JOB_STATE_UNSPECIFIED) {
    return state;
  }
  std::string known;
  for (int value = v1::JobState_MIN + 1; value <= v1::JobState_MAX; ++value) {
    absl::StrAppend(&known, known.empty() ? "" : ", ",
                    absl::AsciiStrToLower(v1::JobState_Name(static_cast<v1::JobState>(value))));
  }
  return UsageError(
      absl::StrCat("--state: expected one of ", known, ", got ", QuoteForMessage(text)));
}

}  // namespace diffmoe
