// The sampling engine of one rank: a running set of requests that may join and leave between
// denoise steps. Every image is computed by itself, so its bits depend on neither batch mates nor
// the step at which it joined. One thread uses an engine.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/diffusion/denoiser.h"
#include "core/diffusion/guidance.h"
#include "core/diffusion/process.h"
#include "core/diffusion/sampler.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

class SampleEngine {
 public:
  explicit SampleEngine(RankLink& link) : link_(link) {}

  bool busy() const { return !running_.empty(); }
  // Loads the checkpoint when it isn't loaded (blocks for that long). A failure is sent to the
  // requester.
  void Add(SampleWork work);
  // Unknown requests are ignored: they may have just finished.
  void Cancel(const std::string& request_id);
  // One denoise step of every running request; sends progress, and images when done.
  void Step();

 private:
  struct Model {
    std::string job_id;
    int64_t step = 0;
    std::unique_ptr<Denoiser> denoiser;
    std::unique_ptr<Process> process;
    std::string thresholds_hash;
  };
  struct Request {
    SampleWork work;
    std::shared_ptr<const Model> model;
    std::vector<std::unique_ptr<Sampler>> samplers;  // one per image, x: [1, C, H, W]
    Guidance guidance;
    CapacityCounts counts;
    int64_t network_calls = 0;
    double begin_seconds = 0;
  };

  absl::StatusOr<std::shared_ptr<const Model>> Load(const SampleWork& work);
  static absl::Status Prepare(Request& request);
  // One step of every image that isn't done. OK to go on; any other status ends the request.
  absl::Status Advance(Request& request);
  static void AdvanceImage(Request& request, size_t image);
  absl::Status Finish(Request& request);

  RankLink& link_;
  std::list<Request> running_;
  std::list<std::shared_ptr<const Model>> models_;  // newest first, at most kModels
};

}  // namespace diffmoe
