#include "core/base/crash_report.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <string_view>

namespace diffmoe {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr size_t kStackBytes = 64 << 10;

// What the handler needs; a handler has no argument of its own.
std::array<char, 128> process_name{};
std::atomic<const Activity*> current_activity{nullptr};
alignas(16) std::array<char, kStackBytes> handler_stack;

// Collects one line without allocating.
class Line {
 public:
  Line& Add(std::string_view text) {
    const size_t n = std::min(text.size(), text_.size() - used_);
    memcpy(text_.data() + used_, text.data(), n);
    used_ += n;
    return *this;
  }
  Line& Add(int64_t number) {
    std::array<char, 24> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    return Add(std::string_view(digits.data(), static_cast<size_t>(end - digits.data())));
  }
  void Write() const {
    [[maybe_unused]] ssize_t written = write(STDERR_FILENO, text_.data(), used_);
  }

 private:
  std::array<char, 512> text_;
  size_t used_ = 0;
};

void Report(int number) {
  const char* name = sigabbrev_np(number);
  Line line;
  line.Add("crash: ")
      .Add(process_name.data())
      .Add(" died of SIG")
      .Add(name != nullptr ? name : "?");
  if (const Activity* activity = current_activity.load(); activity != nullptr) {
    const Activity::Snapshot now = activity->Read();
    line.Add(" after step ").Add(now.step).Add(", in ");
    line.Add(now.doing[0] != '\0' ? now.doing.data() : "its start");
  }
  line.Add("\n");
  line.Write();
  // SA_RESETHAND has put the default action back: it ends the process with the same signal.
  raise(number);
}

}  // namespace

void InstallCrashReport(const std::string& name, const Activity* activity) {
  strncpy(process_name.data(), name.c_str(), process_name.size() - 1);
  current_activity = activity;
  const stack_t stack{.ss_sp = handler_stack.data(), .ss_flags = 0, .ss_size = kStackBytes};
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_handler = Report;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK | SA_NODEFER);
  sigemptyset(&action.sa_mask);
  for (const int number : kSignals) sigaction(number, &action, nullptr);
}

void ForgetActivity() { current_activity = nullptr; }

}  // namespace diffmoe
