#include "server/sampling/calibrate_request.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/sampling/request_text.h"

namespace diffmoe::server {
namespace {

constexpr double kDefaultTargets[] = {0.5, 0.75, 1, 1.25, 1.5, 1.75, 2};

void CheckTargets(const v1::CalibrateCheckpointRequest& request, int64_t experts,
                  std::vector<v1::FieldViolation>* violations) {
  if (request.capacities_size() > kMaxCalibrationTargets) {
    violations->push_back(
        Violation("capacities", absl::StrCat("expected at most ", kMaxCalibrationTargets,
                                             " targets, got ", request.capacities_size())));
  }
  for (int i = 0; i < request.capacities_size(); ++i) {
    const double capacity = request.capacities(i);
    const std::string field = absl::StrCat("capacities[", i, "]");
    if (!(capacity > 0 && capacity <= static_cast<double>(experts))) {
      violations->push_back(
          Violation(field, absl::StrCat("expected a number above 0, at most ", experts,
                                        " (the experts), got ", capacity)));
      return;  // one is enough
    }
    if (i > 0 && capacity <= request.capacities(i - 1)) {
      violations->push_back(
          Violation(field, absl::StrCat("expected ascending targets, got ", capacity, " behind ",
                                        request.capacities(i - 1))));
      return;
    }
  }
}

}  // namespace

std::vector<v1::FieldViolation> ValidateCalibrateRequest(
    const v1::CalibrateCheckpointRequest& request, const TrainingConfig& config) {
  std::vector<v1::FieldViolation> violations;
  if (config.model.family != Family::kDiffMoe) {
    violations.push_back(Violation("checkpoint", "expected a model of the family diffmoe"));
  } else if (config.compatibility.inference_rule == InferenceRule::kBatchTopK) {
    violations.push_back(Violation("checkpoint",
                                   "expected a model with thresholds, got one of "
                                   "compatibility.inference_rule: batch_topk"));
  }
  if (request.images() != 0 &&
      (request.images() < kMinCalibrationImages || request.images() > kMaxCalibrationImages)) {
    violations.push_back(
        Violation("images", absl::StrCat("expected ", kMinCalibrationImages, " to ",
                                         kMaxCalibrationImages, ", got ", request.images())));
  }
  CheckTargets(request, config.model.experts, &violations);
  CheckRequestText("request_id", request.request_id(), &violations);
  CheckRequestText("user", request.user(), &violations);
  return violations;
}

void CompleteCalibrateRequest(v1::CalibrateCheckpointRequest* request) {
  if (request->images() == 0) request->set_images(kDefaultCalibrationImages);
  if (!request->capacities().empty()) return;
  for (const double capacity : kDefaultTargets) request->add_capacities(capacity);
}

}  // namespace diffmoe::server
