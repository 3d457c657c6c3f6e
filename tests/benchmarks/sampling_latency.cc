#include "tests/benchmarks/sampling_latency.h"

#include <algorithm>
#include <random>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "tests/benchmarks/timing.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe::bench {
namespace {

constexpr int kWidth = 16;

// Tells when calls begin, and how long they take.
class TimedExecutor final : public SampleExecutor {
 public:
  explicit TimedExecutor(SampleExecutor& inner) : inner_(inner) {}

  double call_begin = 0;
  std::vector<double> call_seconds;

  absl::StatusOr<std::shared_ptr<const SampleModel>> Load(const SampleWork& work) override {
    return inner_.Load(work);
  }
  absl::StatusOr<std::unique_ptr<ImageTask>> Prepare(
      const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) override {
    return inner_.Prepare(work, model, index);
  }
  std::vector<absl::Status> Call(absl::Span<ImageTask* const> images) override {
    call_begin = Now();
    std::vector<absl::Status> statuses = inner_.Call(images);
    call_seconds.push_back(Now() - call_begin);
    return statuses;
  }
  SampleImage Picture(const ImageTask& image) override { return inner_.Picture(image); }
  ImageUsage Usage(const ImageTask& image) override { return inner_.Usage(image); }

 private:
  SampleExecutor& inner_;
};

struct Arrival {
  double seconds = 0;
  int images = 1, steps = 1;
};

std::vector<Arrival> DrawArrivals(int requests, double rows_per_second) {
  std::mt19937 random(1);
  std::vector<Arrival> arrivals;
  double rows = 0;
  for (int i = 0; i < requests; ++i) {
    Arrival& arrival = arrivals.emplace_back();
    arrival.images = random() % 10 == 0 ? 8 : 1;
    arrival.steps = 5 + static_cast<int>(random() % 21);
    rows += 2.0 * arrival.images * arrival.steps;
  }
  std::exponential_distribution<double> gap(rows_per_second * requests / rows);
  double now = 0;
  for (Arrival& arrival : arrivals) arrival.seconds = now += gap(random);
  return arrivals;
}

void WaitUntil(double moment) {
  while (Now() < moment) {
  }
}

double EngineLatency(SamplingModel& model, const std::vector<Arrival>& arrivals) {
  model.link().updates.clear();
  SampleEngineOptions options;
  options.curve.least_rows = options.curve.most_rows = kWidth;
  SampleEngine engine(model.link(), model.executor(), options);
  std::vector<size_t> open;
  double latency = 0;
  size_t next = 0;
  const double begin = Now();
  while (next < arrivals.size() || engine.busy()) {
    if (!engine.busy()) WaitUntil(begin + arrivals[next].seconds);
    for (; next < arrivals.size() && begin + arrivals[next].seconds <= Now(); ++next) {
      engine.Add(model.Work(absl::StrCat("r", next), arrivals[next].images, arrivals[next].steps,
                            NumericMode::kExact));
      open.push_back(next);
    }
    engine.Step();
    std::erase_if(open, [&](size_t i) {
      const auto& updates = model.link().updates[absl::StrCat("r", i)];
      if (updates.empty() || !std::holds_alternative<SampleFinished>(updates.back())) return false;
      latency += Now() - begin - arrivals[i].seconds;
      return true;
    });
  }
  return latency / static_cast<double>(arrivals.size());
}

double BatchLatency(SamplingModel& model, const std::vector<Arrival>& arrivals) {
  ModelExecutor& executor = model.executor();
  double latency = 0;
  size_t next = 0;
  const double begin = Now();
  while (next < arrivals.size()) {
    WaitUntil(begin + arrivals[next].seconds);
    std::vector<std::unique_ptr<ImageTask>> images;
    const size_t first = next;
    for (; next < arrivals.size() && begin + arrivals[next].seconds <= Now(); ++next) {
      const Arrival& arrival = arrivals[next];
      if (next > first && 2 * (std::ssize(images) + arrival.images) > kWidth) break;
      const SampleWork work = model.Work("r", arrival.images, arrival.steps, NumericMode::kExact);
      const auto loaded = executor.Load(work);
      for (int i = 0; loaded.ok() && i < arrival.images; ++i) {
        images.push_back(*executor.Prepare(work, *loaded, i));
      }
    }
    while (true) {
      std::vector<ImageTask*> left;
      for (const auto& image : images) {
        if (!image->done()) left.push_back(image.get());
      }
      if (left.empty()) break;
      executor.Call(left);
    }
    for (const auto& image : images) executor.Picture(*image);
    for (size_t i = first; i < next; ++i) latency += Now() - begin - arrivals[i].seconds;
  }
  return latency / static_cast<double>(arrivals.size());
}

// Median seconds of a call of kWidth rows.
double FullCallSeconds(SamplingModel& model) {
  const SampleWork work = model.Work("r", kWidth / 2, 12, NumericMode::kExact);
  const auto loaded = model.executor().Load(work);
  if (!loaded.ok()) throw std::runtime_error(loaded.status().ToString());
  std::vector<std::unique_ptr<ImageTask>> images;
  std::vector<ImageTask*> pointers;
  for (int i = 0; i < kWidth / 2; ++i) {
    images.push_back(*model.executor().Prepare(work, *loaded, i));
    pointers.push_back(images.back().get());
  }
  return TimeOf(10, [&] { model.executor().Call(pointers); });
}

}  // namespace

std::vector<Figure> MeasureFirstStep(SamplingModel& model, const LatencyOptions& options) {
  model.link().updates.clear();
  TimedExecutor executor(model.executor());
  SampleEngineOptions engine_options;
  engine_options.curve.least_rows = engine_options.curve.most_rows = kWidth;
  SampleEngine engine(model.link(), executor, engine_options);
  engine.Add(model.Work("long", 2, 1000, NumericMode::kExact));
  for (int i = 0; i < 5; ++i) engine.Step();
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<double> waits, beyond;
  for (int i = 0; i < options.arrivals; ++i) {
    const double begin = Now();
    engine.Step();
    // It came somewhere in this step, and the engine hears of it now.
    const double step = Now() - begin;
    const double arrival = begin + uniform(random) * step;
    engine.Add(model.Work(absl::StrCat("r", i), 1, 2, NumericMode::kExact));
    engine.Step();
    waits.push_back(executor.call_begin - arrival);
    beyond.push_back(waits.back() - step);
    engine.Cancel(absl::StrCat("r", i));
    if (!engine.busy()) engine.Add(model.Work("long", 2, 1000, NumericMode::kExact));
  }
  const auto p99 = [](std::vector<double>& values) {
    std::ranges::sort(values);
    return 1e3 * values[values.size() * 99 / 100];
  };
  return {{"first step: wait p99", p99(waits), "ms", {}, {}},
          {"first step: median step", 1e3 * Median(executor.call_seconds), "ms", {}, {}},
          {"first step: wait p99 beyond the step under way", p99(beyond), "ms", {}, 5}};
}

std::vector<Figure> MeasureLoad(SamplingModel& model, const LatencyOptions& options) {
  const double full = FullCallSeconds(model);
  const std::vector<Arrival> arrivals = DrawArrivals(options.requests, 0.8 * kWidth / full);
  const double batched = BatchLatency(model, arrivals);
  const double engine = EngineLatency(model, arrivals);
  return {{"80 % load: mean latency", 1e3 * engine, "ms", {}, {}},
          {"80 % load: batch to completion", 1e3 * batched, "ms", {}, {}},
          {"80 % load: over batch to completion", engine / batched, "", {}, 0.5}};
}

}  // namespace diffmoe::bench
