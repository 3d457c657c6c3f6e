#include "worker/agent/rank_exit.h"

#include <signal.h>
#include <string.h>

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

std::string SignalName(int signal) {
  const char* name = sigabbrev_np(signal);
  return name == nullptr ? absl::StrCat("signal ", signal) : absl::StrCat("SIG", name);
}

// The last line that isn't empty: the place where a dying program says why. Before the line of a
// crash report (core/base/crash_report.h) an abort has said more.
std::string LastLine(const std::string& log_tail, bool aborted) {
  const std::vector<std::string> lines = absl::StrSplit(log_tail, '\n', absl::SkipWhitespace());
  if (lines.empty()) return "";
  std::string last(absl::StripAsciiWhitespace(lines.back()));
  if (!aborted || lines.size() < 2 || !absl::StartsWith(last, "crash: ")) return last;
  return absl::StrCat(last, "; before it: ", absl::StripAsciiWhitespace(lines[lines.size() - 2]));
}

std::string LastWords(const RankEnd& end) {
  const std::string last = LastLine(end.log_tail, end.exit.signal == SIGABRT);
  return last.empty() ? "" : absl::StrCat("; last line of its log: ", last);
}

std::string HowItDied(const RankEnd& end) {
  std::string out;
  if (end.exit.signal != 0) {
    out = absl::StrCat("killed by ", SignalName(end.exit.signal));
  } else if (end.exit.code == 0) {
    out = "ended with exit code 0 without saying that its work was done";
  } else {
    out = absl::StrCat("ended with exit code ", end.exit.code, " without saying why");
  }
  if (!end.kill_reason.empty()) absl::StrAppend(&out, " by its worker: ", end.kill_reason);
  return absl::StrCat(out, LastWords(end));
}

pb::ExitCause CauseOf(const RankEnd& end) {
  const bool clean = end.exit.signal == 0 && end.exit.code == 0;
  if (end.done && (clean || !end.kill_reason.empty())) return pb::EXIT_CAUSE_DONE;
  if (end.stop_requested) return pb::EXIT_CAUSE_STOPPED;
  if (!end.hang.empty()) return pb::EXIT_CAUSE_HANG;
  if (end.failure.has_value()) return pb::EXIT_CAUSE_ERROR;
  if (end.out_of_memory && end.exit.signal == SIGKILL && end.kill_reason.empty()) {
    return pb::EXIT_CAUSE_OUT_OF_MEMORY;
  }
  return end.exit.signal != 0 ? pb::EXIT_CAUSE_SIGNAL : pb::EXIT_CAUSE_EXIT_CODE;
}

}  // namespace

void FillExit(const RankEnd& end, pb::RankExited* out) {
  out->set_cause(CauseOf(end));
  out->set_exit_code(end.exit.code);
  out->set_signal(end.exit.signal);
  if (end.failure.has_value()) out->set_status_code(end.failure->status_code());
  const std::string failure = end.failure.has_value() ? end.failure->message() : "";
  switch (out->cause()) {
    case pb::EXIT_CAUSE_DONE:
      break;
    case pb::EXIT_CAUSE_STOPPED:
      out->set_message(failure.empty() ? end.stop_reason
                                       : absl::StrCat(end.stop_reason, "; it said: ", failure));
      break;
    case pb::EXIT_CAUSE_ERROR:
      out->set_message(failure);
      break;
    case pb::EXIT_CAUSE_HANG:
      out->set_message(end.hang);
      break;
    case pb::EXIT_CAUSE_OUT_OF_MEMORY:
      out->set_message(absl::StrCat(
          "killed by the system because memory ran out; lower train.global_batch or the model's "
          "size, or give the worker more memory",
          LastWords(end)));
      break;
    default:
      out->set_message(HowItDied(end));
  }
}

}  // namespace diffmoe
