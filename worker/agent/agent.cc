#include "worker/agent/agent.h"

#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/atomic_file.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/log_pump.h"
#include "core/base/status_macros.h"
#include "core/base/version.h"
#include "core/metrics/metrics.h"
#include "worker/agent/bulk_proxy.h"
#include "worker/agent/coordinator_link.h"
#include "worker/agent/job_series.h"
#include "worker/agent/log_reads.h"
#include "worker/agent/outbox.h"
#include "worker/agent/rank_service.h"
#include "worker/agent/rank_supervisor.h"
#include "worker/agent/worker_directory.h"
#include "worker/backoff.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxMailbox = 4096;
constexpr absl::Duration kDrainLogs = absl::Milliseconds(500);

sigset_t AgentSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, number);
  return set;
}

// What other threads want of the main thread. Bound: 4,096 messages; Post blocks while it is full.
class Mailbox {
 public:
  Mailbox() : event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~Mailbox() { close(event_fd_); }

  int fd() const { return event_fd_; }

  void Post(pb::CoordinatorMessage message) {
    {
      absl::MutexLock lock(&mutex_);
      auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return closed_ || messages_.size() < kMaxMailbox;
      };
      mutex_.Await(absl::Condition(&room));
      if (closed_) return;
      messages_.push_back(std::move(message));
    }
    Wake();
  }

  void Refuse(absl::Status status) {
    {
      absl::MutexLock lock(&mutex_);
      refused_ = std::move(status);
    }
    Wake();
  }

  void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(event_fd_, &one, sizeof(one));
  }

  std::deque<pb::CoordinatorMessage> Take() {
    uint64_t count = 0;
    [[maybe_unused]] ssize_t got = read(event_fd_, &count, sizeof(count));
    absl::MutexLock lock(&mutex_);
    return std::exchange(messages_, {});
  }

  absl::Status refused() const {
    absl::MutexLock lock(&mutex_);
    return refused_;
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

 private:
  const int event_fd_;
  mutable absl::Mutex mutex_;
  std::deque<pb::CoordinatorMessage> messages_ ABSL_GUARDED_BY(mutex_);
  absl::Status refused_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

metrics::RankExitCause MetricCause(pb::ExitCause cause) {
  switch (cause) {
    case pb::EXIT_CAUSE_DONE:
      return metrics::RankExitCause::kDone;
    case pb::EXIT_CAUSE_STOPPED:
      return metrics::RankExitCause::kStopped;
    case pb::EXIT_CAUSE_HANG:
      return metrics::RankExitCause::kHang;
    case pb::EXIT_CAUSE_OUT_OF_MEMORY:
      return metrics::RankExitCause::kOutOfMemory;
    case pb::EXIT_CAUSE_SIGNAL:
      return metrics::RankExitCause::kSignal;
    case pb::EXIT_CAUSE_EXIT_CODE:
      return metrics::RankExitCause::kExitCode;
    case pb::EXIT_CAUSE_SPAWN:
      return metrics::RankExitCause::kSpawn;
    default:
      return metrics::RankExitCause::kError;
  }
}

// From the ranks' lives to the outbox and the metrics.
class EventRelay final : public RankEvents {
 public:
  EventRelay(Outbox* outbox, JobSeries* series, metrics::WorkerMetrics* metrics)
      : outbox_(outbox), series_(series), metrics_(metrics) {}

  void RankStarted(const pb::StartRank& start, pid_t pid) override {
    pb::RankStarted started;
    *started.mutable_group() = start.group();
    started.set_rank(start.rank());
    started.set_pid(pid);
    outbox_->AddStarted(std::move(started));
    metrics_->CountRankStart(start.role() == pb::ROLE_SAMPLE);
  }

  void RankExited(const pb::StartRank& start, pb::RankExited exited, bool group_ended) override {
    metrics_->CountRankExit(MetricCause(exited.cause()));
    const bool not_finite = exited.status_code() == static_cast<int>(absl::StatusCode::kOutOfRange);
    if (not_finite && start.role() != pb::ROLE_SAMPLE) series_->LossNotFinite(start.group().id());
    outbox_->AddExited(std::move(exited));
    if (group_ended && start.role() != pb::ROLE_SAMPLE) series_->GroupEnded(start.group().id());
  }

  void RankReported(const pb::StartRank& start, pb::RankReport report) override {
    if (report.has_progress() && start.role() != pb::ROLE_SAMPLE) {
      series_->Update(start.group().id(), report.progress(), start.spec());
    }
    outbox_->AddReport(std::move(report));
  }

 private:
  Outbox* const outbox_;
  JobSeries* const series_;
  metrics::WorkerMetrics* const metrics_;
};

absl::StatusOr<std::unique_ptr<grpc::Server>> ServeSocket(const std::string& path,
                                                          RankService* ranks, BulkProxy* bulk) {
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddListeningPort(absl::StrCat("unix:", path), grpc::InsecureServerCredentials(), &bound);
  builder.RegisterService(ranks);
  builder.RegisterService(bulk);
  const mode_t old_mask = umask(0177);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  umask(old_mask);
  if (server == nullptr || bound == 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot listen on the socket ", path));
  }
  return server;
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

Backoff MakeBackoff(const AgentOptions& options) {
  return Backoff(options.first_retry, options.retry_limit,
                 [engine = std::mt19937_64(std::random_device()())]() mutable {
                   return std::uniform_real_distribution<double>(0, 1)(engine);
                 });
}

// Start order as the members stand; stop in reverse. Everything but the callbacks runs on the main
// thread.
class Agent {
 public:
  Agent(const AgentOptions& options, std::unique_ptr<WorkerDirectory> directory)
      : options_(options),
        directory_(std::move(directory)),
        registry_("diffmoe-worker", kVersion),
        train_metrics_(registry_),
        worker_metrics_(registry_),
        outbox_(&clock_),
        series_(&train_metrics_, &clock_, options.keep_series),
        relay_(&outbox_, &series_, &worker_metrics_),
        rank_logs_(&clock_, [this](int64_t lines) { worker_metrics_.CountLogLinesDropped(lines); }),
        supervisor_({.binary = options.rank_binary,
                     .slot_devices = options.slot_devices,
                     .address = options.rank_address,
                     .log_format = options.log_format,
                     .trace_file = options.trace_file},
                    directory_.get(), &rank_logs_, &clock_, &relay_),
        rank_service_(&supervisor_, [this] { mailbox_.Wake(); }),
        bulk_proxy_(&worker_metrics_),
        log_reads_({.path =
                        [this](const pb::GroupId& group, int rank) {
                          return directory_->LogPath(group.id(), group.epoch(), rank);
                        },
                    .open = [this](const std::string& path) { return rank_logs_.IsOpen(path); },
                    .coordinator = [this] { return bulk_proxy_.coordinator(); },
                    .worker_id = directory_->worker_id()}),
        link_(options.coordinator,
              {.hello = [this] { return Hello(); },
               .received =
                   [this](pb::CoordinatorMessage message) { mailbox_.Post(std::move(message)); },
               .refused = [this](absl::Status status) { mailbox_.Refuse(std::move(status)); }},
              MakeBackoff(options), &outbox_, &bulk_proxy_, &worker_metrics_) {}

  absl::Status Run();

 private:
  pb::Hello Hello() const;
  // Every few seconds.
  void ShowDisk();
  absl::Status Loop(int signal_fd);
  // Reads what has come in; true once the worker shall end.
  bool HandleSignals(int signal_fd);
  void Handle(const pb::CoordinatorMessage& message);

  const AgentOptions options_;
  const std::unique_ptr<WorkerDirectory> directory_;
  SystemClock clock_;
  Mailbox mailbox_;
  metrics::Registry registry_;
  metrics::TrainMetrics train_metrics_;
  metrics::WorkerMetrics worker_metrics_;
  std::unique_ptr<metrics::MetricsServer> metrics_server_;
  Outbox outbox_;
  JobSeries series_;
  EventRelay relay_;
  LogPump rank_logs_;
  RankSupervisor supervisor_;
  RankService rank_service_;
  BulkProxy bulk_proxy_;
  LogReads log_reads_;
  std::unique_ptr<grpc::Server> server_;
  CoordinatorLink link_;
  int64_t next_disk_ms_ = 0;
  int stop_signals_ = 0;
};

pb::Hello Agent::Hello() const {
  pb::Hello hello;
  hello.set_protocol_version(kProtocolVersion);
  hello.set_worker_id(directory_->worker_id());
  hello.set_host(HostName());
  for (const std::string& device : options_.slot_devices) hello.add_slot_devices(device);
  for (pb::RunningRank& running : supervisor_.Running()) *hello.add_running() = std::move(running);
  hello.set_version(kVersion);
  hello.set_metrics_address(metrics_server_->address());
  return hello;
}

absl::Status Agent::Run() {
  const sigset_t signals = AgentSignals();
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd < 0) return FileError(errno, "open", "signalfd");
  RETURN_IF_ERROR(rank_logs_.Start());
  ASSIGN_OR_RETURN(metrics_server_,
                   metrics::MetricsServer::Start(options_.metrics_listen, registry_));
  ASSIGN_OR_RETURN(server_, ServeSocket(directory_->socket_path(), &rank_service_, &bulk_proxy_));
  RETURN_IF_ERROR(directory_->WriteInfo(metrics_server_->address()));
  LogInfo("worker", "ready",
          {{"worker_id", directory_->worker_id()},
           {"slots", options_.slot_devices.size()},
           {"coordinator", options_.coordinator},
           {"metrics", metrics_server_->address()},
           {"socket", directory_->socket_path()}});
  link_.Start();
  const absl::Status status = Loop(signal_fd);
  mailbox_.Close();
  log_reads_.Drain(kDrainLogs);
  link_.Stop();
  server_->Shutdown(std::chrono::system_clock::now());
  close(signal_fd);
  LogInfo("worker", "stopped");
  return status;
}

absl::Status Agent::Loop(int signal_fd) {
  absl::Status status;
  bool stopping = false;
  while (true) {
    const absl::Duration wait = supervisor_.Tick();
    const int64_t slots = static_cast<int64_t>(options_.slot_devices.size());
    const int64_t busy = supervisor_.BusySlots();
    worker_metrics_.SetSlots(busy, slots - busy);
    series_.RemoveDue();
    ShowDisk();
    if (stopping && supervisor_.Empty()) return status;
    pollfd fds[] = {{signal_fd, POLLIN, 0}, {mailbox_.fd(), POLLIN, 0}};
    poll(fds, 2, static_cast<int>(absl::ToInt64Milliseconds(wait)) + 1);
    if (HandleSignals(signal_fd) && !stopping) {
      stopping = true;
      supervisor_.StopAll(options_.stop_grace, /*save=*/true, "the worker was told to end");
    }
    if (stop_signals_ > 1) supervisor_.KillAll();
    for (const pb::CoordinatorMessage& message : mailbox_.Take()) {
      if (!stopping) Handle(message);
    }
    if (absl::Status refused = mailbox_.refused(); !refused.ok() && !stopping) {
      status = refused;
      stopping = true;
      supervisor_.StopAll(options_.stop_grace, /*save=*/false,
                          "the coordinator refused this worker");
    }
  }
}

void Agent::ShowDisk() {
  constexpr int64_t kIntervalMs = 5000;
  if (clock_.MonotonicMs() < next_disk_ms_) return;
  next_disk_ms_ = clock_.MonotonicMs() + kIntervalMs;
  std::error_code error;
  const std::filesystem::space_info disk = std::filesystem::space(options_.directory, error);
  if (!error) worker_metrics_.SetDiskFree(static_cast<int64_t>(disk.available));
}

bool Agent::HandleSignals(int signal_fd) {
  signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (static_cast<int>(info.ssi_signo) == SIGCHLD) continue;
    ++stop_signals_;
    LogInfo("worker", "stopping", {{"signal", info.ssi_signo}, {"ranks", supervisor_.BusySlots()}});
  }
  return stop_signals_ > 0;
}

void Agent::Handle(const pb::CoordinatorMessage& message) {
  switch (message.message_case()) {
    case pb::CoordinatorMessage::kStartRank:
      supervisor_.Start(message.start_rank());
      break;
    case pb::CoordinatorMessage::kStopGroup:
      supervisor_.Stop(message.stop_group());
      break;
    case pb::CoordinatorMessage::kReadLogs:
      log_reads_.Start(message.read_logs());
      break;
    case pb::CoordinatorMessage::kStopReadingLogs:
      log_reads_.Stop(message.stop_reading_logs().read_id());
      break;
    case pb::CoordinatorMessage::kWelcome:
    case pb::CoordinatorMessage::MESSAGE_NOT_SET:
      break;
  }
}

}  // namespace

void BlockAgentSignals() {
  const sigset_t signals = AgentSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

absl::Status RunAgent(const AgentOptions& options) {
  if (access(options.rank_binary.c_str(), X_OK) != 0) {
    return absl::NotFoundError(
        absl::StrCat("rank binary ", options.rank_binary, " is not there or can't be executed"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<WorkerDirectory> directory,
                   WorkerDirectory::Open(options.directory));
  Agent agent(options, std::move(directory));
  return agent.Run();
}

}  // namespace diffmoe
