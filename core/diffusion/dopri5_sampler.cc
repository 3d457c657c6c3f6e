#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/diffusion/samplers.h"

namespace diffmoe {
namespace {

constexpr double kTimes[6] = {1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1};
// Row i gives the point at which stage i + 1 is evaluated; the last row is the solution of order 5.
constexpr double kStages[6][6] = {
    {1.0 / 5},
    {3.0 / 40, 9.0 / 40},
    {44.0 / 45, -56.0 / 15, 32.0 / 9},
    {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
    {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
    {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84},
};
// Order 5 minus order 4.
constexpr double kError[7] = {35.0 / 384 - 1951.0 / 21600,
                              0,
                              500.0 / 1113 - 22642.0 / 50085,
                              125.0 / 192 - 451.0 / 720,
                              -2187.0 / 6784 + 12231.0 / 42400,
                              11.0 / 84 - 649.0 / 6300,
                              -1.0 / 60};
// The point in the middle of the step, from Shampine (Math. Comp. 46, 1986).
constexpr double kMiddle[7] = {6025192743.0 / 30085553152 / 2,     0,
                               51252292925.0 / 65400821598 / 2,    -2691868925.0 / 45128329728 / 2,
                               187940372067.0 / 1594534317056 / 2, -1776094331.0 / 19743644256 / 2,
                               11237099.0 / 235043384 / 2};
constexpr double kOrder = 5, kSafety = 0.9, kLeastFactor = 0.2, kMostFactor = 10;
constexpr int64_t kMaxCalls = 20000;

double RootMeanSquare(const at::Tensor& values) {
  return std::sqrt(values.to(at::kDouble).square().mean().item<double>());
}

class Dopri5Sampler final : public Sampler {
 public:
  Dopri5Sampler(const SamplerOptions& options, const at::Tensor& noise)
      : relative_(options.relative_tolerance), absolute_(options.absolute_tolerance), x_(noise) {}

  bool done() const override { return done_; }
  const at::Tensor& x() const override { return x_; }
  at::Tensor expected() const override {
    return done_ || slopes_.empty() ? x_ : x_.add(slopes_[0], 1 - t_);
  }
  int64_t steps_done() const override { return steps_; }
  double progress() const override { return std::min(t_, 1.0); }

  NetworkCall next() const override {
    switch (slopes_.size()) {
      case 0:
        return {x_, 0};
      case 1:
        if (length_ == 0) return {x_.add(slopes_[0], probe_), probe_};
        [[fallthrough]];
      default:
        return {StagePoint(), t_ + kTimes[slopes_.size() - 1] * length_};
    }
  }

  void Feed(const at::Tensor& output) override {
    const at::Tensor slope = output.narrow(1, 0, x_.size(1));
    if (++calls_ > kMaxCalls) Fail(absl::StrCat("after ", kMaxCalls, " network calls"));
    if (slopes_.empty()) {
      slopes_.push_back(slope);
      ChooseProbe();
    } else if (length_ == 0) {
      ChooseFirstLength(slope);
    } else {
      slopes_.push_back(slope);
      if (slopes_.size() == 7) FinishStep();
    }
  }

 private:
  at::Tensor Weighted(const at::Tensor& base, std::span<const double> weights, double scale) const {
    at::Tensor sum = base;
    for (size_t i = 0; i < std::min(weights.size(), slopes_.size()); ++i) {
      if (weights[i] != 0) sum = sum.add(slopes_[i], scale * weights[i]);
    }
    return sum;
  }
  at::Tensor StagePoint() const { return Weighted(x_, kStages[slopes_.size() - 1], length_); }
  at::Tensor Scale() const { return x_.abs().mul(relative_).add(absolute_); }

  void ChooseProbe() {
    const at::Tensor scale = Scale();
    const double size = RootMeanSquare(x_.div(scale));
    slope_norm_ = RootMeanSquare(slopes_[0].div(scale));
    probe_ = size < 1e-5 || slope_norm_ < 1e-5 ? 1e-6 : 0.01 * size / slope_norm_;
  }

  void ChooseFirstLength(const at::Tensor& slope) {
    const double change = RootMeanSquare(slope.sub(slopes_[0]).div(Scale())) / probe_;
    const double largest = std::max(slope_norm_, change);
    const double length =
        largest <= 1e-15 ? std::max(1e-6, probe_ * 1e-3) : std::pow(0.01 / largest, 1 / kOrder);
    SetLength(std::min(100 * probe_, length));
  }

  void SetLength(double length) {
    if (!std::isfinite(length)) Fail(absl::StrCat("at t = ", t_, ": the error isn't finite"));
    if (t_ + length == t_) Fail(absl::StrCat("at t = ", t_, ": the step became ", length));
    length_ = length;
  }

  void FinishStep() {
    const at::Tensor end = Weighted(x_, kStages[5], length_);
    const at::Tensor tolerance = at::maximum(x_.abs(), end.abs()).mul(relative_).add(absolute_);
    const at::Tensor error = Weighted(at::zeros_like(x_), kError, length_);
    const double ratio = RootMeanSquare(error.div(tolerance));
    const double old_length = length_;
    if (ratio <= 1) {
      ++steps_;
      if (t_ + length_ >= 1) {
        x_ = Interpolated(end);
        t_ = 1;
        done_ = true;
        return;
      }
      t_ += length_;
      x_ = end;
      slopes_ = {slopes_[6]};
    } else {
      slopes_.resize(1);
    }
    const double least = ratio < 1 ? 1 : kLeastFactor;
    const double factor =
        ratio == 0 ? kMostFactor
                   : std::min(kMostFactor, std::max(kSafety / std::pow(ratio, 1 / kOrder), least));
    SetLength(old_length * factor);
  }

  // The state at t = 1 inside the step [t_, t_ + length_] that ends at `end`.
  at::Tensor Interpolated(const at::Tensor& end) const {
    const at::Tensor middle = Weighted(x_, kMiddle, length_);
    const double s = (1 - t_) / length_, s2 = s * s, s3 = s2 * s, s4 = s3 * s;
    // Coefficients of the polynomial with both ends, both slopes and the middle, by value.
    return x_.mul(1 - 11 * s2 + 18 * s3 - 8 * s4)
        .add(end, -5 * s2 + 14 * s3 - 8 * s4)
        .add(middle, 16 * s2 - 32 * s3 + 16 * s4)
        .add(slopes_[0], length_ * (s - 4 * s2 + 5 * s3 - 2 * s4))
        .add(slopes_[6], length_ * (s2 - 3 * s3 + 2 * s4));
  }

  [[noreturn]] static void Fail(const std::string& why) {
    throw std::runtime_error(
        absl::StrCat("dopri5 found no end ", why, "; take a sampler with fixed steps"));
  }

  const double relative_, absolute_;
  at::Tensor x_;
  double t_ = 0, length_ = 0;  // of the step under way; no length before the first one is chosen
  double probe_ = 0, slope_norm_ = 0;  // while the first length is chosen
  std::vector<at::Tensor> slopes_;     // of the stages so far
  int64_t steps_ = 0, calls_ = 0;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Sampler> MakeDopri5Sampler(const SamplerOptions& options, const at::Tensor& noise) {
  return std::make_unique<Dopri5Sampler>(options, noise);
}

}  // namespace diffmoe
