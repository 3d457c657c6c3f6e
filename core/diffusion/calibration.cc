#include "core/diffusion/calibration.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/diffusion/calibration_pass.h"
#include "core/diffusion/sampler.h"
#include "core/moe/selection.h"

namespace diffmoe {
namespace {

constexpr CalibrationRule kRules[] = {CalibrationRule::kPredictor, CalibrationRule::kInterval,
                                      CalibrationRule::kGate};
constexpr int kMaxTries = 8;
constexpr double kCloseEnough = 0.002;  // of the capacity
constexpr uint64_t kNoiseSeed = 0xca11b;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Spread {
  double mean = 0, deviation = 0;
};
// Of the log-odds of all thresholds.
Spread SpreadOf(const std::vector<std::vector<float>>& thresholds) {
  double sum = 0, squares = 0, count = 0;
  for (const std::vector<float>& layer : thresholds) {
    for (const float threshold : layer) {
      const double p = std::clamp<double>(threshold, 1e-4, 1 - 1e-4), logit = std::log(p / (1 - p));
      sum += logit;
      squares += logit * logit;
      ++count;
    }
  }
  const double mean = sum / count;
  return {mean, std::sqrt(std::max(0.0, squares / count - mean * mean))};
}

const char* NameOf(CalibrationRule rule) {
  switch (rule) {
    case CalibrationRule::kPredictor:
      return "quantiles of the predictor";
    case CalibrationRule::kInterval:
      return "one threshold";
    case CalibrationRule::kGate:
      return "quantiles of the gate";
  }
  return "";
}

// Of each expert the threshold that its `rows` best scores exceed.
std::vector<float> Quantiles(const std::vector<RouterOutput>& routes, bool by_gate,
                             const std::vector<int64_t>& rows) {
  std::vector<float> thresholds;
  for (size_t e = 0; e < rows.size(); ++e) {
    std::vector<float> scores;
    for (const RouterOutput& route : routes) {
      const at::Tensor& source = by_gate ? route.gate : route.score;
      const float* from = source.const_data_ptr<float>();
      for (int64_t t = 0; t < source.size(0); ++t) {
        scores.push_back(from[t * source.size(1) + static_cast<int64_t>(e)]);
      }
    }
    const int64_t tokens = static_cast<int64_t>(scores.size());
    if (rows[e] >= tokens) {
      thresholds.push_back(-1);
      continue;
    }
    const std::span<const float> all(scores);
    const float last = KthLargest<float>(all, rows[e]), next = KthLargest<float>(all, rows[e] + 1);
    thresholds.push_back(next + (last - next) / 2);
  }
  return thresholds;
}

// The i-th of n strata, in an order that is unrelated to that of the images.
double StratifiedTime(int64_t i, int64_t n) {
  int64_t stride = std::max<int64_t>(1, static_cast<int64_t>(0.618 * static_cast<double>(n)));
  while (std::gcd(stride, n) != 1) ++stride;
  return (static_cast<double>(i * stride % n) + 0.5) / static_cast<double>(n);
}

}  // namespace

CalibrationData MakeCalibrationData(const TrainingConfig& config, int64_t images,
                                    int64_t dataset_size, const ReadCalibrationImage& read) {
  const ModelConfig& model = config.model;
  const int64_t n = std::min(images, dataset_size / 2);
  if (n < 1) throw std::invalid_argument("a calibration needs two images at least");
  const auto floats = at::TensorOptions().dtype(at::kFloat);
  const int64_t pixels = model.channels * model.image_size * model.image_size;
  CalibrationData data;
  data.images = at::empty({2 * n, model.channels, model.image_size, model.image_size}, floats);
  data.noise = at::empty(data.images.sizes(), floats);
  data.t = at::empty({2 * n}, floats);
  data.labels = at::empty({2 * n}, at::TensorOptions().dtype(at::kLong));
  const bool ddpm = config.diffusion.process == ProcessKind::kDdpm;
  const double dropout = config.diffusion.label_dropout;
  for (int64_t i = 0; i < 2 * n; ++i) {
    // Neighbours of the data set go to different halves.
    const int64_t half = i / n, place = i % n;
    const int64_t source = (2 * place + half) * dataset_size / (2 * n);
    const int label = read(source, data.images.data_ptr<float>() + i * pixels);
    const bool dropped = std::floor(static_cast<double>(place + 1) * dropout) >
                         std::floor(static_cast<double>(place) * dropout);
    data.labels.data_ptr<int64_t>()[i] = dropped ? model.classes : label;
    data.noise.select(0, i).copy_(
        InitialNoise(model, kNoiseSeed, static_cast<uint32_t>(i)).select(0, 0));
    const double u = StratifiedTime(place, n);
    data.t.data_ptr<float>()[i] = ddpm ? DdpmTrainingTime(u) : static_cast<float>(u);
  }
  return data;
}

Calibration::Calibration(const Denoiser& denoiser, const Process& process, const ModelConfig& model,
                         CalibrationData data, std::vector<double> capacities)
    : denoiser_(denoiser),
      process_(process),
      model_(model),
      data_(std::move(data)),
      capacities_(std::move(capacities)),
      plan_(std::size(kRules) * capacities_.size()) {
  if (model.family != Family::kDiffMoe)
    throw std::invalid_argument("only models of the family diffmoe have thresholds");
  if (!done()) StartPass();
}

Calibration::~Calibration() = default;

std::vector<std::vector<float>> Calibration::Uniform(double logit) const {
  return std::vector<std::vector<float>>(
      static_cast<size_t>(denoiser_.moe_layer_count()),
      std::vector<float>(static_cast<size_t>(model_.experts), static_cast<float>(Sigmoid(logit))));
}

double Calibration::NextLogit() const {
  const Probe* low = nullptr;  // the highest threshold that lets enough pass
  const Probe* high = nullptr;
  for (const Probe& probe : probes_) {
    const bool enough = probe.capacity >= target_.capacity;
    if (enough && (low == nullptr || probe.logit > low->logit)) low = &probe;
    if (!enough && (high == nullptr || probe.logit < high->logit)) high = &probe;
  }
  if (low != nullptr && high != nullptr) {
    // On the straight line between both, but never so near to one that little is learnt.
    const double share = (low->capacity - target_.capacity) / (low->capacity - high->capacity);
    return low->logit + (high->logit - low->logit) * std::clamp(share, 0.1, 0.9);
  }
  // Where the experts' own thresholds for this capacity lie, then outwards.
  const Spread spread = SpreadOf(targets_[targets_.size() - capacities_.size()].thresholds);
  if (tries_ == 0) return spread.mean;
  const double step = std::max(spread.deviation, 0.02) * std::exp2(tries_);
  return low != nullptr ? std::max(spread.mean, low->logit) + step
                        : std::min(spread.mean, high->logit) - step;
}

void Calibration::StartPass() {
  const size_t index = targets_.size();
  const int64_t n = data_.images.size(0) / 2;
  if (stage_ == Stage::kFind && tries_ == 0) {
    target_ = {};
    target_.rule = kRules[index / capacities_.size()];
    target_.capacity = capacities_[index % capacities_.size()];
  }
  const bool by_gate = target_.rule == CalibrationRule::kGate;
  CalibrationPass::Decide decide;
  if (stage_ == Stage::kMeasure || target_.rule == CalibrationRule::kInterval) {
    if (stage_ == Stage::kFind) {
      probes_.push_back({NextLogit(), 0});
      target_.thresholds = Uniform(probes_.back().logit);
    }
    decide = [thresholds = target_.thresholds](int64_t layer, const std::vector<RouterOutput>&) {
      return thresholds[static_cast<size_t>(layer)];
    };
  } else {
    const auto rows =
        ExpertCapacities(n * model_.tokens_per_sample(), model_.experts, target_.capacity);
    decide = [by_gate, rows](int64_t, const std::vector<RouterOutput>& routes) {
      return Quantiles(routes, by_gate, rows);
    };
  }
  pass_ = std::make_unique<CalibrationPass>(denoiser_, process_, model_, data_,
                                            stage_ == Stage::kFind ? 0 : n, n, by_gate,
                                            std::move(decide));
}

void Calibration::EndPass() {
  if (stage_ == Stage::kFind) {
    ++tries_;
    target_.thresholds = pass_->thresholds();
    if (target_.rule == CalibrationRule::kInterval) {
      probes_.back().capacity = pass_->capacity();
      const double off = std::abs(pass_->capacity() / target_.capacity - 1);
      if (off > kCloseEnough && tries_ < kMaxTries) return;
    }
    stage_ = Stage::kMeasure;
    return;
  }
  target_.layer_capacity = pass_->layer_capacity();
  target_.measured = pass_->capacity();
  target_.loss = pass_->loss();
  target_.seconds = pass_->seconds() / (static_cast<double>(data_.images.size(0)) / 2);
  targets_.push_back(std::move(target_));
  stage_ = Stage::kFind;
  tries_ = 0;
}

void Calibration::Step() {
  if (done()) return;
  pass_->Step();
  if (!pass_->done()) return;
  EndPass();
  pass_.reset();
  if (!done()) StartPass();
}

double Calibration::progress() const {
  if (done()) return 1;
  const double share = stage_ == Stage::kMeasure ? 0.5 + 0.5 * pass_->progress()
                       : target_.rule == CalibrationRule::kInterval
                           ? 0.5 * std::min(1.0, tries_ / 4.0)
                           : 0.5 * pass_->progress();
  return (static_cast<double>(targets_.size()) + share) / static_cast<double>(plan_);
}

std::string Calibration::doing() const {
  if (done()) return "done";
  return absl::StrFormat("%s for a capacity of %g: %s", NameOf(target_.rule), target_.capacity,
                         stage_ == Stage::kFind ? "finding" : "measuring");
}

}  // namespace diffmoe
