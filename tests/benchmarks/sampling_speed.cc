#include "tests/benchmarks/sampling_speed.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/benchmarks/timing.h"

namespace diffmoe::bench {
namespace {

constexpr int kWholeSteps = 50;

// Some images on their way.
class Running {
 public:
  Running(SamplingModel& model, int images, NumericMode mode) : executor_(model.executor()) {
    const SampleWork work = model.Work("r", images, kWholeSteps, mode);
    auto loaded = executor_.Load(work);
    if (!loaded.ok()) throw std::runtime_error(loaded.status().ToString());
    for (int i = 0; i < images; ++i) {
      auto image = executor_.Prepare(work, *loaded, i);
      if (!image.ok()) throw std::runtime_error(image.status().ToString());
      pointers_.push_back(image->get());
      images_.push_back(std::move(*image));
    }
  }
  double StepSeconds() {
    const double begin = ThreadCpuSeconds();
    for (const absl::Status& status : executor_.Call(pointers_)) {
      if (!status.ok()) throw std::runtime_error(status.ToString());
    }
    return ThreadCpuSeconds() - begin;
  }
  double Capacity() {
    double sum = 0, count = 0;
    for (const auto& image : images_) {
      for (const auto& layers : executor_.Usage(*image).step_capacity) {
        for (const float used : layers) {
          sum += static_cast<double>(used);
          ++count;
        }
      }
    }
    return sum / count;
  }

 private:
  ModelExecutor& executor_;
  std::vector<std::unique_ptr<ImageTask>> images_;
  std::vector<ImageTask*> pointers_;
};

// Floating-point operations a second of [2048, 384] x [384, 1536].
class GemmRate {
 public:
  double Sample() {
    constexpr int kProducts = 3;
    const double begin = ThreadCpuSeconds();
    for (int i = 0; i < kProducts; ++i) at::mm(a_, b_);
    return kProducts * 2.0 * 2048 * 384 * 1536 / (ThreadCpuSeconds() - begin);
  }

 private:
  const at::Tensor a_ = at::randn({2048, 384}), b_ = at::randn({384, 1536});
};

// Median seconds of [m, k] x [k, n], or of `batch` such products.
double ProductSeconds(int64_t m, int64_t k, int64_t n, int64_t batch = 1) {
  if (batch > 1) {
    const at::Tensor a = at::randn({batch, m, k}), b = at::randn({batch, k, n});
    return TimeOf(
        15, [&] { at::bmm(a, b); }, ThreadCpuSeconds);
  }
  const at::Tensor a = at::randn({m, k}), b = at::randn({k, n});
  return TimeOf(
      15, [&] { at::mm(a, b); }, ThreadCpuSeconds);
}

double ProductsOfStep(const ModelConfig& model, int64_t rows) {
  const int64_t side = model.tokens_per_sample(), tokens = rows * side, width = model.width;
  const int64_t heads = rows * model.heads, head = width / model.heads;
  const int64_t patch = model.patch_size * model.patch_size * model.channels;
  const double depth = static_cast<double>(model.depth);
  const double layers = static_cast<double>(model.depth / model.moe_every);
  const int64_t expert_rows = tokens / model.experts;
  const double block =
      ProductSeconds(tokens, width, 3 * width) + ProductSeconds(tokens, width, width) +
      ProductSeconds(rows, width, 6 * width) + ProductSeconds(side, head, side, heads) +
      ProductSeconds(side, side, head, heads);
  const double dense =
      ProductSeconds(tokens, width, model.hidden()) + ProductSeconds(tokens, model.hidden(), width);
  const double experts = static_cast<double>(model.experts) *
                         (ProductSeconds(expert_rows, width, model.expert_hidden()) +
                          ProductSeconds(expert_rows, model.expert_hidden(), width));
  const double router =
      2 * ProductSeconds(tokens, width, model.experts) + ProductSeconds(tokens, width, width);
  const double ends = ProductSeconds(tokens, patch, width) + ProductSeconds(rows, 256, width) +
                      ProductSeconds(rows, width, width) + ProductSeconds(rows, width, 2 * width) +
                      ProductSeconds(tokens, width, patch);
  return depth * block + (depth - layers) * dense + layers * (experts + router) + ends;
}

}  // namespace

std::vector<Figure> MeasureSpeed(const std::string& name, SamplingModel& model,
                                 std::pair<double, double> targets, const SpeedOptions& options) {
  at::NoGradGuard no_grad;
  std::vector<Figure> figures;
  for (const int batch : {1, 8}) {
    Running exact(model, batch, NumericMode::kExact), fast(model, batch, NumericMode::kFast);
    GemmRate gemm;
    std::vector<double> exact_seconds, fast_seconds, rates;
    // In turn, so that a disturbance meets all; the first round isn't counted.
    for (int step = 0; step <= options.steps; ++step) {
      const double rate = gemm.Sample(), of_exact = exact.StepSeconds(),
                   of_fast = fast.StepSeconds();
      if (step == 0) continue;
      rates.push_back(rate);
      exact_seconds.push_back(of_exact);
      fast_seconds.push_back(of_fast);
    }
    const double rate = Median(rates);
    const std::string at = absl::StrCat(name, " batch ", batch, " ");
    const double flops = 2.0 * 2 * model.MultiplyAdds() * kWholeSteps;
    const double exact_image = Median(exact_seconds) * kWholeSteps / batch;
    const double fast_image = Median(fast_seconds) * kWholeSteps / batch;
    figures.push_back({at + "exact", exact_image, "s/image", {}, {}});
    figures.push_back({at + "exact share of GEMM rate",
                       flops / exact_image / rate,
                       "",
                       batch == 1 ? targets.first : targets.second,
                       {}});
    figures.push_back({at + "fast", fast_image, "s/image", {}, {}});
    figures.push_back({at + "fast share of GEMM rate", flops / fast_image / rate, "", {}, {}});
    Figure ratio{at + "exact over fast", exact_image / fast_image, "", {}, {}};
    if (batch == 8) ratio.at_most = 1.35;
    figures.push_back(ratio);
    figures.push_back({at + "GEMM rate", rate / 1e9, "GFLOP/s", {}, {}});
    figures.push_back({at + "experts per token", exact.Capacity(), "", {}, {}});
  }
  return figures;
}

Figure MeasureBound(const std::string& name, SamplingModel& model, const SpeedOptions& options) {
  at::NoGradGuard no_grad;
  constexpr int kImages = 8;
  Running running(model, kImages, NumericMode::kExact);
  running.StepSeconds();
  std::vector<double> shares;
  for (int step = 0; step < options.steps; ++step) {
    const double products = ProductsOfStep(model.model(), 2 * kImages);
    shares.push_back(products / running.StepSeconds());
  }
  return {absl::StrCat(name, " at 8 requests: own matrix products over step"),
          Median(shares),
          "",
          0.75,
          {}};
}

}  // namespace diffmoe::bench
