// Sampling: requests, samplers, calibrations.
#include "absl/strings/str_cat.h"
#include "tests/simulation/checker.h"

namespace diffmoe::simulation {

void Checker::OnSampleCall(uint64_t call, uint64_t seed, int64_t deadline_in_ms) {
  const int64_t deadline_ms = deadline_in_ms > 0 ? world_->time.now_ms() + deadline_in_ms : 0;
  samples_[call] = {seed, deadline_ms};
}

void Checker::OnSampleEnded(uint64_t call, const absl::Status& status) {
  ++sample_counts_.streams_ended;
  const auto sample = samples_.extract(call);
  if (sample.empty()) {
    return world_->Violate("a sample ends once", absl::StrCat("call ", call));
  }
  const int64_t deadline_ms = sample.mapped().deadline_ms;
  // The call takes up to a turn of the coordinator to arrive, which its deadline doesn't hold.
  constexpr int64_t kTurnMs = 5;
  const int64_t late_ms = world_->time.now_ms() - deadline_ms;
  if (deadline_ms > 0 && status.ok() && late_ms > arrival_slack_ms_ + kTurnMs) {
    world_->Violate("nothing succeeds after its deadline",
                    absl::StrCat("call ", call, " did ", late_ms, " ms after it"));
  }
}

void Checker::OnSamplerRead(uint64_t seed, const std::string& job_id, int64_t step,
                            const absl::Status& status) {
  if (!absl::IsNotFound(status)) return;
  for (const auto& [call, working] : samples_) {
    if (working.seed != seed) continue;
    world_->Violate("a checkpoint in use is kept",
                    absl::StrCat("the sample with seed ", seed, " can't read step ", step, " of ",
                                 job_id, ": ", status.message()));
  }
}

void Checker::OnCalibration(const std::string& id, int64_t step, bool written) {
  JobView& job = jobs_[id];
  if (!written) {
    job.calibrations.erase(step);
    return;
  }
  job.calibrations.insert(step);
  ++job.calibrations_written;
}

void Checker::CheckCalibrations(const std::string& id) {
  const JobView& job = jobs_[id];
  for (const int64_t step : job.calibrations) {
    if (job.checkpoints.contains(step)) continue;
    world_->Violate("a calibration goes with its checkpoint",
                    absl::StrCat("step ", step, " of ", id));
  }
}

void Checker::OnCalibrationAnswered(const std::string& checkpoint) {
  for (const auto& [id, job] : jobs_) {
    if (checkpoint.starts_with(absl::StrCat("jobs/", id, "/")) && job.calibrations_written > 0) {
      return;
    }
  }
  world_->Violate("no answer before the commit", absl::StrCat("calibration of ", checkpoint));
}

void Checker::CheckSamples(const server::State& state) {
  const auto broken = [this](uint64_t call, const std::string& what) {
    world_->Violate("a request is at one place", absl::StrCat("call ", call, " ", what));
  };
  std::map<uint64_t, int> places;
  int64_t rows = 0;
  for (const uint64_t call : state.sample_queue.Order()) {
    ++places[call];
    if (!state.samples.contains(call)) return broken(call, "waits after its end");
    rows += state.samples.at(call).cost.rows;
  }
  for (const auto& [id, sampler] : state.samplers) {
    if (static_cast<int>(sampler.calls.size()) > state.options.max_sampler_requests) {
      world_->Violate("queues are bounded", id);
    }
    for (const uint64_t call : sampler.calls) {
      ++places[call];
      const auto sample = state.samples.find(call);
      if (sample == state.samples.end()) return broken(call, "is worked on after its end");
      if (sample->second.sampler_id != id) return broken(call, "is on a wrong sampler");
    }
  }
  for (const auto& [call, sample] : state.samples) {
    if (places[call] != 1) return broken(call, absl::StrCat("is at ", places[call]));
  }
  if (static_cast<int>(state.sample_queue.size()) >
          state.options.max_sample_requests +
              state.options.max_samplers * state.options.max_sampler_requests ||
      rows != state.queued_rows) {
    world_->Violate("queues are bounded", absl::StrCat(state.sample_queue.size(), " requests, ",
                                                       rows, " rows, counted ", state.queued_rows));
  }
}

void Checker::CheckSamplersIdle(const std::vector<SlotTruth>& truth) {
  for (const SlotTruth& slot : truth) {
    if (!slot.sampler || slot.idle) continue;
    world_->Violate("nobody works for a request that has ended",
                    absl::StrCat(slot.user.group_id, " on ", slot.worker_id));
  }
}

}  // namespace diffmoe::simulation
