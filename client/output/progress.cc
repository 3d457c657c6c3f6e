#include "client/output/progress.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/text.h"

namespace diffmoe {

std::string BarText(double fraction, int width) {
  const double clamped = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 0.0;
  const int full = static_cast<int>(clamped * width + 1e-9);
  return absl::StrCat("[", std::string(full, '#'), std::string(width - full, '-'), "]");
}

double DoneFraction(const v1::Progress& progress) {
  if (progress.seconds_left() > 0 && progress.elapsed_seconds() > 0) {
    return progress.elapsed_seconds() / (progress.elapsed_seconds() + progress.seconds_left());
  }
  if (progress.total_steps() <= 0) return 0;
  return static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps());
}

std::string JobLine(const v1::Job& job) {
  std::string line = absl::StrCat(CleanText(job.id()), "  ", v1::JobState_Name(job.state()));
  if (job.state() != v1::RUNNING || !job.has_progress()) {
    if (!job.reason().empty()) absl::StrAppend(&line, "  ", CleanText(job.reason()));
    return line;
  }
  const v1::Progress& progress = job.progress();
  absl::StrAppend(&line, "  ", BarText(DoneFraction(progress), 20), "  step ", progress.step());
  // With a time limit the number of steps is only an upper bound.
  if (!job.spec().train().has_minutes()) absl::StrAppend(&line, "/", progress.total_steps());
  absl::StrAppendFormat(&line, "  loss %s  %.0f images/s", NumberText(progress.loss()),
                        progress.images_per_second());
  if (!progress.layers().empty()) {
    double capacity = 0;
    for (const v1::LayerStats& layer : progress.layers()) capacity += layer.capacity();
    absl::StrAppendFormat(&line, "  C %.2f", capacity / progress.layers_size());
  }
  absl::StrAppend(&line, "  ", DurationText(progress.seconds_left()), " left");
  return line;
}

ProgressPrinter::ProgressPrinter(std::ostream* out, const Clock* clock, ProgressOptions options)
    : out_(*out), clock_(*clock), options_(options), thread_([this] { Run(); }) {}

ProgressPrinter::~ProgressPrinter() { Finish(); }

void ProgressPrinter::Set(const std::string& line) {
  absl::MutexLock lock(&mutex_);
  line_ = line;
  line_ms_ = clock_.MonotonicMs();
}

void ProgressPrinter::Print(const std::string& line) {
  absl::MutexLock lock(&mutex_);
  if (drawn_) out_ << "\r\x1b[K";
  drawn_ = false;
  out_ << line << "\n" << std::flush;
}

void ProgressPrinter::Finish() {
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    finished_ = true;
    if (options_.terminal && !line_.empty()) {
      Draw();
      out_ << "\n" << std::flush;
    }
  }
  thread_.join();
}

void ProgressPrinter::Run() {
  const absl::Duration interval =
      options_.terminal ? options_.redraw_interval : options_.line_interval;
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&finished_), interval)) {
    if (!line_.empty()) Draw();
  }
}

void ProgressPrinter::Draw() {
  std::string text = line_;
  const double silent_s = static_cast<double>(clock_.MonotonicMs() - line_ms_) * 1e-3;
  if (silent_s > absl::ToDoubleSeconds(options_.stale_after)) {
    absl::StrAppend(&text, "  (no news for ", DurationText(silent_s), ")");
  }
  if (options_.terminal) {
    out_ << "\r" << CutText(text, static_cast<size_t>(options_.columns - 1)) << "\x1b[K"
         << std::flush;
    drawn_ = true;
  } else {
    out_ << text << "\n" << std::flush;
  }
}

}  // namespace diffmoe
