#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr size_t kMaxCaptureBytes = 64 << 20;

struct Pipe {
  int read = -1;
  int write = -1;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return absl::InternalError(absl::StrCat("pipe2: ", strerror(errno)));
  return Pipe{ends[0], ends[1]};
}

std::vector<std::string> Environment(
    const std::vector<std::pair<std::string, std::string>>& changes) {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  for (const auto& [name, value] : changes) {
    if (value.empty())
      variables.erase(name);
    else
      variables[name] = value;
  }
  std::vector<std::string> result;
  result.reserve(variables.size());
  for (const auto& [name, value] : variables) result.push_back(absl::StrCat(name, "=", value));
  return result;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// Runs in the forked child: async-signal-safe calls only. Writes errno to `report` when it fails.
[[noreturn]] void Execute(char* const* argv, char* const* env, const char* working_dir, int out,
                          int err, int report, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  if (*working_dir == '\0' || chdir(working_dir) == 0) execvpe(argv[0], argv, env);
  const int error = errno;
  (void)!write(report, &error, sizeof(error));
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Process>> Process::Start(const ProcessOptions& options) {
  if (options.argv.empty()) return absl::InvalidArgumentError("argv is empty");
  ASSIGN_OR_RETURN(const Pipe out, MakePipe());
  ASSIGN_OR_RETURN(const Pipe err, MakePipe());
  ASSIGN_OR_RETURN(const Pipe report, MakePipe());
  std::vector<std::string> arguments = options.argv;
  std::vector<std::string> environment = Environment(options.environment);
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> env = Pointers(environment);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    Execute(argv.data(), env.data(), options.working_dir.c_str(), out.write, err.write,
            report.write, parent);
  }
  const int fork_error = errno;
  close(out.write);
  close(err.write);
  close(report.write);
  // The report pipe closes at exec, or brings the errno of a failed one.
  int error = pid < 0 ? fork_error : 0;
  if (pid > 0 && read(report.read, &error, sizeof(error)) <= 0) error = 0;
  close(report.read);
  if (error != 0) {
    close(out.read);
    close(err.read);
    if (pid > 0) waitpid(pid, nullptr, 0);
    return absl::InternalError(
        absl::StrCat("cannot execute ", options.argv[0], ": ", strerror(error)));
  }
  return std::unique_ptr<Process>(new Process(pid, out.read, err.read));
}

Process::Process(pid_t pid, int out, int err)
    : pid_(pid),
      out_reader_([this, out] { Read(out, &out_); }),
      err_reader_([this, err] { Read(err, &err_); }) {}

Process::~Process() {
  // The whole group, so that no grandchild keeps the pipes open.
  kill(-pid_, SIGKILL);
  {
    absl::MutexLock lock(&mutex_);
    if (!exit_.has_value()) waitpid(pid_, nullptr, 0);
  }
  out_reader_.join();
  err_reader_.join();
}

void Process::Read(int descriptor, std::string* into) {
  char buffer[16384];
  for (;;) {
    const ssize_t count = read(descriptor, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    absl::MutexLock lock(&mutex_);
    if (into->size() < kMaxCaptureBytes) into->append(buffer, static_cast<size_t>(count));
  }
  close(descriptor);
  absl::MutexLock lock(&mutex_);
  --streams_open_;
}

bool Process::Reap() {
  if (exit_.has_value()) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  exit_ = WIFSIGNALED(status) ? ExitState{-1, WTERMSIG(status)} : ExitState{WEXITSTATUS(status), 0};
  return true;
}

void Process::Signal(int signal) {
  absl::MutexLock lock(&mutex_);
  if (!Reap()) kill(pid_, signal);
}

bool Process::Running() {
  absl::MutexLock lock(&mutex_);
  return !Reap();
}

absl::StatusOr<ExitState> Process::Wait(absl::Duration limit) {
  if (!WaitUntil(limit, [this] { return !Running(); })) {
    return absl::DeadlineExceededError(absl::StrCat("process ", pid_, " still runs after ",
                                                    absl::FormatDuration(limit), "; stdout:\n",
                                                    Out(), "\nstderr:\n", Err()));
  }
  absl::MutexLock lock(&mutex_);
  const auto drained = [this]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_open_ == 0; };
  mutex_.AwaitWithTimeout(absl::Condition(&drained), absl::Seconds(1));
  return *exit_;
}

std::string Process::Out() const {
  absl::MutexLock lock(&mutex_);
  return out_;
}

std::string Process::Err() const {
  absl::MutexLock lock(&mutex_);
  return err_;
}

bool Process::WaitForText(const std::string& text, absl::Duration limit) {
  return WaitUntil(limit, [&] {
    absl::MutexLock lock(&mutex_);
    return absl::StrContains(out_, text) || absl::StrContains(err_, text);
  });
}

absl::StatusOr<RunResult> RunProcess(const ProcessOptions& options, absl::Duration limit) {
  ASSIGN_OR_RETURN(std::unique_ptr<Process> process, Process::Start(options));
  RunResult result;
  ASSIGN_OR_RETURN(result.exit, process->Wait(limit));
  result.out = process->Out();
  result.err = process->Err();
  return result;
}

}  // namespace diffmoe::test
