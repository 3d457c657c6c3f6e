#include "worker/rank/checkpoint_writer.h"

#include <algorithm>
#include <cstring>

#include "absl/time/clock.h"
#include "core/base/log.h"

namespace diffmoe {

CheckpointWriter::~CheckpointWriter() { Join(); }

void CheckpointWriter::Join() {
  if (sender_.joinable()) sender_.join();
}

void CheckpointWriter::Stage(const std::vector<StateRun>& runs) {
  size_t bytes = 0;
  for (const StateRun& run : runs) bytes += static_cast<size_t>(run.elements) * sizeof(float);
  staging_.resize(bytes);
  staged_.clear();
  size_t offset = 0;
  for (const StateRun& run : runs) {
    const size_t size = static_cast<size_t>(run.elements) * sizeof(float);
    std::memcpy(staging_.data() + offset, run.data, size);
    staged_.push_back(
        {run.name, "F32", run.shape, run.first_element, run.elements, staging_.data() + offset});
    offset += size;
  }
}

void CheckpointWriter::Save(int64_t step, const std::vector<StateRun>& runs,
                            std::optional<CheckpointSummaryData> summary) {
  Join();
  Stage(runs);
  sender_ = std::thread([this, step, summary = std::move(summary)] {
    const absl::Status status = link_.PutShard(step, staged_, summary);
    if (absl::IsAborted(status)) fenced_ = true;
    if (!status.ok()) {
      LogWarning("rank", "checkpoint was not saved; training goes on",
                 {{"step", step}, {"error", status.message()}});
    }
  });
}

absl::Status CheckpointWriter::SaveLast(int64_t step, const std::vector<StateRun>& runs,
                                        std::optional<CheckpointSummaryData> summary) {
  Join();
  Stage(runs);
  absl::Duration delay = absl::Milliseconds(200);
  while (true) {
    const absl::Status status = link_.PutShard(step, staged_, summary);
    if (status.ok() || absl::IsAborted(status)) return status;
    LogWarning(
        "rank", "the last checkpoint was not saved; trying again",
        {{"step", step}, {"error", status.message()}, {"delay", absl::FormatDuration(delay)}});
    const absl::Time until = absl::Now() + delay;
    while (absl::Now() < until) {
      if (link_.stop_requested())
        return absl::CancelledError("asked to stop before the last checkpoint was saved");
      absl::SleepFor(absl::Milliseconds(50));
    }
    delay = std::min(delay * 2, absl::Seconds(5));
  }
}

}  // namespace diffmoe
