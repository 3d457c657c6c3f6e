#include "client/local/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr size_t kShownBytes = LogFileOptions().tail_bytes;

// In the child, between fork and exec: only async-signal-safe calls. Never returns.
[[noreturn]] void BecomeProgram(char* const* argv, int input, int log, int report, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  struct sigaction defaults {};
  defaults.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &defaults, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(input, STDIN_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0 &&
      dup2(log, STDERR_FILENO) >= 0) {
    execv(argv[0], argv);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report, &error, sizeof(error));
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(pid_t pid, std::shared_ptr<ChildLog> log)
    : pid_(pid), log_(std::move(log)) {}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::vector<std::string>& argv, LogPump* logs, const std::string& log_path) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ChildLog> log, logs->Open(log_path));
  const absl::Cleanup close_log = [&log] { log->CloseWriteEnd(); };
  const int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (input < 0) return FileError(errno, "open", "/dev/null");
  const absl::Cleanup close_input = [input] { close(input); };
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const absl::Cleanup close_report = [&report] { close(report[0]); };

  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    close(report[1]);
    return absl::ResourceExhaustedError(absl::StrCat("no process for ", argv[0], ": ",
                                                     absl::ErrnoToStatus(errno, "fork").message()));
  }
  if (pid == 0) BecomeProgram(arguments.data(), input, log->write_fd(), report[1], parent);
  close(report[1]);
  // Closed without a word by a successful exec.
  int error = 0;
  ssize_t got;
  do {
    got = read(report[0], &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == sizeof(error)) {
    waitpid(pid, nullptr, 0);
    return FileError(error, "run", argv[0]);
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, log));
}

ChildProcess::~ChildProcess() {
  if (ExitCode().has_value()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::optional<int> ChildProcess::ExitCode() {
  if (exit_code_.has_value()) return exit_code_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    log_->Finish();
  }
  return exit_code_;
}

void ChildProcess::Signal(int signal) {
  if (!ExitCode().has_value()) kill(pid_, signal);
}

std::string ChildProcess::LastOutput() const {
  std::string text = log_->Tail();
  // From the start of a line.
  if (text.size() >= kShownBytes) text.erase(0, text.find('\n') + 1);
  return text;
}

}  // namespace diffmoe
