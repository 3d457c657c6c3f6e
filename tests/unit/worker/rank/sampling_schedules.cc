// Random schedules of requests on a small model: they join and leave between denoise steps, are
// cancelled, share calls of random width, and the rank restarts. Every image must have the hash
// that it has when it is made alone by a fresh engine. Prints the seed; exit code 1 on a
// difference, down to the last bit of the values behind the pixels.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/diffusion/sampler_kind.h"
#include "tests/unit/worker/rank/fake_rank_link.h"
#include "worker/rank/model_executor.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {
namespace {

constexpr int kKinds = 4, kRequestsPerKind = 48;

using Random = std::mt19937_64;

int Draw(Random& random, int least, int most) {
  return least + static_cast<int>(random() % static_cast<uint64_t>(most - least + 1));
}
template <typename T>
T OneOf(Random& random, const std::vector<T>& values) {
  return values[random() % values.size()];
}

TrainingConfig ConfigOf(int kind) {
  TrainingConfig config;
  config.model.image_size = 8;
  config.model.patch_size = 2;
  config.model.width = 64;
  config.model.depth = 2;
  config.model.heads = 2;
  config.model.experts = 4;
  if (kind == 1) {
    config.diffusion.process = ProcessKind::kDdpm;
    config.model.learn_sigma = true;
  }
  if (kind == 2) {
    config.model.shared_experts = 1;
    config.model.activation = Activation::kSwiglu;
  }
  if (kind == 3) {
    config.model.family = Family::kExpertChoice;
    config.model.pool = PoolScope::kSample;
  }
  return config;
}

// Pictures that hold the values themselves, so that a difference in the last bit changes the hash.
class ExactPictures final : public SampleExecutor {
 public:
  explicit ExactPictures(RankLink& link) : inner_(link) {}

  absl::StatusOr<std::shared_ptr<const SampleModel>> Load(const SampleWork& work) override {
    return inner_.Load(work);
  }
  absl::StatusOr<std::unique_ptr<ImageTask>> Prepare(
      const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) override {
    return inner_.Prepare(work, model, index);
  }
  std::vector<absl::Status> Call(absl::Span<ImageTask* const> images) override {
    return inner_.Call(images);
  }
  SampleImage Picture(const ImageTask& image) override {
    SampleImage picture = inner_.Picture(image);
    const at::Tensor values = inner_.Values(image).contiguous();
    picture.pixels.append(reinterpret_cast<const char*>(values.const_data_ptr<float>()),
                          static_cast<size_t>(values.numel()) * sizeof(float));
    return picture;
  }
  ImageUsage Usage(const ImageTask& image) override { return inner_.Usage(image); }

 private:
  ModelExecutor inner_;
};

// A model, the requests that are made with it, and the hashes of their images when made alone.
class World {
 public:
  World(int kind, uint64_t seed, NumericMode mode)
      : config_(ConfigOf(kind)), mode_(mode), link_(config_) {
    Random random(seed * 31 + static_cast<uint64_t>(kind));
    for (int i = 0; i < kRequestsPerKind; ++i) requests_.push_back(DrawRequest(random, i));
    alone_.resize(requests_.size());
  }

  FakeRankLink& link() { return link_; }
  const SampleWork& request(size_t i) const { return requests_[i]; }
  const std::vector<std::string>& Alone(size_t i) {
    std::vector<std::string>& hashes = alone_[i];
    if (!hashes.empty()) return hashes;
    for (size_t image = 0; image < requests_[i].classes.size(); ++image) {
      SampleWork work = requests_[i];
      work.request_id = "alone";
      work.classes = {requests_[i].classes[image]};
      work.first_image += static_cast<uint32_t>(image);
      hashes.push_back(MakeAlone(work));
    }
    return hashes;
  }

 private:
  SampleWork DrawRequest(Random& random, int index) const {
    SampleWork work;
    work.request_id = absl::StrCat("r", index);
    work.job_id = "a-1";
    work.step = 10;
    work.config = config_;
    const int images = Draw(random, 1, 4);
    for (int i = 0; i < images; ++i) work.classes.push_back(Draw(random, 0, 9));
    work.seed = random() % 5;
    work.first_image = static_cast<uint32_t>(Draw(random, 0, 20));
    const bool ddpm = config_.diffusion.process == ProcessKind::kDdpm;
    work.sampler = ddpm ? OneOf<std::string>(random, {"ddim", "ancestral", "dpmpp_2m"})
                        : OneOf<std::string>(random, {"euler", "heun", "euler_maruyama", "euler",
                                                      index % 8 == 0 ? "dopri5" : "heun"});
    work.steps = Draw(random, 2, 6);
    if (work.sampler == "ddim") work.eta = OneOf<double>(random, {0, 0.5, 1});
    work.guidance = OneOf<double>(random, {0, 1, 1.5, 4});
    work.guidance_begin = OneOf<double>(random, {0, 0, 0.3});
    work.guidance_end = OneOf<double>(random, {1, 1, 0.7});
    if (Draw(random, 0, 3) == 0) work.negative_class = Draw(random, 0, 9);
    if (Draw(random, 0, 4) == 0) work.image_size = OneOf<int>(random, {4, 12, 16});
    work.numeric_mode = mode_;
    work.preview_every = OneOf<int>(random, {0, 0, 1, 2});
    if (config_.model.family == Family::kDiffMoe && Draw(random, 0, 1) == 0) {
      work.rule = OneOf<ThresholdRule>(
          random, {ThresholdRule::kCalibrated, ThresholdRule::kInterval, ThresholdRule::kGate});
      std::vector<float>& layer = work.thresholds.emplace_back();
      for (int e = 0; e < 4; ++e) layer.push_back(static_cast<float>(Draw(random, 5, 95)) / 100);
    }
    return work;
  }

  std::string MakeAlone(const SampleWork& work) {
    link_.updates.clear();
    ExactPictures executor(link_);
    SampleEngine engine(link_, executor);
    engine.Add(work);
    for (int i = 0; i < 20000 && engine.busy(); ++i) engine.Step();
    const SampleUpdateData& last = link_.updates["alone"].back();
    const auto* finished = std::get_if<SampleFinished>(&last);
    if (finished == nullptr) {
      std::printf("alone: %s\n", std::get<absl::Status>(last).ToString().c_str());
      return "failed";
    }
    return finished->image_hashes[0];
  }

  const TrainingConfig config_;
  const NumericMode mode_;
  FakeRankLink link_;
  std::vector<SampleWork> requests_;
  std::vector<std::vector<std::string>> alone_;
};

struct Totals {
  int64_t images = 0, cancelled = 0, restarts = 0, calls = 0, rows = 0, wrong = 0;
};

// One run of an engine; `Restart` is what a new rank of the same sampler does.
class Schedule {
 public:
  Schedule(World& world, uint64_t seed, Totals& totals)
      : world_(world), random_(seed), totals_(totals) {}

  void Run() {
    Choose();
    world_.link().updates.clear();
    Start();
    int at = 0;
    while (!waiting_.empty() || engine_->busy()) {
      while (!waiting_.empty() && waiting_.begin()->first <= at) {
        engine_->Add(world_.request(waiting_.begin()->second));
        open_.push_back(waiting_.begin()->second);
        waiting_.erase(waiting_.begin());
      }
      if (!open_.empty() && Draw(random_, 0, 30) == 0) CancelOne();
      if (!open_.empty() && Draw(random_, 0, 60) == 0) Restart();
      engine_->Step();
      Collect();
      ++at;
    }
    End();
  }

 private:
  void Choose() {
    std::map<size_t, int> chosen;
    const int count = Draw(random_, 2, 6);
    for (int i = 0; i < count; ++i) {
      chosen.emplace(random_() % kRequestsPerKind, Draw(random_, 0, 12));
    }
    for (const auto& [request, at] : chosen) {
      world_.Alone(request);
      waiting_.emplace(at, request);
    }
  }

  void Start() {
    SampleEngineOptions options;
    const int width = Draw(random_, 2, 24);
    options.curve.least_rows = Draw(random_, 2, width);
    options.curve.most_rows = width;
    // Time of its own: the same seed gives the same schedule.
    options.now = [this] {
      now_ += absl::Microseconds(Draw(random_, 100, 3000));
      return now_;
    };
    executor_ = std::make_unique<ExactPictures>(world_.link());
    engine_ = std::make_unique<SampleEngine>(world_.link(), *executor_, options);
  }

  void End() {
    totals_.calls += engine_->stats().calls;
    totals_.rows += engine_->stats().rows;
    engine_.reset();
    executor_.reset();
  }

  void Restart() {
    End();
    Start();
    ++totals_.restarts;
    for (const size_t request : open_) {
      world_.link().updates.erase(world_.request(request).request_id);
      engine_->Add(world_.request(request));
    }
  }

  void CancelOne() {
    const size_t which = random_() % open_.size();
    engine_->Cancel(world_.request(open_[which]).request_id);
    open_.erase(open_.begin() + static_cast<int64_t>(which));
    ++totals_.cancelled;
  }

  void Collect() {
    std::erase_if(open_, [&](size_t request) {
      const std::string& id = world_.request(request).request_id;
      const auto& updates = world_.link().updates[id];
      if (updates.empty()) return false;
      if (const auto* error = std::get_if<absl::Status>(&updates.back())) {
        std::printf("%s: %s\n", id.c_str(), error->ToString().c_str());
        ++totals_.wrong;
        return true;
      }
      const auto* finished = std::get_if<SampleFinished>(&updates.back());
      if (finished == nullptr) return false;
      const std::vector<std::string>& alone = world_.Alone(request);
      for (size_t i = 0; i < alone.size(); ++i) {
        ++totals_.images;
        if (finished->image_hashes[i] == alone[i]) continue;
        ++totals_.wrong;
        std::printf("%s image %zu (%s): %s, alone %s\n", id.c_str(), i,
                    world_.request(request).sampler.c_str(), finished->image_hashes[i].c_str(),
                    alone[i].c_str());
      }
      return true;
    });
  }

  World& world_;
  Random random_;
  Totals& totals_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::multimap<int, size_t> waiting_;  // by step of arrival
  std::vector<size_t> open_;
  std::unique_ptr<ExactPictures> executor_;
  std::unique_ptr<SampleEngine> engine_;
};

int Main(int argc, char** argv) {
  CLI::App app{"Random schedules: every image must be what it is alone."};
  int schedules = 500;
  uint64_t seed = 1;
  app.add_option("--schedules", schedules, "How many")->check(CLI::Range(1, 1000000));
  app.add_option("--seed", seed, "Of the first one; each further one has the next");
  bool fast = false;
  app.add_flag("--fast", fast, "The fast mode, which promises nothing: shows that this can fail");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  std::vector<std::unique_ptr<World>> worlds;
  for (int kind = 0; kind < kKinds; ++kind) {
    worlds.push_back(
        std::make_unique<World>(kind, seed, fast ? NumericMode::kFast : NumericMode::kExact));
  }
  Totals totals;
  for (int i = 0; i < schedules; ++i) {
    const uint64_t schedule_seed = seed + static_cast<uint64_t>(i);
    const int64_t wrong = totals.wrong;
    Schedule(*worlds[static_cast<size_t>(i % kKinds)], schedule_seed, totals).Run();
    if (totals.wrong > wrong) std::printf("  in schedule %d of seed %zu\n", i, size_t{seed});
  }
  std::printf(
      "%d schedules from seed %zu: %ld images, %ld cancelled, %ld restarts, %ld calls, %.1f "
      "rows per call; %ld differ from the image made alone\n",
      schedules, size_t{seed}, totals.images, totals.cancelled, totals.restarts, totals.calls,
      static_cast<double>(totals.rows) / static_cast<double>(totals.calls), totals.wrong);
  return totals.wrong == 0 && totals.images > schedules ? 0 : 1;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) { return diffmoe::Main(argc, argv); }
