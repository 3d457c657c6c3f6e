#include "client/local/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int64_t kMaxLogBytes = 16 << 20;
constexpr int64_t kShownBytes = 4 << 10;

int64_t FileSize(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

absl::StatusOr<int> OpenLog(const std::string& path) {
  if (FileSize(path) > kMaxLogBytes && std::rename(path.c_str(), (path + ".1").c_str()) != 0) {
    return FileError(errno, "rename", path);
  }
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return FileError(errno, "open", path);
  return fd;
}

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

ChildProcess::ChildProcess(pid_t pid, std::string log_path, int64_t log_start)
    : pid_(pid), log_path_(std::move(log_path)), log_start_(log_start) {}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::vector<std::string>& argv, const std::string& log_path) {
  ASSIGN_OR_RETURN(const int log, OpenLog(log_path));
  const absl::Cleanup close_log = [log] { close(log); };
  const int64_t log_start = FileSize(log_path);
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
  if (pid == 0) BecomeProgram(arguments.data(), input, log, report[1], parent);
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
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, log_path, log_start));
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
  }
  return exit_code_;
}

void ChildProcess::Signal(int signal) {
  if (!ExitCode().has_value()) kill(pid_, signal);
}

std::string ChildProcess::LastOutput() const {
  const int fd = open(log_path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  const absl::Cleanup close_fd = [fd] { close(fd); };
  const int64_t start = std::max(log_start_, FileSize(log_path_) - kShownBytes);
  std::string text(kShownBytes, '\0');
  const ssize_t got = pread(fd, text.data(), text.size(), start);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  // From the start of a line.
  if (start > log_start_) text.erase(0, text.find('\n') + 1);
  return text;
}

}  // namespace diffmoe
