#include "client/api_status.h"

#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"

namespace diffmoe {
namespace {

constexpr char kDetailsUrl[] = "diffmoe.v1.ErrorDetails";
constexpr char kFileUrl[] = "diffmoe.file";
constexpr char kUsageUrl[] = "diffmoe.usage";
constexpr char kDeadlineUrl[] = "diffmoe.deadline";

std::string Clean(absl::string_view text) {
  return EscapeForLog(std::string_view(text.data(), text.size()));
}

// "jobs/ID/checkpoints/STEP": "ID".
std::string JobOf(absl::string_view resource) {
  if (!absl::ConsumePrefix(&resource, "jobs/")) return "JOB";
  return Clean(resource.substr(0, resource.find('/')));
}

// "jobs/ID/checkpoints/STEP": "@step=STEP"; of another resource: nothing.
std::string CheckpointSuffix(absl::string_view resource) {
  const std::vector<absl::string_view> parts = absl::StrSplit(resource, '/');
  return parts.size() == 4 && parts[3] != "latest" ? absl::StrCat("@step=", Clean(parts[3])) : "";
}

std::string RetryText(int64_t delay_ms) {
  if (delay_ms <= 0) return "Try again.";
  return absl::StrFormat("Try again in %d s.", (delay_ms + 999) / 1000);
}

std::string NextStepForReason(const v1::ErrorDetails& details) {
  const std::string job = JobOf(details.resource());
  switch (details.reason()) {
    case v1::INVALID_SPEC:
      return "`diffmoe explain FIELD` says what a field means.";
    case v1::INVALID_REQUEST:
      return "";
    case v1::JOB_NOT_FOUND:
      return "`diffmoe jobs` lists the jobs.";
    case v1::CHECKPOINT_NOT_FOUND:
      return absl::StrCat("`diffmoe ckpt ls ", job, "` lists the checkpoints.");
    case v1::WORKER_NOT_FOUND:
      return "`diffmoe workers` lists the workers.";
    case v1::REQUEST_ID_REUSED:
      return "Try again: a request without an id of its own draws a new one.";
    case v1::JOB_ALREADY_ENDED:
      return absl::StrCat("`diffmoe job get ", job, "` shows how it ended.");
    case v1::NO_CHECKPOINT_YET:
      return absl::StrCat("`diffmoe watch ", job, "` follows the job to its first checkpoint.");
    case v1::QUEUE_FULL:
      return RetryText(details.retry_delay_ms());
    case v1::NO_FREE_SLOT:
      return "`diffmoe workers` shows who uses the slots; add a worker, or wait.";
    case v1::SAMPLER_LOST:
      return RetryText(details.retry_delay_ms());
    case v1::CORRUPT_CHECKPOINT:
      return absl::StrCat("`diffmoe ckpt ls ", job, "` lists the checkpoints; use an older one.");
    case v1::STALE_EPOCH:
      return "Try again.";
    case v1::PROTOCOL_MISMATCH:
      return "Upgrade the older side.";
    case v1::STORAGE_FAILED:
      return "The coordinator's log names the file; check its disk.";
    case v1::SHUTTING_DOWN:
      return RetryText(details.retry_delay_ms());
    case v1::JOB_NOT_ENDED:
      return absl::StrCat("`diffmoe job fork ", job,
                          "` starts a new job from a checkpoint of a running one.");
    case v1::NO_CALIBRATION:
      return absl::StrCat(
          "`diffmoe calibrate ", job, CheckpointSuffix(details.resource()),
          "` calibrates it; without --capacity and --threshold-rule none is needed.");
    case v1::DEADLINE_TOO_SHORT:
      // Without a delay no wait helps.
      return absl::StrCat(
          "Allow more time with --deadline.",
          details.retry_delay_ms() > 0 ? " " + RetryText(details.retry_delay_ms()) : "");
    case v1::SAMPLE_NOT_FOUND:
      return "The coordinator knows the last 10,000 requests; check the id.";
    case v1::CHECKPOINT_IN_USE:
      return absl::StrCat("`diffmoe ckpt ls ", job,
                          "` shows what uses each checkpoint; `ckpt unpin` removes a pin.");
    default:
      return "";
  }
}

std::string NextStep(const absl::Status& status, const v1::ErrorDetails& details) {
  if (details.reason() != v1::ERROR_REASON_UNSPECIFIED) return NextStepForReason(details);
  if (absl::StrContains(status.message(), "too_many_pings")) {
    return "The coordinator refused this client because it sent keepalive pings too often; use the "
           "client of the coordinator's version.";
  }
  if (status.GetPayload(kDeadlineUrl).has_value()) return "Allow more time with --deadline.";
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "Start a coordinator with `diffmoe up`, or say where it is with --server HOST:PORT.";
    case absl::StatusCode::kUnimplemented:
      return "The coordinator is older than this client.";
    case absl::StatusCode::kDeadlineExceeded:
      return "The coordinator is busy or stuck: try again.";
    default:
      return "";
  }
}

}  // namespace

v1::ErrorDetails ParseErrorDetails(const std::string& status_details) {
  v1::StatusDetails all;
  v1::ErrorDetails details;
  if (!all.ParseFromString(status_details)) return details;
  for (const google::protobuf::Any& any : all.details()) {
    if (any.Is<v1::ErrorDetails>() && any.UnpackTo(&details)) return details;
  }
  return {};
}

void SetErrorDetails(const v1::ErrorDetails& details, absl::Status* status) {
  status->SetPayload(kDetailsUrl, absl::Cord(details.SerializeAsString()));
}

v1::ErrorDetails GetErrorDetails(const absl::Status& status) {
  v1::ErrorDetails details;
  const auto payload = status.GetPayload(kDetailsUrl);
  if (payload.has_value() && !details.ParseFromString(std::string(*payload))) details.Clear();
  return details;
}

void SetErrorFile(absl::string_view file, absl::Status* status) {
  status->SetPayload(kFileUrl, absl::Cord(file));
}

std::string GetErrorFile(const absl::Status& status) {
  const auto payload = status.GetPayload(kFileUrl);
  return payload.has_value() ? std::string(*payload) : "";
}

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsageUrl, absl::Cord());
  return status;
}

absl::Status OwnDeadlineError(absl::string_view message) {
  absl::Status status = absl::DeadlineExceededError(message);
  status.SetPayload(kDeadlineUrl, absl::Cord());
  return status;
}

int ExitCodeForError(const absl::Status& status) {
  return status.GetPayload(kUsageUrl).has_value() ? kExitUsage : ExitCodeOf(status);
}

std::string DescribeError(const absl::Status& status) {
  const v1::ErrorDetails details = GetErrorDetails(status);
  const std::string file = GetErrorFile(status);
  std::string headline(status.message());
  // A single violation that is the message too is said once, with its place if that is known.
  const bool same = details.violations_size() == 1 &&
                    headline == absl::StrCat(details.violations(0).field(), ": ",
                                             details.violations(0).description());
  if (same && !file.empty()) headline = absl::StrCat("1 fault in ", file);
  std::string text = absl::StrCat("diffmoe: ", Clean(headline), "\n");
  for (const v1::FieldViolation& violation : details.violations()) {
    if (same && file.empty()) break;
    absl::StrAppend(&text, "  ");
    if (!file.empty() && violation.line() > 0) {
      absl::StrAppend(&text, Clean(file), ":", violation.line(), ": ");
    }
    if (!violation.field().empty()) absl::StrAppend(&text, Clean(violation.field()), ": ");
    absl::StrAppend(&text, Clean(violation.description()), "\n");
  }
  const std::string next = NextStep(status, details);
  if (!next.empty()) absl::StrAppend(&text, next, "\n");
  return text;
}

}  // namespace diffmoe
