// One request in the sampling engine: which of its images run, which are done, what its receipt
// adds up to. Not thread safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/sample_executor.h"
#include "worker/rank/sample_trace.h"

namespace diffmoe {

// Field and value that make `work` impossible, INVALID_ARGUMENT; what only the model can tell is
// left to the executor.
absl::Status CheckSampleWork(const SampleWork& work);

class SampleRequest {
 public:
  struct RunningImage {
    int index = 0;
    std::unique_ptr<ImageTask> task;
    int64_t steps_seen = 0;  // at the end of the call before
  };

  // `work` has passed CheckSampleWork.
  SampleRequest(SampleWork work, absl::Time arrival);

  const SampleWork& work() const { return work_; }
  const std::string& id() const { return work_.request_id; }
  int count() const { return static_cast<int>(work_.classes.size()); }

  // Set when the first image is about to run.
  std::shared_ptr<const SampleModel> model;
  // Its last update is sent; the engine drops it after the step.
  bool ended = false;
  absl::Time last_progress = absl::InfinitePast();
  SampleTrace trace;

  bool started() const { return model != nullptr; }
  bool adaptive() const { return adaptive_; }
  // A row of an image larger than the model was trained with counts as so many rows: in work, not
  // in the executor's sense.
  int row_weight() const { return row_weight_; }
  // The weight says what a row costs; false for images smaller than trained.
  bool weight_exact() const { return weight_exact_; }

  // By index; images that were begun and aren't done.
  std::map<int, RunningImage>& running() { return running_; }
  // The next image to prepare, or -1: all are prepared, or so many done ones wait for an earlier
  // image that no further one is begun (`max_ahead` indices beyond the next one to send).
  int NextToPrepare(int max_ahead) const;
  RunningImage& Begin(std::unique_ptr<ImageTask> task);
  // Takes a done image out of running(). INVALID_ARGUMENT when it can't be encoded as asked.
  absl::Status AddDone(int index, SampleImage picture, const ImageUsage& usage);
  // Done images whose turn in ascending index has come; each is returned once.
  std::vector<EncodedImage> TakeReady();
  bool complete() const { return images_done_ == count() && ready_.empty(); }

  void CountServed(int rows) { rows_served_ += int64_t{rows} * row_weight_; }
  // In weighted rows.
  int64_t rows_served() const { return rows_served_; }
  int64_t rows_left() const;
  int64_t rows_total() const { return rows_served_ + rows_left(); }
  // Calls that its slowest image still needs, one after the other.
  int64_t calls_left() const;
  // Weighted rows that could share the next call.
  int64_t rows_runnable() const;

  SampleProgressUpdate Progress() const;
  SampleFinished Finished(absl::Time now) const;

 private:
  int64_t UnpreparedImages() const { return count() - next_image_; }
  void AddUsage(const ImageUsage& usage);

  const SampleWork work_;
  const absl::Time arrival_;
  bool adaptive_ = false, weight_exact_ = true;
  int row_weight_ = 1;
  int64_t calls_per_image_ = 0, rows_per_image_ = 0;  // estimates until an image was prepared

  int next_image_ = 0, next_ready_ = 0, images_done_ = 0;
  std::map<int, RunningImage> running_;
  std::map<int, EncodedImage> ready_;
  std::vector<std::string> image_hashes_;

  int64_t rows_served_ = 0, steps_of_done_ = 0;
  int64_t network_calls_ = 0;
  double zero_expert_calls_ = 0;                    // sum over calls of the share
  std::vector<std::vector<double>> step_capacity_;  // sums over images, [call][layer]
  std::vector<int64_t> step_images_;                // images that made that call
};

}  // namespace diffmoe
