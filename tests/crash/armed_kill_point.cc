// KillPoint of the crash test's programs. The environment variable DIFFMOE_KILL_POINT, "NAME:N",
// says at which point the process ends: at its N-th visit, by SIGKILL, after a line on standard
// error that says so.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/base/kill_point.h"

namespace diffmoe {
namespace {

struct Armed {
  std::string name;
  int64_t visit = 0;
};

Armed ReadEnvironment() {
  const char* value = std::getenv("DIFFMOE_KILL_POINT");
  if (value == nullptr) return {};
  const std::string text = value;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) {
    std::fprintf(stderr, "DIFFMOE_KILL_POINT: expected NAME:N, got '%s'\n", value);
    std::abort();
  }
  return {text.substr(0, colon), std::strtoll(text.c_str() + colon + 1, nullptr, 10)};
}

}  // namespace

void KillPoint(const char* name) {
  static const Armed armed = ReadEnvironment();
  if (armed.name != name) return;
  static std::atomic<int64_t> visits{0};
  if (++visits != armed.visit) return;
  const std::string line = "kill point " + armed.name + "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

}  // namespace diffmoe
