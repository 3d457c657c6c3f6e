#include "client/live_screen.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/exit_code.h"

namespace diffmoe {
namespace {

// Home, and clear to the end of each line and of the screen: no flicker.
std::string OverTheLast(const std::string& text) {
  std::string out = "\033[H";
  for (const char c : text) {
    if (c == '\n') out += "\033[K";
    out += c;
  }
  return out + "\033[J";
}

}  // namespace

absl::StatusOr<int> RunLiveScreen(
    const Context& context, Interrupt* interrupt, absl::Duration interval, int frames,
    const std::function<absl::StatusOr<std::string>(bool* last)>& frame) {
  const bool terminal = context.out_terminal && frames != 1;
  std::string text;
  for (int drawn = 0; frames == 0 || drawn < frames; ++drawn) {
    if (drawn > 0 && !interrupt->WaitFor(interval)) break;
    bool last = false;
    absl::StatusOr<std::string> next = frame(&last);
    if (next.ok()) {
      text = *std::move(next);
    } else if (drawn == 0 || next.status().code() != absl::StatusCode::kUnavailable) {
      return next.status();
    }
    const std::string shown =
        next.ok() ? text : absl::StrCat(text, "the coordinator is away; trying again\n");
    if (terminal && drawn == 0) context.out << "\033[2J";
    context.out << (terminal ? OverTheLast(shown) : shown) << std::flush;
    if (last) break;
  }
  return kExitOk;
}

}  // namespace diffmoe
