#include "tests/unit/worker/rank/fake_executor.h"

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

class FakeModel final : public SampleModel {
 public:
  std::string thresholds_hash() const override { return "thresholds"; }
  std::string weights_hash() const override { return "weights"; }
};

class FakeImage final : public ImageTask {
 public:
  FakeImage(std::string name, int steps, int rows, int64_t* alive)
      : name_(std::move(name)), steps_(steps), rows_(rows), alive_(alive) {
    ++*alive_;
  }
  ~FakeImage() override { --*alive_; }
  FakeImage(const FakeImage&) = delete;
  FakeImage& operator=(const FakeImage&) = delete;

  bool done() const override { return step_ == steps_; }
  int64_t steps_done() const override { return step_; }
  double progress() const override { return static_cast<double>(step_) / steps_; }
  int rows() const override { return done() ? 0 : rows_; }
  int64_t rows_left() const override { return int64_t{steps_ - step_} * rows_; }

  const std::string& name() const { return name_; }
  void Advance() { ++step_; }

 private:
  const std::string name_;
  const int steps_, rows_;
  int64_t* const alive_;
  int step_ = 0;
};

}  // namespace

SampleWork FakeWork(const std::string& id, int images, int steps) {
  SampleWork work;
  work.request_id = id;
  work.job_id = "a-1";
  work.step = 10;
  work.classes.assign(static_cast<size_t>(images), 3);
  work.sampler = "euler";
  work.steps = steps;
  return work;
}

absl::StatusOr<std::shared_ptr<const SampleModel>> FakeExecutor::Load(const SampleWork&) {
  ++loads;
  now += load_time;
  if (!load_status.ok()) return load_status;
  return std::shared_ptr<const SampleModel>(std::make_shared<FakeModel>());
}

absl::StatusOr<std::unique_ptr<ImageTask>> FakeExecutor::Prepare(
    const SampleWork& work, const std::shared_ptr<const SampleModel>&, int index) {
  const std::string name = absl::StrCat(work.request_id, "/", index);
  if (prepare_fails.contains(name)) return absl::InternalError("this image can't be prepared");
  const int steps = steps_of ? steps_of(work, index) : work.steps;
  auto image = std::make_unique<FakeImage>(name, steps, work.guidance == 1 ? 1 : 2, &images_alive);
  most_alive = std::max(most_alive, images_alive);
  return std::unique_ptr<ImageTask>(std::move(image));
}

std::vector<absl::Status> FakeExecutor::Call(absl::Span<ImageTask* const> images) {
  if (call_throws) throw std::runtime_error("no call today");
  std::vector<absl::Status> statuses;
  if (!record_calls) calls.clear();
  std::vector<std::string>& names = calls.emplace_back();
  int rows = 0;
  for (ImageTask* task : images) {
    auto& image = static_cast<FakeImage&>(*task);
    rows += image.rows();
    names.push_back(image.name());
    const auto found = image_status.find(image.name());
    statuses.push_back(found == image_status.end() ? absl::OkStatus() : found->second);
    image.Advance();
  }
  now += CallTime(rows);
  return statuses;
}

SampleImage FakeExecutor::Picture(const ImageTask& image) {
  SampleImage out;
  out.height = out.width = 2;
  out.channels = 1;
  out.pixels = std::string(4, static_cast<char>(image.steps_done()));
  return out;
}

ImageUsage FakeExecutor::Usage(const ImageTask& image) {
  ImageUsage usage;
  usage.network_calls = image.steps_done();
  usage.step_capacity.assign(static_cast<size_t>(image.steps_done()), {1.0f, 0.5f});
  usage.zero_expert_tokens = 0.25;
  return usage;
}

}  // namespace diffmoe
