#include "server/sampling/sample_request.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/spec/spec_convert.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

void CheckSampler(const v1::SampleRequest& request, ProcessKind process,
                  std::vector<v1::FieldViolation>* violations) {
  SamplerOptions options;
  options.kind = DefaultSampler(process);
  if (!request.sampler().empty()) {
    const absl::StatusOr<SamplerKind> kind = ParseSampler(request.sampler());
    if (kind.ok()) {
      options.kind = *kind;
    } else {
      violations->push_back(Violation("sampler", std::string(kind.status().message())));
    }
  }
  options.steps = request.has_steps() ? request.steps() : kDefaultSampleSteps;
  options.eta = request.eta();
  for (OptionFault& fault : CheckSamplerOptions(options, process)) {
    violations->push_back(Violation(fault.field, std::move(fault.description)));
  }
  if (options.kind == SamplerKind::kDopri5 && request.has_steps()) {
    violations->push_back(Violation(
        "steps",
        absl::StrCat("expected none for dopri5, which chooses its own, got ", request.steps())));
  }
}

}  // namespace

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
  CheckSampler(request, ToTrainingConfig(spec).diffusion.process, &violations);
  if (request.has_guidance() && !(request.guidance() >= 0 && request.guidance() <= kMaxGuidance)) {
    violations.push_back(Violation(
        "guidance",
        absl::StrCat("expected a number from 0 to ", kMaxGuidance, ", got ", request.guidance())));
  }
  const v1::GuidanceInterval& interval = request.guidance_interval();
  if (request.has_guidance_interval() &&
      !(interval.begin() >= 0 && interval.begin() <= interval.end() && interval.end() <= 1)) {
    violations.push_back(
        Violation("guidance_interval", absl::StrCat("expected 0 <= begin <= end <= 1, got ",
                                                    interval.begin(), " to ", interval.end())));
  }
  return violations;
}

void CompleteSampleRequest(const v1::TrainingSpec& spec, v1::SampleRequest* request) {
  if (request->sampler().empty()) {
    const ProcessKind process = ToTrainingConfig(spec).diffusion.process;
    request->set_sampler(std::string(SamplerName(DefaultSampler(process))));
  }
  if (!request->has_steps() && request->sampler() != SamplerName(SamplerKind::kDopri5)) {
    request->set_steps(kDefaultSampleSteps);
  }
  if (!request->has_guidance()) request->set_guidance(kDefaultGuidance);
  while (request->classes_size() < request->count()) request->add_classes(request->classes(0));
}

}  // namespace diffmoe::server
