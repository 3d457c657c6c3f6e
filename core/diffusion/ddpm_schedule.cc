#include "core/diffusion/ddpm_schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace diffmoe {
namespace {

int64_t ParseCount(absl::string_view text, const std::string& spacing) {
  int64_t count = 0;
  if (!absl::SimpleAtoi(text, &count) || count < 1) {
    throw std::invalid_argument(
        absl::StrCat("spacing: expected ddimN or positive counts with commas between them, got '",
                     spacing, "'"));
  }
  return count;
}

std::vector<int64_t> EqualStride(int64_t total, int64_t count) {
  for (int64_t stride = 1; stride < total; ++stride) {
    if ((total + stride - 1) / stride != count) continue;
    std::vector<int64_t> steps;
    for (int64_t step = 0; step < total; step += stride) steps.push_back(step);
    return steps;
  }
  throw std::invalid_argument(
      absl::StrCat("spacing: no whole stride takes ", count, " of ", total, " steps"));
}

}  // namespace

DdpmSchedule DdpmSchedule::FromBetas(std::vector<double> betas) {
  DdpmSchedule out;
  out.betas = std::move(betas);
  const size_t n = out.betas.size();
  if (n < 2) throw std::invalid_argument(absl::StrCat("schedule: expected 2 steps, got ", n));
  out.timestep_map.resize(n);
  std::iota(out.timestep_map.begin(), out.timestep_map.end(), 0);
  double product = 1;
  for (size_t i = 0; i < n; ++i) {
    const double beta = out.betas[i];
    if (!(beta > 0 && beta < 1)) {
      throw std::invalid_argument(
          absl::StrCat("schedule: expected betas in (0, 1), got ", beta, " at step ", i));
    }
    const double previous = product;
    product *= 1 - beta;
    if (i > 0) out.alphas_cumprod_next.push_back(product);
    out.alphas_cumprod_prev.push_back(previous);
    out.alphas_cumprod.push_back(product);
    out.sqrt_alphas_cumprod.push_back(std::sqrt(product));
    out.sqrt_one_minus_alphas_cumprod.push_back(std::sqrt(1 - product));
    out.sqrt_recip_alphas_cumprod.push_back(std::sqrt(1 / product));
    out.sqrt_recipm1_alphas_cumprod.push_back(std::sqrt(1 / product - 1));
    out.posterior_variance.push_back(beta * (1 - previous) / (1 - product));
    out.posterior_mean_coef1.push_back(beta * std::sqrt(previous) / (1 - product));
    out.posterior_mean_coef2.push_back((1 - previous) * std::sqrt(1 - beta) / (1 - product));
  }
  out.alphas_cumprod_next.push_back(0);
  for (size_t i = 0; i < n; ++i) {
    out.posterior_log_variance_clipped.push_back(std::log(out.posterior_variance[i == 0 ? 1 : i]));
  }
  return out;
}

DdpmSchedule DdpmSchedule::Linear() {
  constexpr double kFirst = 1e-4, kLast = 0.02, kStride = (kLast - kFirst) / (kDdpmSteps - 1);
  std::vector<double> betas;
  for (int64_t i = 0; i < kDdpmSteps; ++i) {
    betas.push_back(kFirst + static_cast<double>(i) * kStride);
  }
  betas.back() = kLast;
  return FromBetas(std::move(betas));
}

DdpmSchedule DdpmSchedule::Respaced(const std::vector<int64_t>& steps) const {
  std::vector<double> kept;
  std::vector<int64_t> map;
  double previous = 1;
  for (int64_t step : steps) {
    const double product = alphas_cumprod.at(static_cast<size_t>(step));
    kept.push_back(1 - product / previous);
    map.push_back(timestep_map[static_cast<size_t>(step)]);
    previous = product;
  }
  DdpmSchedule out = FromBetas(std::move(kept));
  out.timestep_map = std::move(map);
  return out;
}

double DdpmSchedule::HalfLogSnr(int64_t step) const {
  const double a = alphas_cumprod.at(static_cast<size_t>(step));
  return 0.5 * std::log(a / (1 - a));
}

std::vector<int64_t> LogSnrSteps(const DdpmSchedule& schedule, int64_t count) {
  const int64_t total = schedule.size();
  if (count < 2 || count > total) {
    throw std::invalid_argument(
        absl::StrCat("steps: expected 2 to ", total, " of the schedule, got ", count));
  }
  const double first = schedule.HalfLogSnr(0), last = schedule.HalfLogSnr(total - 1);
  std::vector<int64_t> steps;
  int64_t step = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double wanted =
        first + (last - first) * static_cast<double>(i) / static_cast<double>(count - 1);
    const auto distance = [&](int64_t k) { return std::abs(schedule.HalfLogSnr(k) - wanted); };
    // Enough steps are left for the others.
    const int64_t most = total - count + i;
    while (step < most && distance(step + 1) <= distance(step)) ++step;
    steps.push_back(step);
    step = std::min(step + 1, total - 1);
  }
  return steps;
}

std::vector<int64_t> SpacedSteps(int64_t total, const std::string& spacing) {
  absl::string_view text = spacing;
  if (absl::ConsumePrefix(&text, "ddim")) return EqualStride(total, ParseCount(text, spacing));
  const std::vector<std::string> sections = absl::StrSplit(spacing, ',');
  const int64_t count = static_cast<int64_t>(sections.size());
  std::vector<int64_t> steps;
  int64_t begin = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = total / count + (i < total % count ? 1 : 0);
    const int64_t wanted = ParseCount(sections[static_cast<size_t>(i)], spacing);
    if (wanted > size) {
      throw std::invalid_argument(absl::StrCat("spacing: a section has ", size,
                                               " steps, expected at most that, got ", wanted));
    }
    const double stride =
        wanted == 1 ? 1 : static_cast<double>(size - 1) / static_cast<double>(wanted - 1);
    double position = 0;
    for (int64_t k = 0; k < wanted; ++k, position += stride) {
      steps.push_back(begin + static_cast<int64_t>(std::nearbyint(position)));
    }
    begin += size;
  }
  return steps;
}

}  // namespace diffmoe
