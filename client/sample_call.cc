#include "client/sample_call.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

std::string QueuedLine(const v1::SampleResponse::Queued& queued) {
  std::string line = "queued";
  if (queued.position() > 0) absl::StrAppend(&line, ", ", queued.position(), " ahead");
  if (!queued.reason().empty()) absl::StrAppend(&line, ": ", CleanText(queued.reason()));
  return line;
}

}  // namespace

absl::StatusOr<v1::Receipt> RunSampleCall(const Context& context, ApiClient* client,
                                          Interrupt* interrupt, const v1::SampleRequest& request,
                                          SampleImages* images) {
  std::optional<v1::Receipt> receipt;
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  const absl::Status status =
      client->Sample(request, interrupt, [&](const v1::SampleResponse& event) -> absl::Status {
        switch (event.event_case()) {
          case v1::SampleResponse::kQueued:
            printer.Set(QueuedLine(event.queued()));
            break;
          case v1::SampleResponse::kStarted:
            printer.Print(absl::StrCat("sampling ", CleanText(event.started().checkpoint())));
            break;
          case v1::SampleResponse::kProgress: {
            const v1::SampleResponse::SampleProgress& progress = event.progress();
            const double done =
                static_cast<double>(progress.step()) / std::max(1, progress.steps());
            printer.Set(absl::StrCat(BarText(done, 20), "  denoise step ", progress.step(), "/",
                                     progress.steps()));
            break;
          }
          case v1::SampleResponse::kImage:
            return images->Add(event.image());
          case v1::SampleResponse::kPreview:
            break;
          case v1::SampleResponse::kFinished:
            receipt = event.finished().receipt();
            break;
          case v1::SampleResponse::EVENT_NOT_SET:
            break;
        }
        return absl::OkStatus();
      });
  printer.Finish();
  RETURN_IF_ERROR(status);
  if (!receipt.has_value()) {
    return absl::DataLossError("expected a receipt after the images, got the end of the stream");
  }
  return *receipt;
}

}  // namespace diffmoe
