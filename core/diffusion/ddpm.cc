#include "core/diffusion/ddpm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <numbers>
#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

// values[step] of every sample, [B, 1, 1, 1] of the dtype of `like`.
at::Tensor Coefficient(const std::vector<double>& values, const at::Tensor& step,
                       const at::Tensor& like) {
  const int64_t n = step.size(0);
  at::Tensor out = at::empty({n, 1, 1, 1}, at::TensorOptions().dtype(at::kDouble));
  const at::Tensor index = step.to(at::kCPU, at::kLong).contiguous();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t k = index.const_data_ptr<int64_t>()[i];
    if (k < 0 || k >= static_cast<int64_t>(values.size())) {
      throw std::invalid_argument(
          absl::StrCat("step: expected 0 to ", values.size() - 1, ", got ", k));
    }
    out.data_ptr<double>()[i] = values[static_cast<size_t>(k)];
  }
  return out.to(like.device(), like.scalar_type());
}

std::vector<double> Logarithms(std::vector<double> values) {
  for (double& value : values) value = std::log(value);
  return values;
}

// Betas, with the posterior variance of step 1 at step 0.
std::vector<double> LargeVariances(const DdpmSchedule& schedule) {
  std::vector<double> values = schedule.betas;
  values[0] = schedule.posterior_variance[1];
  return values;
}

// [B, 1, 1, 1], 0 at step 0, else 1.
at::Tensor NotLast(const at::Tensor& step, const at::Tensor& like) {
  return step.ne(0).view({-1, 1, 1, 1}).to(like.device(), like.scalar_type());
}

at::Tensor PredictedNoise(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                          const at::Tensor& step) {
  return x.mul(Coefficient(schedule.sqrt_recip_alphas_cumprod, step, x))
      .sub(x0)
      .div(Coefficient(schedule.sqrt_recipm1_alphas_cumprod, step, x));
}

at::Tensor PosteriorMean(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                         const at::Tensor& step) {
  return x0.mul(Coefficient(schedule.posterior_mean_coef1, step, x))
      .add(x.mul(Coefficient(schedule.posterior_mean_coef2, step, x)));
}

struct Elementwise {
  at::Tensor value, slope;
};

// The tanh approximation of the standard normal cdf, and its derivative.
Elementwise NormalCdf(const at::Tensor& z) {
  const double scale = std::sqrt(2 / std::numbers::pi), cubic = 0.044715;
  const at::Tensor square = z.square();
  const at::Tensor tanh = z.add(z.mul(square).mul(cubic)).mul(scale).tanh();
  return {tanh.add(1).mul(0.5),
          tanh.square().neg().add(1).mul(square.mul(3 * cubic).add(1)).mul(0.5 * scale)};
}

// log(max(value, 1e-12)) and the factor that the clamp leaves of a gradient over it.
Elementwise ClampedLog(const at::Tensor& value) {
  constexpr double kLeast = 1e-12;
  const at::Tensor clamped = value.clamp_min(kLeast);
  return {clamped.log(), value.ge(kLeast).to(value.scalar_type()).div(clamped)};
}

// -log likelihood of x0 (values in [-1, 1], in bins of 2/255, the outer ones open) under
// N(mean, exp(log_variance)), and its derivative with respect to log_variance.
Elementwise DiscretisedNll(const at::Tensor& x0, const at::Tensor& mean,
                           const at::Tensor& log_variance) {
  const at::Tensor centred = x0.sub(mean), inverse = log_variance.mul(-0.5).exp();
  const at::Tensor upper = centred.add(1.0 / 255).mul(inverse),
                   lower = centred.sub(1.0 / 255).mul(inverse);
  const Elementwise above = NormalCdf(upper), below = NormalCdf(lower);
  // d z / d log_variance = -z / 2.
  const at::Tensor above_slope = above.slope.mul(upper).mul(-0.5),
                   below_slope = below.slope.mul(lower).mul(-0.5);
  const Elementwise first = ClampedLog(above.value), last = ClampedLog(below.value.neg().add(1)),
                    inner = ClampedLog(above.value.sub(below.value));
  const at::Tensor is_first = x0.lt(-0.999), is_last = x0.gt(0.999);
  const auto choose = [&](const at::Tensor& f, const at::Tensor& l, const at::Tensor& i) {
    return at::where(is_first, f, at::where(is_last, l, i)).neg();
  };
  return {choose(first.value, last.value, inner.value),
          choose(above_slope.mul(first.slope), below_slope.neg().mul(last.slope),
                 above_slope.sub(below_slope).mul(inner.slope))};
}

}  // namespace

VarianceKind VarianceOf(const at::Tensor& output, const at::Tensor& x) {
  if (output.size(1) == x.size(1)) return VarianceKind::kFixedLarge;
  if (output.size(1) == 2 * x.size(1)) return VarianceKind::kLearnedRange;
  throw std::invalid_argument(absl::StrCat("network output: expected ", x.size(1), " or ",
                                           2 * x.size(1), " channels, got ", output.size(1)));
}

at::Tensor AddNoise(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& noise,
                    const at::Tensor& step) {
  return x0.mul(Coefficient(schedule.sqrt_alphas_cumprod, step, x0))
      .add(noise.mul(Coefficient(schedule.sqrt_one_minus_alphas_cumprod, step, x0)));
}

DdpmPrediction Predict(const DdpmSchedule& schedule, VarianceKind kind, const at::Tensor& output,
                       const at::Tensor& x, const at::Tensor& step, bool clip) {
  const int64_t channels = x.size(1);
  DdpmPrediction out;
  if (kind == VarianceKind::kLearnedRange) {
    const at::Tensor fraction = output.narrow(1, channels, channels).add(1).div(2);
    out.log_variance = fraction.mul(Coefficient(Logarithms(schedule.betas), step, x))
                           .add(fraction.neg().add(1).mul(
                               Coefficient(schedule.posterior_log_variance_clipped, step, x)));
    out.variance = out.log_variance.exp();
  } else {
    const bool large = kind == VarianceKind::kFixedLarge;
    const std::vector<double> variances =
        large ? LargeVariances(schedule) : schedule.posterior_variance;
    const std::vector<double> logarithms =
        large ? Logarithms(variances) : schedule.posterior_log_variance_clipped;
    out.variance = Coefficient(variances, step, x).expand_as(x);
    out.log_variance = Coefficient(logarithms, step, x).expand_as(x);
  }
  out.x0 = x.mul(Coefficient(schedule.sqrt_recip_alphas_cumprod, step, x))
               .sub(output.narrow(1, 0, channels)
                        .mul(Coefficient(schedule.sqrt_recipm1_alphas_cumprod, step, x)));
  if (clip) out.x0 = out.x0.clamp(-1, 1);
  out.mean = PosteriorMean(schedule, out.x0, x, step);
  return out;
}

at::Tensor AncestralStep(const DdpmPrediction& prediction, const at::Tensor& step,
                         const at::Tensor& noise) {
  return prediction.mean.add(
      prediction.log_variance.mul(0.5).exp().mul(noise).mul(NotLast(step, prediction.mean)));
}

at::Tensor DdimStep(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                    const at::Tensor& step, double eta, const at::Tensor& noise) {
  const at::Tensor predicted = PredictedNoise(schedule, x0, x, step);
  std::vector<double> sigma, direction, scale;
  for (size_t i = 0; i < schedule.betas.size(); ++i) {
    const double a = schedule.alphas_cumprod[i], previous = schedule.alphas_cumprod_prev[i];
    sigma.push_back(eta * std::sqrt((1 - previous) / (1 - a)) * std::sqrt(1 - a / previous));
    direction.push_back(std::sqrt(1 - previous - sigma[i] * sigma[i]));
    scale.push_back(std::sqrt(previous));
  }
  const at::Tensor mean =
      x0.mul(Coefficient(scale, step, x)).add(predicted.mul(Coefficient(direction, step, x)));
  if (!noise.defined()) return mean;
  return mean.add(noise.mul(Coefficient(sigma, step, x)).mul(NotLast(step, x)));
}

at::Tensor DdimReverseStep(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                           const at::Tensor& step) {
  std::vector<double> scale, direction;
  for (const double next : schedule.alphas_cumprod_next) {
    scale.push_back(std::sqrt(next));
    direction.push_back(std::sqrt(1 - next));
  }
  return x0.mul(Coefficient(scale, step, x))
      .add(PredictedNoise(schedule, x0, x, step).mul(Coefficient(direction, step, x)));
}

VariationalBound VariationalBoundTerm(const DdpmSchedule& schedule, const at::Tensor& output,
                                      const at::Tensor& x0, const at::Tensor& noisy,
                                      const at::Tensor& step) {
  // In the dtype of the network, as published: at step 0 two nearly equal probabilities are
  // subtracted, so that fp32 is 4e-4 off fp64 there.
  const at::ScalarType dtype = output.scalar_type();
  const at::Tensor image = x0.to(dtype), x = noisy.to(dtype);
  const DdpmPrediction model =
      Predict(schedule, VarianceKind::kLearnedRange, output.detach(), x, step, false);
  const at::Tensor true_mean = PosteriorMean(schedule, image, x, step);
  const at::Tensor least = Coefficient(schedule.posterior_log_variance_clipped, step, x),
                   most = Coefficient(Logarithms(schedule.betas), step, x);
  // KL of two normal distributions; d/d log_variance is half of 1 - (the two ratios).
  const at::Tensor ratios =
      least.sub(model.log_variance)
          .exp()
          .add(true_mean.sub(model.mean).square().mul(model.log_variance.neg().exp()));
  const at::Tensor kl = model.log_variance.sub(least).sub(1).add(ratios).mul(0.5),
                   kl_slope = ratios.neg().add(1).mul(0.5);
  const Elementwise nll = DiscretisedNll(image, model.mean, model.log_variance);
  const at::Tensor last = step.eq(0).view({-1, 1, 1, 1});
  const double per_bit = 1 / std::numbers::ln2;
  VariationalBound out;
  out.bits = at::where(last, nll.value, kl).flatten(1).mean(1).mul(per_bit);
  out.grad_variance = at::where(last, nll.slope, kl_slope).mul(most.sub(least)).mul(0.5 * per_bit);
  return out;
}

}  // namespace diffmoe
