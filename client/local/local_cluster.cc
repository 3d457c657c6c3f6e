#include "client/local/local_cluster.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/output/text.h"
#include "core/base/atomic_file.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_file.h"

namespace diffmoe {
namespace {

// Between two looks at a ready file that isn't there yet.
constexpr int kReadyPollMs = 20;
constexpr int64_t kChildPollMs = 500;
constexpr int64_t kSlowStartMs = 10'000;

std::string TextOf(const nlohmann::json& info, const char* key) {
  return info.is_object() && info.contains(key) && info[key].is_string()
             ? CleanText(info[key].get<std::string>())
             : "";
}

// "HOST:PORT+1"; port 0 stays 0, any free one.
std::string NextPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    return "127.0.0.1:0";
  }
  const bool has_next = port > 0 && port < 65535;
  return absl::StrCat(address.substr(0, colon), ":", has_next ? port + 1 : 0);
}

absl::Status MakeDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && access(path.c_str(), W_OK | X_OK) != 0)
    error.assign(errno, std::generic_category());
  if (!error) return absl::OkStatus();
  const absl::Status status = FileError(error.value(), "make and write directory", path);
  // Whatever lies in the way (a file, a read-only file system): the directory can't be written.
  return error.value() == ENOSPC ? status : absl::PermissionDeniedError(status.message());
}

}  // namespace

LocalCluster::LocalCluster(LocalClusterOptions options, const Clock* clock, std::ostream* out)
    : options_(std::move(options)), clock_(*clock), out_(*out), logs_(clock) {
  coordinator_.name = "coordinator";
  coordinator_.ready_file = options_.data_dir + "/coordinator/coordinator.json";
  worker_.name = "worker";
  worker_.ready_file = options_.data_dir + "/worker/worker.json";
}

LocalCluster::~LocalCluster() {
  if (signals_ >= 0) close(signals_);
}

absl::Status LocalCluster::Prepare() {
  for (const char* name : {"", "/coordinator", "/worker", "/logs"}) {
    RETURN_IF_ERROR(MakeDirectory(options_.data_dir + name));
  }
  sigset_t mask;
  sigemptyset(&mask);
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&mask, signal);
  if (sigprocmask(SIG_BLOCK, &mask, nullptr) != 0) return absl::ErrnoToStatus(errno, "sigprocmask");
  signals_ = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) return absl::ErrnoToStatus(errno, "signalfd");
  return absl::OkStatus();
}

std::vector<std::string> LocalCluster::CommandOf(const Service& service) const {
  const std::string program = absl::StrCat(options_.program_dir, "/diffmoe-", service.name);
  if (&service == &worker_) {
    return {program,
            "--dir",
            options_.data_dir + "/worker",
            "--coordinator",
            "file:" + coordinator_.ready_file,
            "--slots",
            absl::StrCat(options_.slots),
            "--metrics-listen",
            NextPort(options_.metrics_listen)};
  }
  // A restarted coordinator keeps the ports that it had, so that clients find it again.
  const std::string listen = TextOf(service.ready_info, "grpc_address");
  const std::string metrics = TextOf(service.ready_info, "metrics_address");
  std::vector<std::string> command = {program,
                                      "--data-dir",
                                      options_.data_dir + "/coordinator",
                                      "--listen",
                                      listen.empty() ? options_.listen : listen,
                                      "--metrics-listen",
                                      metrics.empty() ? options_.metrics_listen : metrics};
  if (options_.console_writes) command.push_back("--console-writes");
  return command;
}

absl::Status LocalCluster::StartService(Service* service) {
  service->ready = false;
  service->waiting_since_ms = clock_.MonotonicMs();
  ASSIGN_OR_RETURN(service->child, ChildProcess::Start(CommandOf(*service), &logs_,
                                                       absl::StrCat(options_.data_dir, "/logs/",
                                                                    service->name, ".log")));
  return absl::OkStatus();
}

bool LocalCluster::CheckReady(Service* service) {
  if (service->ready) return true;
  const absl::StatusOr<std::string> text = ReadSpecFile(service->ready_file);
  if (!text.ok()) return false;
  auto info = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  // The file of an earlier run names another process.
  if (!info.is_object() || !info.contains("pid") || !info["pid"].is_number_integer() ||
      info["pid"].get<int64_t>() != service->child->pid()) {
    return false;
  }
  service->ready_info = std::move(info);
  service->ready = true;
  service->ready_ms = clock_.MonotonicMs();
  return true;
}

bool LocalCluster::AwaitSignal(int timeout_ms) {
  pollfd descriptor{signals_, POLLIN, 0};
  if (poll(&descriptor, 1, timeout_ms) <= 0) return false;
  bool stop = false;
  signalfd_siginfo info;
  while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
    stop = stop || info.ssi_signo != SIGCHLD;
  }
  return stop;
}

absl::StatusOr<std::optional<int>> LocalCluster::StartAndAwait(Service* service) {
  RETURN_IF_ERROR(StartService(service));
  bool said = false;
  while (!CheckReady(service)) {
    if (AwaitSignal(kReadyPollMs)) return StopAll(kExitOk);
    if (const std::optional<int> code = service->child->ExitCode(); code.has_value()) {
      out_ << "diffmoe: the " << service->name << " could not start (exit code " << *code << "):\n"
           << service->child->LastOutput() << std::flush;
      return StopAll(*code == kExitOk ? kExitInternal : *code);
    }
    if (!said && clock_.MonotonicMs() - service->waiting_since_ms > kSlowStartMs) {
      said = true;
      out_ << "waiting for the " << service->name << " to get ready; its log: " << options_.data_dir
           << "/logs/" << service->name << ".log\n"
           << std::flush;
    }
  }
  return std::nullopt;
}

void LocalCluster::PrintReady() const {
  const std::string program = absl::StrCat("diffmoe ", options_.hint_flags);
  const std::string http = "http://" + TextOf(coordinator_.ready_info, "metrics_address");
  out_ << "coordinator  " << TextOf(coordinator_.ready_info, "grpc_address") << "   metrics "
       << http << "/metrics\n"
       << "worker       " << TextOf(worker_.ready_info, "worker_id") << ", " << options_.slots
       << (options_.slots == 1 ? " slot" : " slots") << "   metrics http://"
       << TextOf(worker_.ready_info, "metrics_address") << "/metrics\n"
       << "console      " << http << (options_.console_writes ? "/\n" : "/ (read-only)\n")
       << "data         " << options_.data_dir << "\n\n"
       << "Next, in another terminal: " << program
       << "submit deploy/jobs/fashion-smoke.yaml --follow\n"
       << "Ctrl-C stops both; `diffmoe up` goes on where it stopped.\n"
       << std::flush;
}

std::optional<int> LocalCluster::Supervise(Service* service) {
  const int64_t now_ms = clock_.MonotonicMs();
  if (service->child == nullptr) {
    if (now_ms < service->start_at_ms) return std::nullopt;
    const absl::Status status = StartService(service);
    if (status.ok()) return std::nullopt;
    out_ << "diffmoe: " << status.message() << "\n" << std::flush;
    return ExitCodeOf(status);
  }
  const std::optional<int> code = service->child->ExitCode();
  if (!code.has_value()) {
    if (!service->ready && CheckReady(service)) {
      out_ << "the " << service->name << " runs again\n" << std::flush;
    }
    return std::nullopt;
  }
  const bool settled = service->ready && now_ms - service->ready_ms > options_.settle_time_ms;
  service->failures = settled ? 1 : service->failures + 1;
  if (service->failures > options_.max_failures) {
    out_ << "diffmoe: the " << service->name << " ended " << service->failures
         << " times in a row; the last time with exit code " << *code << ":\n"
         << service->child->LastOutput() << std::flush;
    return *code == kExitOk ? kExitInternal : *code;
  }
  const int64_t wait_ms = std::min(options_.max_backoff_ms,
                                   options_.min_backoff_ms << std::min(service->failures - 1, 20));
  out_ << "the " << service->name << " ended with exit code " << *code << "; starting it again in "
       << DurationText(static_cast<double>(wait_ms) * 1e-3) << " (log: " << options_.data_dir
       << "/logs/" << service->name << ".log)\n"
       << std::flush;
  service->child.reset();
  service->ready = false;
  service->start_at_ms = now_ms + wait_ms;
  return std::nullopt;
}

int LocalCluster::NextTimeoutMs() const {
  // A signal wakes the group up; should one get lost, its children are looked at all the same.
  int64_t timeout_ms = kChildPollMs;
  for (const Service* service : {&coordinator_, &worker_}) {
    int64_t wait_ms = -1;
    if (service->child == nullptr) {
      wait_ms = std::max<int64_t>(0, service->start_at_ms - clock_.MonotonicMs());
    } else if (!service->ready) {
      wait_ms = kReadyPollMs;
    }
    if (wait_ms >= 0) timeout_ms = std::min(timeout_ms, wait_ms);
  }
  return static_cast<int>(timeout_ms);
}

void LocalCluster::StopService(Service* service) {
  if (service->child == nullptr || service->child->ExitCode().has_value()) return;
  out_ << "stopping the " << service->name << "\n" << std::flush;
  service->child->Signal(SIGTERM);
  const int64_t limit_ms = clock_.MonotonicMs() + options_.stop_limit_ms;
  while (!service->child->ExitCode().has_value()) {
    const int64_t left_ms = limit_ms - clock_.MonotonicMs();
    if (left_ms <= 0 || AwaitSignal(static_cast<int>(std::min<int64_t>(left_ms, 1000)))) {
      out_ << "killing the " << service->name << "\n" << std::flush;
      service->child->Signal(SIGKILL);
      break;
    }
  }
  service->child.reset();
}

int LocalCluster::StopAll(int exit_code) {
  StopService(&worker_);
  StopService(&coordinator_);
  return exit_code;
}

absl::StatusOr<int> LocalCluster::Run() {
  RETURN_IF_ERROR(Prepare());
  for (Service* service : {&coordinator_, &worker_}) {
    absl::StatusOr<std::optional<int>> code = StartAndAwait(service);
    if (!code.ok()) {
      StopAll(kExitInternal);
      return code.status();
    }
    if (code->has_value()) return **code;
  }
  PrintReady();
  while (!AwaitSignal(NextTimeoutMs())) {
    for (Service* service : {&coordinator_, &worker_}) {
      if (const std::optional<int> code = Supervise(service); code.has_value()) {
        return StopAll(*code);
      }
    }
  }
  return StopAll(kExitOk);
}

}  // namespace diffmoe
