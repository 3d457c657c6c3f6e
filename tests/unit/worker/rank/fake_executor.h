// An executor without a model over a clock of its own: a call of n rows takes base + n * row
// seconds.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "worker/rank/sample_executor.h"

namespace diffmoe {

class FakeExecutor final : public SampleExecutor {
 public:
  FakeExecutor(double base_seconds, double row_seconds)
      : base_seconds_(base_seconds), row_seconds_(row_seconds) {}

  // What the engine takes as the time.
  absl::Time now = absl::FromUnixSeconds(1000);
  absl::Duration CallTime(int rows) const {
    return absl::Seconds(base_seconds_ + row_seconds_ * rows);
  }

  // Per call the images in it, as "request/index".
  std::vector<std::vector<std::string>> calls;
  bool record_calls = true;
  int loads = 0;
  int64_t images_alive = 0, most_alive = 0;

  absl::Duration load_time;
  absl::Status load_status;
  std::map<std::string, absl::Status> image_status;  // of a call, by "request/index"
  std::set<std::string> prepare_fails;               // by "request/index"
  bool call_throws = false;
  // Steps of an image; not set: those of the request.
  std::function<int(const SampleWork& work, int index)> steps_of;

  absl::StatusOr<std::shared_ptr<const SampleModel>> Load(const SampleWork& work) override;
  absl::StatusOr<std::unique_ptr<ImageTask>> Prepare(
      const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) override;
  std::vector<absl::Status> Call(absl::Span<ImageTask* const> images) override;
  SampleImage Picture(const ImageTask& image) override;
  ImageUsage Usage(const ImageTask& image) override;

 private:
  const double base_seconds_, row_seconds_;
};

// A request of the model that FakeRankLink holds; guided, so every image has two rows.
SampleWork FakeWork(const std::string& id, int images, int steps);

}  // namespace diffmoe
