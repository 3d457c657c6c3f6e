// Progress for people: a line that is redrawn on a terminal, a line every 10 s elsewhere.
#pragma once

#include <ostream>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

// "[#####-----]" with `width` characters between the brackets; fraction is clamped to [0, 1].
std::string BarText(double fraction, int width);

// Share of a job that is done: by time when the job says how much is left, else by steps.
double DoneFraction(const v1::Progress& progress);

// One line about a job: state, bar, steps, loss, images/s, capacity C, time left; or the reason
// while it waits.
std::string JobLine(const v1::Job& job);

struct ProgressOptions {
  bool terminal = false;
  int columns = 80;  // of the terminal; longer lines are cut
  // Between two lines, and between two redraws on a terminal.
  absl::Duration line_interval = absl::Seconds(10);
  absl::Duration redraw_interval = absl::Milliseconds(200);
  // After this long without news the line says so.
  absl::Duration stale_after = absl::Seconds(15);
};

// Thread-safe; writes to `out` from its own thread, so nothing else may write there before Finish.
// The destructor calls Finish.
class ProgressPrinter {
 public:
  // `out` and `clock` must outlive it.
  ProgressPrinter(std::ostream* out, const Clock* clock, ProgressOptions options);
  ~ProgressPrinter();
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  // The newest line; replaces one that was not drawn yet.
  void Set(const std::string& line);
  // A line that is printed at once and stays.
  void Print(const std::string& line);
  // Ends the redrawn line (on a terminal it stays as it was last) and the thread. Idempotent.
  void Finish();

 private:
  void Run();
  void Draw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::ostream& out_;
  const Clock& clock_;
  const ProgressOptions options_;
  absl::Mutex mutex_;
  std::string line_ ABSL_GUARDED_BY(mutex_);
  int64_t line_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  bool drawn_ ABSL_GUARDED_BY(mutex_) = false;  // a redrawn line stands on the terminal
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace diffmoe
