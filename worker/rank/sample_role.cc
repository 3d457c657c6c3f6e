#include "worker/rank/sample_role.h"

#include "worker/error_boundary.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {

absl::Status RunSampleRole(RankLink& link) {
  SampleEngine engine(link);
  while (!link.stop_requested()) {
    // With work at hand commands are taken between steps without waiting.
    const absl::Duration wait = engine.busy() ? absl::ZeroDuration() : absl::Seconds(1);
    while (std::optional<RankCommandData> command = link.NextCommand(wait)) {
      if (std::holds_alternative<StopCommand>(*command))
        return absl::CancelledError("asked to stop");
      if (const auto* cancel = std::get_if<CancelSampleCommand>(&*command))
        engine.Cancel(cancel->request_id);
      if (auto* work = std::get_if<SampleWork>(&*command)) engine.Add(std::move(*work));
      if (engine.busy()) break;
    }
    engine.Step();
  }
  return absl::CancelledError("asked to stop");
}

}  // namespace diffmoe
