#include "worker/rank/sample_role.h"

#include <utility>

#include "worker/rank/calibrate_task.h"
#include "worker/rank/model_executor.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {
namespace {

SampleEngineOptions OptionsWith(Tracer* tracer) {
  SampleEngineOptions options;
  options.tracer = tracer;
  return options;
}

// More than these wait for the next step.
constexpr int kCommandsPerStep = 1024;

class SampleRole {
 public:
  // `calibrations` may be null.
  SampleRole(RankLink& link, SampleExecutor& executor, CalibrationQueue* calibrations,
             Tracer* tracer)
      : link_(link), engine_(link, executor, OptionsWith(tracer)), calibrations_(calibrations) {}

  absl::Status Run() {
    while (!link_.stop_requested()) {
      if (!TakeCommands()) break;
      engine_.Step();
      if (calibrations_ != nullptr) calibrations_->Step();
      link_.FlushSampleUpdates();
    }
    const absl::Status status = absl::UnavailableError("the sampler is stopping");
    engine_.Stop(status);
    if (calibrations_ != nullptr) calibrations_->Stop(status);
    link_.FlushSampleUpdates();
    return absl::CancelledError("asked to stop");
  }

 private:
  // The commands that are there; waits for one when there is nothing to do. False: stop.
  bool TakeCommands() {
    const bool busy = engine_.busy() || (calibrations_ != nullptr && calibrations_->busy());
    absl::Duration wait = busy ? absl::ZeroDuration() : absl::Seconds(1);
    for (int taken = 0; taken < kCommandsPerStep; ++taken) {
      std::optional<RankCommandData> command = link_.NextCommand(wait);
      if (!command) break;
      wait = absl::ZeroDuration();
      if (std::holds_alternative<StopCommand>(*command)) return false;
      if (const auto* cancel = std::get_if<CancelSampleCommand>(&*command)) {
        engine_.Cancel(cancel->request_id);
        if (calibrations_ != nullptr) calibrations_->Cancel(cancel->request_id);
      }
      if (std::holds_alternative<ForgetSamplesCommand>(*command)) {
        engine_.Forget();
        if (calibrations_ != nullptr) calibrations_->Forget();
      }
      if (auto* work = std::get_if<SampleWork>(&*command)) engine_.Add(std::move(*work));
      if (auto* work = std::get_if<CalibrateWork>(&*command)) Calibrate(std::move(*work));
    }
    return true;
  }

  void Calibrate(CalibrateWork work) {
    if (calibrations_ != nullptr) return calibrations_->Add(std::move(work));
    link_.PushSampleUpdate(work.request_id, absl::UnimplementedError("no model to calibrate"))
        .IgnoreError();
  }

  RankLink& link_;
  SampleEngine engine_;
  CalibrationQueue* const calibrations_;
};

}  // namespace

absl::Status RunSampleRole(RankLink& link, const RankTrace& trace) {
  ModelExecutor executor(link);
  CalibrationQueue calibrations(link, executor.cache());
  return SampleRole(link, executor, &calibrations, trace.tracer).Run();
}

absl::Status RunSampleRole(RankLink& link, SampleExecutor& executor) {
  return SampleRole(link, executor, nullptr, /*tracer=*/nullptr).Run();
}

}  // namespace diffmoe
