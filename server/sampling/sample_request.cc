#include "server/sampling/sample_request.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace diffmoe::server {

std::vector<v1::FieldViolation> ValidateSampleRequest(const v1::SampleRequest& request,
                                                      const v1::TrainingSpec& spec) {
  std::vector<v1::FieldViolation> violations;
  if (request.count() < 1 || request.count() > kMaxSampleCount) {
    violations.push_back(Violation(
        "count", absl::StrCat("expected 1 to ", kMaxSampleCount, ", got ", request.count())));
  }
  const int classes = spec.model().classes();
  if (request.classes().empty()) {
    violations.push_back(Violation("classes", "expected one class, or one per image, got none"));
  } else if (request.classes_size() != 1 && request.classes_size() != request.count()) {
    violations.push_back(
        Violation("classes", absl::StrCat("expected 1 or count = ", request.count(),
                                          " entries, got ", request.classes_size())));
  }
  for (int i = 0; i < request.classes_size(); ++i) {
    const int label = request.classes(i);
    if (label >= 0 && label < classes) continue;
    violations.push_back(
        Violation(absl::StrCat("classes[", i, "]"),
                  absl::StrCat("expected a class from 0 to ", classes - 1, ", got ", label)));
    break;  // one is enough of up to 1024
  }
  if (request.has_steps() && (request.steps() < 1 || request.steps() > kMaxSampleSteps)) {
    violations.push_back(Violation(
        "steps", absl::StrCat("expected 1 to ", kMaxSampleSteps, ", got ", request.steps())));
  }
  if (request.has_guidance() && !(request.guidance() >= 0 && request.guidance() <= kMaxGuidance)) {
    violations.push_back(Violation(
        "guidance",
        absl::StrCat("expected a number from 0 to ", kMaxGuidance, ", got ", request.guidance())));
  }
  return violations;
}

void CompleteSampleRequest(v1::SampleRequest* request) {
  if (!request->has_steps()) request->set_steps(kDefaultSampleSteps);
  if (!request->has_guidance()) request->set_guidance(kDefaultGuidance);
  while (request->classes_size() < request->count()) request->add_classes(request->classes(0));
}

}  // namespace diffmoe::server
