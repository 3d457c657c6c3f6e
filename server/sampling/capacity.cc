#include "server/sampling/capacity.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr double kSameCapacity = 1e-9;
// Thresholds of 0 and 1 have no finite log-odds.
constexpr double kLeastOdds = 1e-9;

double LogOdds(float threshold) {
  const double p = std::clamp(static_cast<double>(threshold), kLeastOdds, 1 - kLeastOdds);
  return std::log(p / (1 - p));
}

float Interpolate(float low, float high, double share) {
  const double odds = (1 - share) * LogOdds(low) + share * LogOdds(high);
  return static_cast<float>(1 / (1 + std::exp(-odds)));
}

bool SameShape(const v1::CalibratedTarget& a, const v1::CalibratedTarget& b) {
  if (a.layers_size() != b.layers_size()) return false;
  for (int i = 0; i < a.layers_size(); ++i) {
    if (a.layers(i).thresholds_size() != b.layers(i).thresholds_size()) return false;
  }
  return true;
}

std::vector<v1::CalibratedLayer> Between(const v1::CalibratedTarget& low,
                                         const v1::CalibratedTarget& high, double capacity) {
  const double share = (capacity - low.capacity()) / (high.capacity() - low.capacity());
  std::vector<v1::CalibratedLayer> layers;
  for (int i = 0; i < low.layers_size(); ++i) {
    v1::CalibratedLayer& layer = layers.emplace_back();
    layer.set_block(low.layers(i).block());
    for (int e = 0; e < low.layers(i).thresholds_size(); ++e) {
      layer.add_thresholds(
          Interpolate(low.layers(i).thresholds(e), high.layers(i).thresholds(e), share));
    }
  }
  return layers;
}

}  // namespace

absl::StatusOr<std::vector<v1::CalibratedLayer>> ResolveThresholds(
    const v1::Calibration& calibration, v1::ThresholdRule rule, double capacity) {
  std::vector<const v1::CalibratedTarget*> targets;
  for (const v1::CalibratedTarget& target : calibration.targets()) {
    if (target.rule() == rule) targets.push_back(&target);
  }
  const std::string& name = calibration.checkpoint();
  if (targets.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::NO_CALIBRATION,
                     absl::StrCat("the calibration of ", name, " has no targets of the rule ",
                                  v1::ThresholdRule_Name(rule),
                                  "; make a new one with: diffmoe calibrate ", name),
                     name);
  }
  std::sort(targets.begin(), targets.end(),
            [](const auto* a, const auto* b) { return a->capacity() < b->capacity(); });
  const v1::CalibratedTarget* low = nullptr;
  for (const v1::CalibratedTarget* target : targets) {
    if (std::abs(target->capacity() - capacity) <= kSameCapacity) {
      return std::vector<v1::CalibratedLayer>(target->layers().begin(), target->layers().end());
    }
    if (target->capacity() < capacity) {
      low = target;
    } else if (low != nullptr) {
      if (!SameShape(*low, *target)) {
        return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                         absl::StrCat("the targets ", low->capacity(), " and ", target->capacity(),
                                      " of the calibration of ", name, " differ in shape"),
                         name);
      }
      return Between(*low, *target, capacity);
    } else {
      break;
    }
  }
  return MakeViolations(
      v1::INVALID_REQUEST,
      {Violation(
          "capacity",
          absl::StrCat("expected ", targets.front()->capacity(), " to ", targets.back()->capacity(),
                       ", the range of the calibration of ", name, ", got ", capacity))});
}

}  // namespace diffmoe::server
