#include "server/api/job_request.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 64;
constexpr int kMaxPriority = 1000;
constexpr size_t kMaxLabels = 32;
constexpr size_t kMaxKeyBytes = 63;
constexpr size_t kMaxValueBytes = 256;

bool IsKey(const std::string& key) {
  return !key.empty() && key.size() <= kMaxKeyBytes &&
         std::all_of(key.begin(), key.end(), [](unsigned char c) {
           return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '.' || c == '_' ||
                  c == '/' || c == '-';
         });
}

bool IsValue(const std::string& value) {
  return value.size() <= kMaxValueBytes && std::none_of(value.begin(), value.end(), [](char c) {
           return std::iscntrl(static_cast<unsigned char>(c)) != 0;
         });
}

}  // namespace

absl::Status CheckJobRequest(const std::string& request_id, int priority, const LabelMap& labels) {
  std::vector<v1::FieldViolation> violations;
  if (request_id.size() > kMaxRequestIdBytes) {
    violations.push_back(Violation(
        "request_id",
        absl::StrCat("expected at most ", kMaxRequestIdBytes, " bytes, got ", request_id.size())));
  }
  if (priority < -kMaxPriority || priority > kMaxPriority) {
    violations.push_back(Violation("priority", absl::StrCat("expected ", -kMaxPriority, " to ",
                                                            kMaxPriority, ", got ", priority)));
  }
  if (labels.size() > kMaxLabels) {
    violations.push_back(Violation(
        "labels", absl::StrCat("expected at most ", kMaxLabels, ", got ", labels.size())));
  }
  for (const auto& [key, value] : labels) {
    if (!IsKey(key)) {
      violations.push_back(Violation(
          "labels", absl::StrCat("expected keys of 1 to ", kMaxKeyBytes,
                                 " of a-z 0-9 . _ / -, got \"", EscapeForLog(key), "\"")));
    }
    if (!IsValue(value)) {
      violations.push_back(Violation(
          absl::StrCat("labels.", EscapeForLog(key)),
          absl::StrCat("expected at most ", kMaxValueBytes, " bytes without control characters")));
    }
  }
  if (violations.empty()) return absl::OkStatus();
  return MakeViolations(v1::INVALID_REQUEST, std::move(violations));
}

}  // namespace diffmoe::server
