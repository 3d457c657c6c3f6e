#include "server/api/log_request.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "re2/re2.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr int kMaxTailLines = 10'000;
constexpr size_t kMaxPattern = 1000;
constexpr int kMaxRanks = 1024;
constexpr int64_t kMaxPatternBytes = 1 << 20;
constexpr int64_t kLastSecond = 253'402'300'799;  // of the year 9999

void CheckPattern(const std::string& pattern, std::vector<v1::FieldViolation>* violations) {
  if (pattern.size() > kMaxPattern) {
    violations->push_back(Violation(
        "grep", absl::StrCat("expected at most ", kMaxPattern, " bytes, got ", pattern.size())));
    return;
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kMaxPatternBytes);
  const RE2 compiled(pattern, options);
  if (compiled.ok()) return;
  violations->push_back(Violation(
      "grep", absl::StrCat("expected an RE2 pattern, got \"",
                           absl::CHexEscape(pattern.substr(0, 200)), "\": ", compiled.error())));
}

}  // namespace

absl::Status CheckLogRequest(const v1::ReadJobLogsRequest& request) {
  std::vector<v1::FieldViolation> violations;
  if (request.epoch() < 0) {
    violations.push_back(
        Violation("epoch", absl::StrCat("expected 0 or more, got ", request.epoch())));
  }
  if (request.ranks_size() > kMaxRanks) {
    violations.push_back(Violation("ranks", absl::StrCat("expected at most ", kMaxRanks,
                                                         " entries, got ", request.ranks_size())));
  }
  if (request.tail_lines() < 0 || request.tail_lines() > kMaxTailLines) {
    violations.push_back(Violation("tail_lines", absl::StrCat("expected 0 to ", kMaxTailLines,
                                                              ", got ", request.tail_lines())));
  }
  const auto& since = request.since();
  if (since.seconds() < 0 || since.seconds() > kLastSecond || since.nanos() < 0 ||
      since.nanos() > 999'999'999) {
    violations.push_back(Violation("since", "expected a time from 1970 to 9999"));
  }
  CheckPattern(request.grep(), &violations);
  if (violations.empty()) return absl::OkStatus();
  return MakeViolations(v1::INVALID_REQUEST, std::move(violations));
}

absl::Status CheckLogRanks(const v1::ReadJobLogsRequest& request, int ranks) {
  for (const int rank : request.ranks()) {
    if (rank >= 0 && rank < ranks) continue;
    const std::string expected = ranks == 1 ? "0" : absl::StrCat("0 to ", ranks - 1);
    return MakeViolations(
        v1::INVALID_REQUEST,
        {Violation("ranks", absl::StrCat("expected ", expected, ", got ", rank))});
  }
  return absl::OkStatus();
}

std::string RanksText(const std::vector<int>& ranks) {
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

}  // namespace diffmoe::server
