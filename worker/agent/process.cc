#include "worker/agent/process.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"

namespace diffmoe {
namespace {

constexpr int kErrorDescriptor = 3;  // in the child, closed by exec
constexpr int kDefaultSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE, SIGQUIT};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

std::vector<std::string> BuildEnvironment(const SpawnOptions& options) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    const bool replaced = std::any_of(options.environment.begin(), options.environment.end(),
                                      [&name](const auto& added) { return added.first == name; });
    if (!replaced) out.push_back(text);
  }
  for (const auto& [name, value] : options.environment)
    out.push_back(absl::StrCat(name, "=", value));
  return out;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& text : strings) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// What the child needs between fork and exec, made before the fork: only async-signal-safe calls
// are allowed there.
struct ChildPlan {
  const char* binary;
  char** arguments;
  char** environment;
  int null_fd;
  int log_fd;
  int error_fd;
  pid_t parent;
};

[[noreturn]] void FailChild() {
  const int error = errno;
  [[maybe_unused]] ssize_t written = write(kErrorDescriptor, &error, sizeof(error));
  _exit(127);
}

[[noreturn]] void RunChild(const ChildPlan& plan) {
  // A descriptor below 4 among ours would be overwritten by dup2; move them all out of the way
  // first.
  const int null_fd = fcntl(plan.null_fd, F_DUPFD, 16);
  const int log_fd = fcntl(plan.log_fd, F_DUPFD, 16);
  const int error_fd = fcntl(plan.error_fd, F_DUPFD, 16);
  if (dup3(error_fd, kErrorDescriptor, O_CLOEXEC) < 0) _exit(127);
  if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
      dup2(log_fd, STDERR_FILENO) < 0) {
    FailChild();
  }
  if (close_range(kErrorDescriptor + 1, ~0u, 0) != 0) FailChild();
  setpgid(0, 0);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) FailChild();
  if (getppid() != plan.parent) _exit(127);  // it died before the line above
  for (int number : kDefaultSignals) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execve(plan.binary, plan.arguments, plan.environment);
  FailChild();
}

}  // namespace

absl::StatusOr<pid_t> Spawn(const SpawnOptions& options) {
  Descriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (null.get() < 0) return FileError(errno, "open", "/dev/null");
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return FileError(errno, "open a pipe for", options.binary);
  Descriptor error_read(pipe_fds[0]);
  Descriptor error_write(pipe_fds[1]);

  std::vector<std::string> arguments = options.arguments;
  arguments.insert(arguments.begin(), options.binary);
  std::vector<std::string> environment = BuildEnvironment(options);
  std::vector<char*> argument_pointers = Pointers(arguments);
  std::vector<char*> environment_pointers = Pointers(environment);
  const ChildPlan plan{options.binary.c_str(),
                       argument_pointers.data(),
                       environment_pointers.data(),
                       null.get(),
                       options.log_fd,
                       error_write.get(),
                       getpid()};
  const pid_t pid = fork();
  if (pid < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start ", options.binary, ": fork: ", strerror(errno)));
  }
  if (pid == 0) RunChild(plan);
  setpgid(pid, pid);  // the child does the same; whoever comes first
  error_write.Close();
  int error = 0;
  ssize_t got;
  do {
    got = read(error_read.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(sizeof(error))) {
    waitpid(pid, nullptr, 0);
    return absl::UnavailableError(
        absl::StrCat("cannot start ", options.binary, ": ", strerror(error)));
  }
  return pid;
}

std::optional<ProcessExit> Reap(pid_t pid) {
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid != pid) {
    return std::nullopt;
  }
  // While the zombie holds the pid, the group number can't belong to anybody else.
  kill(-pid, SIGKILL);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return std::nullopt;
  if (WIFSIGNALED(status)) return ProcessExit{.code = 0, .signal = WTERMSIG(status)};
  return ProcessExit{.code = WEXITSTATUS(status), .signal = 0};
}

void SignalGroup(pid_t pid, int signal) { kill(-pid, signal); }

std::string ProcessState(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/status"));
  constexpr char kKey[] = "State:";
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(kKey, 0) == 0) {
      return std::string(absl::StripAsciiWhitespace(line.substr(sizeof(kKey) - 1)));
    }
  }
  return "gone";
}

}  // namespace diffmoe
