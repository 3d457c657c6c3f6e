#include "server/errors.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace diffmoe::server {
namespace {

constexpr char kPayloadUrl[] = "type.googleapis.com/diffmoe.v1.ErrorDetails";

absl::Status WithDetails(absl::StatusCode code, const std::string& message,
                         const v1::ErrorDetails& details) {
  absl::Status status(code, message);
  status.SetPayload(kPayloadUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, const std::string& message,
                       const std::string& resource) {
  v1::ErrorDetails details;
  details.set_reason(reason);
  details.set_resource(resource);
  return WithDetails(code, message, details);
}

absl::Status MakeRetryableError(absl::StatusCode code, v1::ErrorReason reason,
                                const std::string& message, int64_t retry_delay_ms) {
  v1::ErrorDetails details;
  details.set_reason(reason);
  details.set_retry_delay_ms(retry_delay_ms);
  return WithDetails(code, message, details);
}

absl::Status MakeViolations(v1::ErrorReason reason, std::vector<v1::FieldViolation> violations) {
  v1::ErrorDetails details;
  details.set_reason(reason);
  std::string message =
      absl::StrCat(violations.front().field(), ": ", violations.front().description());
  if (violations.size() > 1) {
    absl::StrAppend(&message, " (and ", violations.size() - 1, " more)");
  }
  for (v1::FieldViolation& violation : violations) {
    *details.add_violations() = std::move(violation);
  }
  return WithDetails(absl::StatusCode::kInvalidArgument, message, details);
}

v1::FieldViolation Violation(const std::string& field, const std::string& description) {
  v1::FieldViolation violation;
  violation.set_field(field);
  violation.set_description(description);
  return violation;
}

v1::ErrorDetails DetailsOf(const absl::Status& status) {
  v1::ErrorDetails details;
  if (const auto payload = status.GetPayload(kPayloadUrl)) {
    details.ParseFromString(std::string(*payload));
  }
  return details;
}

absl::Status StorageError(const absl::Status& status, const std::string& what) {
  const absl::StatusCode code = absl::IsResourceExhausted(status)
                                    ? absl::StatusCode::kResourceExhausted
                                    : absl::StatusCode::kInternal;
  return MakeRetryableError(code, v1::STORAGE_FAILED, absl::StrCat(what, ": ", status.message()),
                            2000);
}

}  // namespace diffmoe::server
