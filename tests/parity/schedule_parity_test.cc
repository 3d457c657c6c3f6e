// The DDPM schedule and its respacing against the published code's fp64 arrays.
#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/diffusion/ddpm_schedule.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr double kRelative = 1e-12;

at::Tensor Doubles(const std::vector<double>& values) {
  at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), out.data_ptr<double>());
  return out;
}

void CheckArrays(const DdpmSchedule& schedule, const std::string& prefix) {
  const Fixture golden("schedule_ddpm");
  const std::pair<const char*, const std::vector<double>*> arrays[] = {
      {"betas", &schedule.betas},
      {"alphas_cumprod", &schedule.alphas_cumprod},
      {"alphas_cumprod_prev", &schedule.alphas_cumprod_prev},
      {"sqrt_alphas_cumprod", &schedule.sqrt_alphas_cumprod},
      {"sqrt_one_minus_alphas_cumprod", &schedule.sqrt_one_minus_alphas_cumprod},
      {"sqrt_recip_alphas_cumprod", &schedule.sqrt_recip_alphas_cumprod},
      {"sqrt_recipm1_alphas_cumprod", &schedule.sqrt_recipm1_alphas_cumprod},
      {"posterior_variance", &schedule.posterior_variance},
      {"posterior_log_variance_clipped", &schedule.posterior_log_variance_clipped},
      {"posterior_mean_coef1", &schedule.posterior_mean_coef1},
      {"posterior_mean_coef2", &schedule.posterior_mean_coef2},
  };
  for (const auto& [name, values] : arrays) {
    EXPECT_TRUE(Close(Doubles(*values), golden.at(prefix + "." + name), 0, kRelative)) << name;
  }
}

std::vector<int64_t> Map(const std::string& key) {
  const at::Tensor map = Fixture("schedule_ddpm").at(key);
  return {map.data_ptr<int64_t>(), map.data_ptr<int64_t>() + map.numel()};
}

DdpmSchedule Spaced(const std::string& spacing) {
  return DdpmSchedule::Linear().Respaced(SpacedSteps(kDdpmSteps, spacing));
}

TEST(ScheduleParity, Linear) {
  CheckArrays(DdpmSchedule::Linear(), "ddpm1000");
  EXPECT_EQ(DdpmSchedule::Linear().timestep_map, Map("ddpm1000.timestep_map"));
}

TEST(ScheduleParity, RespacedTo250) {
  CheckArrays(Spaced("250"), "spaced250");
  EXPECT_EQ(Spaced("250").timestep_map, Map("spaced250.timestep_map"));
}

TEST(ScheduleParity, RespacedTo50) {
  CheckArrays(Spaced("50"), "spaced50");
  EXPECT_EQ(Spaced("50").timestep_map, Map("spaced50.timestep_map"));
}

TEST(ScheduleParity, TimestepMaps) {
  for (const std::string spacing : {"10", "25", "100", "ddim25", "ddim50", "10,15,20"}) {
    EXPECT_EQ(SpacedSteps(kDdpmSteps, spacing), Map("map." + spacing)) << spacing;
  }
}

}  // namespace
}  // namespace diffmoe
