// What the sampling engine asks of the model: prepare an image, one network call for many images,
// a picture. The engine decides which images share a call; it knows no tensors.
//
// One thread uses an executor and everything it made. Methods may throw what the Torch tier throws;
// the engine turns it into a Status.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// One image on its way from noise to data.
class ImageTask {
 public:
  virtual ~ImageTask() = default;
  virtual bool done() const = 0;
  virtual int64_t steps_done() const = 0;  // denoise steps
  virtual double progress() const = 0;     // share of the way, 1 when done
  // Samples that the next call has for this image: 2 with guidance, 1 without. 0 when done.
  virtual int rows() const = 0;
  // Rows of all calls from here on; an estimate with adaptive samplers.
  virtual int64_t rows_left() const = 0;
};

// What the calls of an image have used.
struct ImageUsage {
  int64_t network_calls = 0;
  // [network calls][MoE layers] experts used per token.
  std::vector<std::vector<float>> step_capacity;
  double zero_expert_tokens = 0;  // share of (token, layer) pairs over all calls
};

// A checkpoint with one set of thresholds, loaded.
class SampleModel {
 public:
  virtual ~SampleModel() = default;
  virtual std::string thresholds_hash() const = 0;
  virtual std::string weights_hash() const = 0;
};

class SampleExecutor {
 public:
  virtual ~SampleExecutor() = default;

  // Loads the checkpoint of `work` when it isn't loaded; blocks for that long. Models that running
  // images use stay loaded.
  virtual absl::StatusOr<std::shared_ptr<const SampleModel>> Load(const SampleWork& work) = 0;
  // Image `index` of `work`, before its first call. `model` is what Load returned for `work`.
  virtual absl::StatusOr<std::unique_ptr<ImageTask>> Prepare(
      const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) = 0;
  // One network call for every image; none is done. Images that can share a forward do. The result
  // has one status per image: an adaptive sampler may fail alone.
  virtual std::vector<absl::Status> Call(absl::Span<ImageTask* const> images) = 0;
  // The image when it is done; before, what the network expects it to become.
  virtual SampleImage Picture(const ImageTask& image) = 0;
  virtual ImageUsage Usage(const ImageTask& image) = 0;
};

}  // namespace diffmoe
