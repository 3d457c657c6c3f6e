// The coordinator's only way to change: Step(). Pure: it reads no clock, does no I/O and draws no
// random numbers, so the same state, events and times always give the same effects.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/state/effect.h"
#include "server/state/event.h"
#include "server/state/state.h"

namespace diffmoe::server {

Effects Step(State& state, const Event& event, Now now);

// Monotonic time at which a Tick is due; INT64_MAX when nothing waits.
int64_t NextWakeupMs(const State& state);

// A Schedule event is due at the end of the batch.
bool ScheduleDue(const State& state);

// Of the checkpoint, without a step of the newest. Errors: NOT_FOUND, FAILED_PRECONDITION
// NO_CALIBRATION or NO_CHECKPOINT_YET, DATA_LOSS.
absl::StatusOr<std::shared_ptr<const v1::Calibration>> FindCalibration(
    const State& state, const std::string& job_id, const std::optional<int64_t>& step);

// The durable part of a state from its records (keys and values). DATA_LOSS names the record that
// can't be read; FAILED_PRECONDITION when the store was written by a newer schema. Post Restarted
// to it before anything else.
absl::StatusOr<State> LoadState(const std::vector<std::pair<std::string, std::string>>& records,
                                const StateOptions& options);

}  // namespace diffmoe::server
