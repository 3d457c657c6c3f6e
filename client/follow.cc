#include "client/follow.h"

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"

namespace diffmoe {
namespace {

constexpr int64_t kLostLimitMs = 60'000;
constexpr absl::Duration kRetryInterval = absl::Seconds(1);

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::SUCCEEDED || job.state() == v1::FAILED || job.state() == v1::CANCELLED;
}

int PrintEnd(const Context& context, const v1::Job& job) {
  const std::string id = CleanText(job.id());
  const std::string program = absl::StrCat("diffmoe ", HintFlags(context));
  if (job.state() == v1::SUCCEEDED) {
    context.out << id << " succeeded: " << job.progress().step() << " steps, loss "
                << NumberText(job.progress().loss()) << ", "
                << absl::StrFormat("%.1f", job.progress().images_per_second()) << " images/s\n"
                << "Images: " << program << "sample --job " << id
                << " --class all --n 2 --out samples.png\n";
  } else if (job.state() == v1::FAILED) {
    context.out << id << " failed: " << CleanText(job.reason()) << "\n"
                << "More: " << program << "job why " << id << "\n";
  } else {
    context.out << id << " was cancelled\n";
  }
  context.out << std::flush;
  if (job.state() == v1::SUCCEEDED) return kExitOk;
  return job.state() == v1::FAILED ? kExitJobFailed : kExitCancelled;
}

std::string EventLine(const v1::Job& job, const v1::JobEvent& event) {
  return absl::StrCat(CleanText(job.id()), "  ", CleanText(event.message()));
}

// Most events are the reason of the state that they lead to.
bool EndsWithReason(const std::string& headline, const v1::JobEvent& event) {
  return absl::EndsWith(headline, CleanText(event.message()));
}

// What is worth a line that stays: a change of the state or of the reason while it waits.
std::string Headline(const v1::Job& job) {
  return absl::StrCat(CleanText(job.id()), "  ", v1::JobState_Name(job.state()),
                      job.reason().empty() ? "" : "  ", CleanText(job.reason()));
}

}  // namespace

absl::StatusOr<int> FollowJob(const Context& context, ApiClient* client, Interrupt* interrupt,
                              const std::string& name) {
  v1::WatchJobRequest request;
  request.set_name(name);
  std::optional<v1::Job> last;
  std::string headline;
  bool lost = false;
  int64_t heard_ms = context.clock.MonotonicMs();
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  while (true) {
    const auto show = [&](const v1::WatchJobResponse& update) {
      const v1::Job& job = update.job();
      if (!update.resume_token().empty()) request.set_resume_token(update.resume_token());
      if (lost) printer.Print("connected again");
      lost = false;
      heard_ms = context.clock.MonotonicMs();
      if (std::string now = Headline(job); now != headline) {
        headline = now;
        printer.Print(headline);
      }
      for (const v1::JobEvent& event : update.events()) {
        if (!EndsWithReason(headline, event)) printer.Print(EventLine(job, event));
      }
      printer.Set(JobLine(job));
      last = job;
    };
    const absl::Status status = client->WatchJob(request, interrupt, show);
    if (last.has_value() && HasEnded(*last)) {
      printer.Finish();
      return PrintEnd(context, *last);
    }
    if (interrupt->triggered()) break;
    if (!status.ok() && status.code() != absl::StatusCode::kUnavailable) return status;
    const int64_t silent_ms = context.clock.MonotonicMs() - heard_ms;
    if (!status.ok() && (!last.has_value() || silent_ms > kLostLimitMs)) return status;
    if (!lost) {
      printer.Print(
          absl::StrCat("the coordinator is away; the job goes on without it. Trying again "
                       "for ",
                       kLostLimitMs / 1000, " s"));
    }
    lost = true;
    if (!interrupt->WaitFor(kRetryInterval)) break;
    client->Reconnect();
  }
  printer.Finish();
  const std::string id = name.substr(name.find('/') + 1);
  context.err << "Detached; " << id << " goes on. Follow again: diffmoe " << HintFlags(context)
              << "watch " << id << "; stop it: diffmoe " << HintFlags(context) << "job cancel "
              << id << "\n"
              << std::flush;
  return kExitInterrupted;
}

}  // namespace diffmoe
