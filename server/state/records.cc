#include "server/state/records.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace diffmoe::server {
namespace {

std::string Numbered(const char* kind, const std::string& job_id, int64_t number) {
  return absl::StrFormat("%s/%s/%020d", kind, job_id, number);
}

}  // namespace

std::string JobKey(const std::string& job_id) { return absl::StrCat(kJobsPrefix, job_id); }
std::string EventKey(const std::string& job_id, int64_t sequence) {
  return Numbered("events", job_id, sequence);
}
std::string EventsPrefix(const std::string& job_id) { return absl::StrCat("events/", job_id, "/"); }
std::string ManifestKey(const std::string& job_id, int64_t step) {
  return Numbered("manifests", job_id, step);
}
std::string ManifestsPrefix(const std::string& job_id) {
  return absl::StrCat(kManifestsPrefix, job_id, "/");
}
std::string ThresholdsKey(const std::string& job_id, int64_t step) {
  return Numbered("thresholds", job_id, step);
}
std::string ThresholdsPrefix(const std::string& job_id) {
  return absl::StrCat("thresholds/", job_id, "/");
}
std::string CalibrationKey(const std::string& job_id, int64_t step) {
  return Numbered("calibrations", job_id, step);
}
std::string StepsKey(const std::string& job_id, int64_t first_step, int64_t epoch) {
  return absl::StrFormat("steps/%s/%020d/%010d", job_id, first_step, epoch);
}
std::string StepsPrefix(const std::string& job_id) { return absl::StrCat("steps/", job_id, "/"); }

}  // namespace diffmoe::server
