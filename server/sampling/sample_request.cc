#include "server/sampling/sample_request.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/sampling/request_text.h"

namespace diffmoe::server {
namespace {

using Violations = std::vector<v1::FieldViolation>;

void CheckClasses(const v1::SampleRequest& request, int64_t classes, Violations* violations) {
  if (request.count() < 1 || request.count() > kMaxSampleCount) {
    violations->push_back(Violation(
        "count", absl::StrCat("expected 1 to ", kMaxSampleCount, ", got ", request.count())));
  }
  if (request.classes().empty()) {
    violations->push_back(Violation("classes", "expected one class, or one per image, got none"));
  } else if (request.classes_size() != 1 && request.classes_size() != request.count()) {
    violations->push_back(
        Violation("classes", absl::StrCat("expected 1 or count = ", request.count(),
                                          " entries, got ", request.classes_size())));
  }
  const auto known = [classes](int label) { return label >= 0 && label < classes; };
  const auto description = [classes](int label) {
    return absl::StrCat("expected a class from 0 to ", classes - 1, ", got ", label);
  };
  for (int i = 0; i < request.classes_size(); ++i) {
    if (known(request.classes(i))) continue;
    violations->push_back(
        Violation(absl::StrCat("classes[", i, "]"), description(request.classes(i))));
    break;  // one is enough of up to 1024
  }
  if (request.has_negative_class() && !known(request.negative_class())) {
    violations->push_back(Violation("negative_class", description(request.negative_class())));
  }
}

void CheckSampler(const v1::SampleRequest& request, ProcessKind process, Violations* violations) {
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

void CheckGuidance(const v1::SampleRequest& request, Violations* violations) {
  if (request.has_guidance() && !(request.guidance() >= 0 && request.guidance() <= kMaxGuidance)) {
    violations->push_back(Violation(
        "guidance",
        absl::StrCat("expected a number from 0 to ", kMaxGuidance, ", got ", request.guidance())));
  }
  const v1::GuidanceInterval& interval = request.guidance_interval();
  if (request.has_guidance_interval() &&
      !(interval.begin() >= 0 && interval.begin() <= interval.end() && interval.end() <= 1)) {
    violations->push_back(
        Violation("guidance_interval", absl::StrCat("expected 0 <= begin <= end <= 1, got ",
                                                    interval.begin(), " to ", interval.end())));
  }
}

// Why the model can't be asked for a capacity; empty: it can.
std::string WhyNoCapacity(const TrainingConfig& config) {
  if (config.model.family != Family::kDiffMoe) {
    return "only models of the family diffmoe have it";
  }
  if (config.compatibility.inference_rule == InferenceRule::kBatchTopK) {
    return "compatibility.inference_rule: batch_topk takes the same share always";
  }
  return "";
}

void CheckCapacity(const v1::SampleRequest& request, const TrainingConfig& config,
                   Violations* violations) {
  const v1::ThresholdRule rule = request.threshold_rule();
  if (!v1::ThresholdRule_IsValid(rule)) {
    violations->push_back(Violation(
        "threshold_rule", absl::StrCat("expected one of DYNAMIC, CALIBRATED, INTERVAL, GATE, got ",
                                       static_cast<int>(rule))));
    return;
  }
  const bool needs_capacity = rule == v1::CALIBRATED || rule == v1::INTERVAL || rule == v1::GATE;
  const std::string why_not = WhyNoCapacity(config);
  if (!why_not.empty()) {
    if (request.has_capacity()) {
      violations->push_back(Violation(
          "capacity", absl::StrCat("expected none: ", why_not, "; got ", request.capacity())));
    }
    if (needs_capacity) {
      violations->push_back(Violation(
          "threshold_rule",
          absl::StrCat("expected none: ", why_not, "; got ", v1::ThresholdRule_Name(rule))));
    }
    return;
  }
  const int64_t experts = config.model.experts;
  if (needs_capacity && !request.has_capacity()) {
    violations->push_back(Violation(
        "capacity", absl::StrCat("expected a number above 0, at most ", experts, ", for the rule ",
                                 v1::ThresholdRule_Name(rule), ", got none")));
  } else if (request.has_capacity() && rule == v1::DYNAMIC) {
    violations->push_back(Violation(
        "capacity", absl::StrCat("expected none for the rule DYNAMIC, got ", request.capacity())));
  } else if (request.has_capacity() &&
             !(request.capacity() > 0 && request.capacity() <= static_cast<double>(experts))) {
    violations->push_back(
        Violation("capacity", absl::StrCat("expected a number above 0, at most ", experts,
                                           " (the experts), got ", request.capacity())));
  }
}

void CheckPicture(const v1::SampleRequest& request, const ModelConfig& model,
                  Violations* violations) {
  const int64_t patch = model.patch_size;
  const int64_t largest = kMaxImageScale * model.image_size;
  if (request.has_image_size() && (request.image_size() < patch || request.image_size() > largest ||
                                   (patch > 0 && request.image_size() % patch != 0))) {
    violations->push_back(Violation(
        "image_size", absl::StrCat("expected a multiple of the patch size ", patch, " from ", patch,
                                   " to ", largest, ", got ", request.image_size())));
  }
  if (request.preview_every() < 0 || request.preview_every() > kMaxPreviewEvery) {
    violations->push_back(Violation(
        "preview_every",
        absl::StrCat("expected 0 to ", kMaxPreviewEvery, ", got ", request.preview_every())));
  }
  if (!v1::ImageEncoding_IsValid(request.encoding())) {
    violations->push_back(Violation(
        "encoding",
        absl::StrCat("expected one of RAW, PNG, got ", static_cast<int>(request.encoding()))));
  } else if (request.encoding() == v1::PNG && model.channels != 1 && model.channels != 3) {
    violations->push_back(Violation(
        "encoding",
        absl::StrCat("expected RAW for images of ", model.channels, " channels, got PNG")));
  }
  if (!v1::NumericMode_IsValid(request.numeric_mode())) {
    violations->push_back(
        Violation("numeric_mode", absl::StrCat("expected one of EXACT, FAST, got ",
                                               static_cast<int>(request.numeric_mode()))));
  }
  const uint64_t end =
      uint64_t{request.first_image()} + static_cast<uint64_t>(std::max(0, request.count()));
  if (end > uint64_t{1} << 32) {
    violations->push_back(Violation(
        "first_image", absl::StrCat("expected first_image + count <= 4294967296, got ", end)));
  }
}

}  // namespace

std::vector<v1::FieldViolation> ValidateSampleRequest(const v1::SampleRequest& request,
                                                      const TrainingConfig& config) {
  Violations violations;
  CheckClasses(request, config.model.classes, &violations);
  CheckSampler(request, config.diffusion.process, &violations);
  CheckGuidance(request, &violations);
  CheckCapacity(request, config, &violations);
  CheckPicture(request, config.model, &violations);
  CheckRequestText("request_id", request.request_id(), &violations);
  CheckRequestText("user", request.user(), &violations);
  return violations;
}

void CompleteSampleRequest(const TrainingConfig& config, v1::SampleRequest* request) {
  if (request->sampler().empty()) {
    request->set_sampler(std::string(SamplerName(DefaultSampler(config.diffusion.process))));
  }
  if (!request->has_steps() && request->sampler() != SamplerName(SamplerKind::kDopri5)) {
    request->set_steps(kDefaultSampleSteps);
  }
  if (!request->has_guidance()) request->set_guidance(kDefaultGuidance);
  if (request->threshold_rule() == v1::THRESHOLD_RULE_UNSPECIFIED) {
    request->set_threshold_rule(request->has_capacity() ? v1::CALIBRATED : v1::DYNAMIC);
  }
  if (!request->has_image_size()) {
    request->set_image_size(static_cast<int>(config.model.image_size));
  }
  if (request->encoding() == v1::IMAGE_ENCODING_UNSPECIFIED) request->set_encoding(v1::RAW);
  if (request->numeric_mode() == v1::NUMERIC_MODE_UNSPECIFIED) {
    request->set_numeric_mode(v1::EXACT);
  }
  while (request->classes_size() < request->count()) request->add_classes(request->classes(0));
}

}  // namespace diffmoe::server
