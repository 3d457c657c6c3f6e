#include "client/sample_call.h"

#include <algorithm>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/api_status.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "client/retry.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

// One try: takes the events and remembers how far they came.
class Try {
 public:
  Try(SampleImages* images, PreviewGrid* previews, ProgressPrinter* printer)
      : images_(*images), previews_(previews), printer_(*printer) {}

  absl::Status Take(const v1::SampleResponse& event) {
    switch (event.event_case()) {
      case v1::SampleResponse::kQueued:
        Show(QueuedLine(event.queued()));
        break;
      case v1::SampleResponse::kStarted:
        printer_.Print(absl::StrCat("sampling ", CleanText(event.started().checkpoint())));
        break;
      case v1::SampleResponse::kProgress:
        Show(DenoiseLine(event.progress()));
        break;
      case v1::SampleResponse::kImage:
        return TakeImage(event.image());
      case v1::SampleResponse::kPreview:
        return previews_ == nullptr ? absl::OkStatus() : previews_->Add(event.preview().image());
      case v1::SampleResponse::kFinished:
        receipt_ = event.finished().receipt();
        break;
      case v1::SampleResponse::EVENT_NOT_SET:
        break;
    }
    return absl::OkStatus();
  }

  const std::optional<v1::Receipt>& receipt() const { return receipt_; }
  const std::string& last() const { return last_; }

 private:
  void Show(const std::string& line) {
    last_ = line;
    printer_.Set(line);
  }

  absl::Status TakeImage(const v1::SampleResponse::Image& image) {
    RETURN_IF_ERROR(images_.Add(image));
    if (previews_ == nullptr || image.encoding() == v1::PNG ||
        !images_.at(image.index()).complete()) {
      return absl::OkStatus();
    }
    return previews_->SetFinal(image.index(), images_.at(image.index()));
  }

  SampleImages& images_;
  PreviewGrid* const previews_;
  ProgressPrinter& printer_;
  std::optional<v1::Receipt> receipt_;
  std::string last_;
};

// The status of a call that ended at the caller's own deadline says what it was at.
absl::Status ExplainDeadline(const absl::Status& status, absl::Duration limit,
                             const std::string& last) {
  if (status.code() != absl::StatusCode::kDeadlineExceeded || limit == absl::InfiniteDuration() ||
      GetErrorDetails(status).reason() != v1::ERROR_REASON_UNSPECIFIED) {
    return status;
  }
  return OwnDeadlineError(absl::StrCat("the deadline of ", absl::FormatDuration(limit),
                                       " passed; last seen: ", last.empty() ? "nothing" : last));
}

}  // namespace

std::string QueuedLine(const v1::SampleResponse::Queued& queued) {
  std::string line = "queued";
  if (queued.position() > 0) absl::StrAppend(&line, ", ", queued.position(), " ahead");
  if (queued.estimated_wait_seconds() > 0) {
    absl::StrAppend(&line, ", about ", DurationText(queued.estimated_wait_seconds()));
  }
  if (!queued.reason().empty()) absl::StrAppend(&line, ": ", CleanText(queued.reason()));
  return line;
}

std::string DenoiseLine(const v1::SampleResponse::SampleProgress& progress) {
  const double done = static_cast<double>(progress.step()) / std::max(1, progress.steps());
  std::string line =
      absl::StrCat(BarText(done, 20), "  denoise step ", progress.step(), "/", progress.steps());
  if (progress.images_done() > 0) {
    absl::StrAppend(&line, "  ", progress.images_done(),
                    progress.images_done() == 1 ? " image done" : " images done");
  }
  return line;
}

absl::StatusOr<v1::Receipt> RunSampleCall(const Context& context, ApiClient* client,
                                          Interrupt* interrupt, const v1::SampleRequest& request,
                                          SampleImages* images, const SampleCallOptions& options) {
  std::minstd_rand random(std::random_device{}());
  std::uniform_real_distribution<double> jitter(0, 1);
  const absl::Time deadline = absl::Now() + options.limit;
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  for (bool first = true;; first = false) {
    images->Clear();
    Try call(images, options.previews, &printer);
    const absl::Status status = client->Sample(
        request, interrupt, [&](const v1::SampleResponse& event) { return call.Take(event); },
        deadline);
    const absl::Duration refused = RefusalDelay(status);
    const absl::Duration delay = WithJitter(refused, jitter(random));
    if (options.wait && refused > absl::ZeroDuration() && absl::Now() + delay < deadline) {
      const std::string line = absl::StrCat(CleanText(status.message()), "; trying again in ",
                                            DurationText(absl::ToDoubleSeconds(delay)));
      if (first) printer.Print(line);
      printer.Set(line);
      if (interrupt->WaitFor(delay)) continue;
      return absl::CancelledError("interrupted while waiting for another try");
    }
    printer.Finish();
    RETURN_IF_ERROR(ExplainDeadline(status, options.limit, call.last()));
    if (!call.receipt().has_value()) {
      return absl::DataLossError("expected a receipt after the images, got the end of the stream");
    }
    RETURN_IF_ERROR(images->CheckAgainst(*call.receipt()));
    if (options.previews != nullptr) RETURN_IF_ERROR(options.previews->Flush());
    return *call.receipt();
  }
}

}  // namespace diffmoe
