#include "core/train/adamw.h"

#include <cmath>

namespace diffmoe {
namespace {

template <typename Real>
struct Coefficients {
  Real scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, epsilon,
      keep, ema, one_minus_ema;
};

template <typename Real>
Coefficients<Real> Prepare(const AdamwStep& s) {
  const double correction1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  return {static_cast<Real>(s.grad_scale),
          static_cast<Real>(s.beta1),
          static_cast<Real>(1 - s.beta1),
          static_cast<Real>(s.beta2),
          static_cast<Real>(1 - s.beta2),
          static_cast<Real>(s.learning_rate / correction1),
          static_cast<Real>(1 / std::sqrt(correction2)),
          static_cast<Real>(s.epsilon),
          static_cast<Real>(1 - s.learning_rate * s.weight_decay),
          static_cast<Real>(s.ema_decay),
          static_cast<Real>(1 - s.ema_decay)};
}

// The vector units of the machine are chosen at load time.
#define DIFFMOE_ADAMW(Real, name)                                                                \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void name(       \
      Coefficients<Real> c, int64_t count, const Real* __restrict grad, Real* __restrict weight, \
      Real* __restrict m, Real* __restrict v, Real* __restrict ema) {                            \
    for (int64_t i = 0; i < count; ++i) {                                                        \
      const Real g = grad[i] * c.scale;                                                          \
      m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;                                             \
      v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);                                       \
      const Real w = c.keep * weight[i] -                                                        \
                     c.step_size * m[i] / (std::sqrt(v[i]) * c.root_correction + c.epsilon);     \
      weight[i] = w;                                                                             \
      ema[i] = c.ema * ema[i] + c.one_minus_ema * w;                                             \
    }                                                                                            \
  }

DIFFMOE_ADAMW(float, AdamwFloat)
DIFFMOE_ADAMW(double, AdamwDouble)

}  // namespace

template <>
void AdamwEma<float>(const AdamwStep& step, int64_t count, const float* grad, float* weight,
                     float* m, float* v, float* ema) {
  AdamwFloat(Prepare<float>(step), count, grad, weight, m, v, ema);
}
template <>
void AdamwEma<double>(const AdamwStep& step, int64_t count, const double* grad, double* weight,
                      double* m, double* v, double* ema) {
  AdamwDouble(Prepare<double>(step), count, grad, weight, m, v, ema);
}

}  // namespace diffmoe
