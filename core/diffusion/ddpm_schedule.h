// The noise schedule of DDPM (Ho et al., arXiv 2006.11239) and its respacing (Nichol and Dhariwal,
// arXiv 2102.09672), in fp64. Step 0 has the least noise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace diffmoe {

inline constexpr int64_t kDdpmSteps = 1000;

// Arrays over the steps. A step i of a respaced schedule stands for step timestep_map[i] of the
// schedule that the network was trained with.
struct DdpmSchedule {
  // Needs at least two betas in (0, 1); throws std::invalid_argument otherwise.
  static DdpmSchedule FromBetas(std::vector<double> betas);
  // kDdpmSteps betas, linear from 1e-4 to 0.02.
  static DdpmSchedule Linear();
  // Keeps `steps` (ascending, of this schedule) with their alphas_cumprod.
  DdpmSchedule Respaced(const std::vector<int64_t>& steps) const;

  // Half the logarithm of the signal-to-noise ratio a / (1 - a), a = alphas_cumprod[step].
  double HalfLogSnr(int64_t step) const;
  int64_t size() const { return static_cast<int64_t>(betas.size()); }

  std::vector<int64_t> timestep_map;
  std::vector<double> betas;
  std::vector<double> alphas_cumprod;       // product of 1 - beta up to and including the step
  std::vector<double> alphas_cumprod_prev;  // one step less noise; 1 in front of step 0
  std::vector<double> alphas_cumprod_next;  // one step more noise; 0 behind the last step
  std::vector<double> sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod;
  std::vector<double> sqrt_recip_alphas_cumprod, sqrt_recipm1_alphas_cumprod;  // 1/a, 1/a - 1
  // q(x_{t-1} | x_t, x_0) = N(coef1 x_0 + coef2 x_t, variance). The variance of step 0 is 0, and
  // its logarithm that of step 1.
  std::vector<double> posterior_variance, posterior_log_variance_clipped;
  std::vector<double> posterior_mean_coef1, posterior_mean_coef2;
};

// Steps kept of `total`, ascending. `spacing`: "ddimN", every k-th step from 0 on with the k that
// gives N; or section sizes "10,15,20": `total` is cut into equal sections, and from each so many
// steps are kept, first and last included, positions accumulated in floating point and rounded half
// to even. Throws std::invalid_argument when that isn't possible.
std::vector<int64_t> SpacedSteps(int64_t total, const std::string& spacing);

// `count` steps of `schedule`, ascending, first and last included, as evenly spaced in the
// logarithm of the signal-to-noise ratio as whole steps can be. Throws std::invalid_argument unless
// `count` is from 2 to the schedule's size.
std::vector<int64_t> LogSnrSteps(const DdpmSchedule& schedule, int64_t count);

}  // namespace diffmoe
