#include "worker/rank/checkpoint_writer.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"

namespace diffmoe {
namespace {

size_t Bytes(const StateRun& run) { return static_cast<size_t>(run.elements) * sizeof(float); }

size_t Bytes(const std::vector<StateRun>& runs) {
  size_t bytes = 0;
  for (const StateRun& run : runs) bytes += Bytes(run);
  return bytes;
}

// Fills [to, to_end).
void CopyBytes(char* to, const float* from, const char* to_end) {
  if (from != nullptr && to != to_end) std::memcpy(to, from, static_cast<size_t>(to_end - to));
}

}  // namespace

CheckpointWriter::~CheckpointWriter() {
  const ActivityScope scope(&link_.activity(), "waiting for the checkpoint on its way", "",
                            /*waits_for_peers=*/true);
  Join();
}

void CheckpointWriter::Join() {
  if (sender_.joinable()) sender_.join();
}

void CheckpointWriter::Prepare(const std::vector<StateRun>& runs) {
  const size_t bytes = Bytes(runs);
  if (bytes <= staging_bytes_) return;
  staging_.reset();
  staging_ = std::make_unique<char[]>(bytes);
  staging_bytes_ = bytes;
}

void CheckpointWriter::Stage(const std::vector<StateRun>& runs) {
  Prepare(runs);
  staged_.clear();
  staged_.reserve(runs.size());
  char* to = staging_.get();
  // Runs that stand one behind the other are copied at once: a long copy goes past the caches, a
  // short one reads what it will overwrite.
  const float* from = nullptr;
  char* copied = to;
  const float* end = nullptr;
  for (const StateRun& run : runs) {
    if (run.data != end) {
      CopyBytes(copied, from, to);
      from = run.data;
      copied = to;
    }
    end = run.data + run.elements;
    staged_.push_back({run.name, "F32", run.shape, run.first_element, run.elements, to});
    to += Bytes(run);
  }
  CopyBytes(copied, from, to);
}

absl::Status CheckpointWriter::Send(int64_t step,
                                    const std::optional<CheckpointSummaryData>& summary) {
  ScopedSpan span(trace_.tracer, trace_.parent, "save checkpoint", {{"diffmoe.step", step}});
  const absl::Status status = link_.PutShard(step, staged_, summary);
  span.SetStatus(status);
  return status;
}

void CheckpointWriter::Save(int64_t step, const std::vector<StateRun>& runs,
                            std::optional<CheckpointSummaryData> summary) {
  Join();
  Stage(runs);
  staged_step_ = step;
  busy_ = true;
  sender_ = std::thread([this, step, summary = std::move(summary)] {
    sent_ = Send(step, summary);
    if (absl::IsAborted(sent_)) fenced_ = true;
    if (!sent_.ok()) {
      LogWarning("rank", "checkpoint was not saved; training goes on",
                 {{"step", step}, {"error", sent_.message()}});
    }
    busy_ = false;
  });
}

absl::Status CheckpointWriter::SaveDurably(int64_t step, const std::vector<StateRun>& runs,
                                           const std::optional<CheckpointSummaryData>& summary) {
  Join();
  if (staged_step_ == step && (sent_.ok() || absl::IsAborted(sent_))) return sent_;
  Stage(runs);
  staged_step_ = -1;
  absl::Duration delay = absl::Milliseconds(200);
  while (true) {
    absl::Status status = Send(step, summary);
    if (status.ok() || absl::IsAborted(status)) return status;
    LogWarning(
        "rank", "a checkpoint that the rank's end waits for was not saved; trying again",
        {{"step", step}, {"error", status.message()}, {"delay", absl::FormatDuration(delay)}});
    const absl::Time until = absl::Now() + delay;
    while (absl::Now() < until) {
      if (link_.stop_requested()) {
        return absl::CancelledError(
            absl::StrCat("asked to stop before the checkpoint of step ", step, " was saved"));
      }
      absl::SleepFor(absl::Milliseconds(50));
    }
    delay = std::min(delay * 2, absl::Seconds(5));
  }
}

}  // namespace diffmoe
