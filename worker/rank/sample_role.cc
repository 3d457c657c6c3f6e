#include "worker/rank/sample_role.h"

#include <utility>

#include "worker/rank/calibrate_task.h"
#include "worker/rank/model_executor.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {
namespace {

// More than these wait for the next step.
constexpr int kCommandsPerStep = 1024;

class SampleRole {
 public:
  explicit SampleRole(RankLink& link)
      : link_(link),
        executor_(link),
        engine_(link, executor_),
        calibrations_(link, executor_.cache()) {}

  absl::Status Run() {
    while (!link_.stop_requested()) {
      if (!TakeCommands()) break;
      engine_.Step();
      calibrations_.Step();
    }
    const absl::Status status = absl::UnavailableError("the sampler is stopping");
    engine_.Stop(status);
    calibrations_.Stop(status);
    return absl::CancelledError("asked to stop");
  }

 private:
  // The commands that are there; waits for one when there is nothing to do. False: stop.
  bool TakeCommands() {
    const bool busy = engine_.busy() || calibrations_.busy();
    absl::Duration wait = busy ? absl::ZeroDuration() : absl::Seconds(1);
    for (int taken = 0; taken < kCommandsPerStep; ++taken) {
      std::optional<RankCommandData> command = link_.NextCommand(wait);
      if (!command) break;
      wait = absl::ZeroDuration();
      if (std::holds_alternative<StopCommand>(*command)) return false;
      if (const auto* cancel = std::get_if<CancelSampleCommand>(&*command)) {
        engine_.Cancel(cancel->request_id);
        calibrations_.Cancel(cancel->request_id);
      }
      if (auto* work = std::get_if<SampleWork>(&*command)) engine_.Add(std::move(*work));
      if (auto* work = std::get_if<CalibrateWork>(&*command)) calibrations_.Add(std::move(*work));
    }
    return true;
  }

  RankLink& link_;
  ModelExecutor executor_;
  SampleEngine engine_;
  CalibrationQueue calibrations_;
};

}  // namespace

absl::Status RunSampleRole(RankLink& link) { return SampleRole(link).Run(); }

}  // namespace diffmoe
