#include "worker/agent/rank_supervisor.h"

#include <signal.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "worker/agent/rank_exit.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int64_t kConnectLimitMs = 120'000;
constexpr int64_t kLingerLimitMs = 30'000;
constexpr int64_t kCooperativeMs = 1'000;
// What is left of the grace when a rank that saves a checkpoint is told to stop at once.
constexpr int64_t kGiveUpSavingMs = 3'000;
// How long the last words of a dead rank may still be under way in its session.
constexpr int64_t kLastWordsMs = 700;
constexpr int64_t kMaxTickMs = 1'000;
// A tick that comes so much later than it was wanted means that this process didn't run.
constexpr int64_t kOwnPauseMs = 2'000;

// The part of a grace period in which a rank may save a checkpoint.
int64_t TimeToSave(int64_t grace_ms) { return grace_ms - std::min(kGiveUpSavingMs, grace_ms / 4); }

std::string Describe(const pb::StartRank& start) {
  return absl::StrCat("rank ", start.rank(), " of ", start.group().id(), " epoch ",
                      start.group().epoch());
}

}  // namespace

RankSupervisor::RankSupervisor(RankOptions options, const WorkerDirectory* directory, LogPump* logs,
                               const Clock* clock, RankEvents* events)
    : options_(std::move(options)),
      directory_(directory),
      logs_(logs),
      clock_(clock),
      events_(events) {}

absl::Status RankSupervisor::CheckSlot(const pb::StartRank& start) const {
  if (start.slot() < 0 || start.slot() >= static_cast<int64_t>(options_.slot_devices.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "slot ", start.slot(), ": this worker has slots 0 to ", options_.slot_devices.size() - 1));
  }
  for (const auto& [key, rank] : ranks_) {
    if (rank.start.slot() == start.slot()) {
      return absl::FailedPreconditionError(
          absl::StrCat("slot ", start.slot(), " is still held by ", Describe(rank.start)));
    }
  }
  return absl::OkStatus();
}

void RankSupervisor::RefuseStart(const pb::StartRank& start, const absl::Status& status) {
  pb::RankExited exited;
  *exited.mutable_group() = start.group();
  exited.set_rank(start.rank());
  exited.set_cause(pb::EXIT_CAUSE_SPAWN);
  exited.set_status_code(static_cast<int>(status.code()));
  exited.set_message(std::string(status.message()));
  LogError("worker", "a rank could not be started",
           {{"rank", Describe(start)}, {"error", std::string(status.message())}});
  events_->RankExited(start, std::move(exited), !GroupRuns(start.group()));
}

absl::StatusOr<pid_t> RankSupervisor::SpawnRank(const pb::StartRank& start,
                                                std::shared_ptr<ChildLog>* log) const {
  directory_->PruneLogs([this](const std::string& path) { return logs_->IsOpen(path); });
  ASSIGN_OR_RETURN(*log, logs_->Open(directory_->LogPath(start.group().id(), start.group().epoch(),
                                                         start.rank())));
  SpawnOptions spawn{
      .binary = options_.binary,
      .arguments = {"--socket", directory_->socket_path(), "--group", start.group().id(), "--epoch",
                    absl::StrCat(start.group().epoch()), "--rank", absl::StrCat(start.rank())},
      .environment = {{"OMP_NUM_THREADS", "1"}},
      .log_fd = (*log)->write_fd()};
  if (options_.log_format != LogFormat::kText) {
    spawn.arguments.insert(spawn.arguments.end(),
                           {"--log-format", std::string(LogFormatName(options_.log_format))});
  }
  if (!options_.trace_file.empty()) {
    spawn.arguments.insert(spawn.arguments.end(), {"--trace-file", options_.trace_file});
    if (!start.traceparent().empty()) {
      spawn.arguments.insert(spawn.arguments.end(), {"--traceparent", start.traceparent()});
    }
  }
  const absl::StatusOr<pid_t> pid = Spawn(spawn);
  (*log)->CloseWriteEnd();
  return pid;
}

void RankSupervisor::Start(const pb::StartRank& start) {
  absl::MutexLock lock(&mutex_);
  const Key key = KeyOf(start.group(), start.rank());
  if (auto entry = ranks_.find(key); entry != ranks_.end()) {
    events_->RankStarted(entry->second.start, entry->second.pid);
    return;
  }
  if (absl::Status slot = CheckSlot(start); !slot.ok()) return RefuseStart(start, slot);
  KillPoint("rank.before_spawn");
  std::shared_ptr<ChildLog> log;
  absl::StatusOr<pid_t> pid = SpawnRank(start, &log);
  KillPoint("rank.spawned");
  if (!pid.ok()) return RefuseStart(start, pid.status());
  Rank& rank = ranks_[key];
  rank.start = start;
  rank.start.set_device(options_.slot_devices[static_cast<size_t>(start.slot())]);
  rank.start.set_rank_address(options_.address);
  rank.pid = *pid;
  rank.log = std::move(log);
  rank.plain_stop_at_ms = kNever;
  rank.terminate_at_ms = kNever;
  rank.kill_at_ms = clock_->MonotonicMs() + kConnectLimitMs;
  rank.kill_reason = "it did not connect within 2 minutes";
  rank.report_by_ms = kNever;
  pb::RankCommand command;
  *command.mutable_start() = rank.start;
  rank.commands->Push(std::move(command));
  LogInfo("worker", "rank started",
          {{"rank", Describe(start)},
           {"slot", start.slot()},
           {"pid", *pid},
           {"log", rank.log->path()}});
  events_->RankStarted(rank.start, *pid);
  KillPoint("rank.start_reported");
}

void RankSupervisor::SendPlainStop(Rank& rank) {
  rank.plain_stop_at_ms = kNever;
  if (rank.plain_stop_sent) return;
  rank.plain_stop_sent = true;
  pb::RankCommand command;
  command.mutable_stop()->set_reason(rank.stop_reason);
  rank.commands->Push(std::move(command));
}

void RankSupervisor::RequestStop(Rank& rank, int64_t plain_stop_in_ms, int64_t terminate_in_ms,
                                 int64_t kill_in_ms, const std::string& reason) {
  const int64_t now = clock_->MonotonicMs();
  if (!rank.stop_requested) {
    rank.stop_requested = true;
    rank.stop_reason = reason;
    if (!rank.attached) {
      // It has nothing to save and nobody who would hear of the stop.
      plain_stop_in_ms = terminate_in_ms = 0;
    } else if (plain_stop_in_ms > 0) {
      pb::RankCommand command;
      command.mutable_stop()->set_reason(reason);
      command.mutable_stop()->set_save(true);
      rank.commands->Push(std::move(command));
    }
  }
  if (plain_stop_in_ms <= 0) {
    SendPlainStop(rank);
  } else if (!rank.plain_stop_sent) {
    rank.plain_stop_at_ms = std::min(rank.plain_stop_at_ms, now + plain_stop_in_ms);
  }
  rank.terminate_at_ms = std::min(rank.terminate_at_ms, now + terminate_in_ms);
  rank.kill_at_ms = std::min(rank.kill_at_ms, now + kill_in_ms);
}

void RankSupervisor::Stop(const pb::StopGroup& stop) {
  absl::MutexLock lock(&mutex_);
  const int64_t grace = std::max<int64_t>(0, stop.grace_ms());
  for (auto& [key, rank] : ranks_) {
    const pb::GroupId& group = rank.start.group();
    if (group.id() != stop.group().id() || group.epoch() > stop.group().epoch()) continue;
    LogInfo("worker", "stopping a rank",
            {{"rank", Describe(rank.start)}, {"reason", stop.reason()}, {"save", stop.save()}});
    const int64_t plain = stop.save() ? TimeToSave(grace) : 0;
    RequestStop(rank, plain, plain + std::min(kCooperativeMs, (grace - plain) / 2), grace,
                stop.reason());
  }
}

void RankSupervisor::StopAll(absl::Duration grace, bool save, const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  const int64_t grace_ms = absl::ToInt64Milliseconds(grace);
  const int64_t plain = save ? TimeToSave(grace_ms) : 0;
  for (auto& [key, rank] : ranks_) RequestStop(rank, plain, plain, grace_ms, reason);
}

void RankSupervisor::KillAll() {
  StopAll(absl::ZeroDuration(), /*save=*/false, "the worker was told to end at once");
}

absl::Duration RankSupervisor::Tick() {
  absl::MutexLock lock(&mutex_);
  const int64_t now = clock_->MonotonicMs();
  int64_t next = now + kMaxTickMs;
  if (next_tick_ms_ != 0 && now > next_tick_ms_ + kOwnPauseMs) {
    LogWarning("worker", "this worker did not run for a while",
               {{"late_by_ms", now - next_tick_ms_}, {"ranks", ranks_.size()}});
    for (auto& [key, rank] : ranks_) rank.watch.Forgive(now - next_tick_ms_);
  }
  oom_.Poll(now);
  for (auto entry = ranks_.begin(); entry != ranks_.end();) {
    auto current = entry++;
    Rank& rank = current->second;
    if (!rank.exit.has_value()) {
      KillIfHung(rank, now);
      SendDueSignals(rank, now);
      rank.exit = Reap(rank.pid);
      if (rank.exit.has_value()) {
        rank.report_by_ms = now + kLastWordsMs;
        rank.watch.End();
      }
    }
    if (rank.exit.has_value() && (!rank.attached || now >= rank.report_by_ms)) {
      ReportExit(current);
      continue;
    }
    next = std::min(next, rank.watch.due_ms());
    next = std::min(next,
                    rank.exit.has_value()
                        ? rank.report_by_ms
                        : std::min({rank.plain_stop_at_ms, rank.terminate_at_ms, rank.kill_at_ms}));
  }
  next_tick_ms_ = ranks_.empty() ? 0 : std::max(now, next);
  return absl::Milliseconds(std::max<int64_t>(0, next - now));
}

void RankSupervisor::KillIfHung(Rank& rank, int64_t now_ms) {
  const std::optional<std::string> verdict = rank.watch.Verdict(now_ms);
  if (!verdict.has_value()) return;
  rank.hang =
      absl::StrCat(*verdict, "; its process ", rank.pid, " was in state ", ProcessState(rank.pid));
  rank.watch.End();
  LogWarning("worker", "killing a rank that hangs",
             {{"rank", Describe(rank.start)}, {"pid", rank.pid}, {"reason", rank.hang}});
  SignalGroup(rank.pid, SIGKILL);
}

void RankSupervisor::SendDueSignals(Rank& rank, int64_t now_ms) {
  if (now_ms >= rank.plain_stop_at_ms) SendPlainStop(rank);
  if (now_ms >= rank.terminate_at_ms) {
    rank.terminate_at_ms = kNever;
    SignalGroup(rank.pid, SIGTERM);
  }
  if (now_ms >= rank.kill_at_ms) {
    rank.kill_at_ms = kNever;
    SignalGroup(rank.pid, SIGKILL);
    if (rank.stop_requested) rank.kill_reason.clear();
    LogWarning("worker", "killed a rank",
               {{"rank", Describe(rank.start)},
                {"pid", rank.pid},
                {"reason", rank.stop_requested ? "it did not stop in time" : rank.kill_reason}});
  }
}

void RankSupervisor::ReportExit(Ranks::iterator entry) {
  KillPoint("rank.reaped");
  Rank rank = std::move(entry->second);
  ranks_.erase(entry);
  const bool killed_by_us = rank.kill_at_ms == kNever && !rank.stop_requested;
  pb::RankExited exited;
  *exited.mutable_group() = rank.start.group();
  exited.set_rank(rank.start.rank());
  exited.set_step(rank.step);
  FillExit({.exit = *rank.exit,
            .done = rank.done,
            .failure = rank.failure,
            .stop_requested = rank.stop_requested,
            .stop_reason = rank.stop_reason,
            .kill_reason = killed_by_us ? rank.kill_reason : "",
            .hang = rank.hang,
            .out_of_memory = oom_.KilledLately(clock_->MonotonicMs()),
            .log_tail = rank.log->Finish()},
           &exited);
  LogInfo("worker", "rank ended",
          {{"rank", Describe(rank.start)},
           {"pid", rank.pid},
           {"cause", pb::ExitCause_Name(exited.cause())},
           {"reason", exited.message()}});
  events_->RankExited(rank.start, std::move(exited), !GroupRuns(rank.start.group()));
  KillPoint("rank.exit_reported");
}

bool RankSupervisor::GroupRuns(const pb::GroupId& group) const {
  return std::any_of(ranks_.begin(), ranks_.end(), [&group](const auto& entry) {
    return entry.second.start.group().id() == group.id();
  });
}

bool RankSupervisor::Empty() const {
  absl::MutexLock lock(&mutex_);
  return ranks_.empty();
}

std::vector<pb::RunningRank> RankSupervisor::Running() const {
  absl::MutexLock lock(&mutex_);
  std::vector<pb::RunningRank> out;
  for (const auto& [key, rank] : ranks_) {
    pb::RunningRank& running = out.emplace_back();
    *running.mutable_group() = rank.start.group();
    running.set_rank(rank.start.rank());
    running.set_slot(rank.start.slot());
    running.set_role(rank.start.role());
    running.set_step(rank.step);
  }
  return out;
}

int64_t RankSupervisor::BusySlots() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(ranks_.size());
}

RankSupervisor::Rank* RankSupervisor::Find(const pb::RankHello& hello) {
  auto entry = ranks_.find(KeyOf(hello.group(), hello.rank()));
  return entry == ranks_.end() ? nullptr : &entry->second;
}

absl::StatusOr<std::shared_ptr<CommandQueue>> RankSupervisor::Attach(const pb::RankHello& hello) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr || rank->pid != hello.pid()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "rank ", hello.rank(), " of ", hello.group().id(), " epoch ", hello.group().epoch(),
        " with pid ", hello.pid(), " was not started by this worker"));
  }
  if (rank->had_session) {
    return absl::AlreadyExistsError(
        absl::StrCat(Describe(rank->start), " has had a session already"));
  }
  rank->had_session = true;
  rank->attached = true;
  rank->watch.Begin(clock_->MonotonicMs());
  if (!rank->stop_requested) {
    rank->kill_at_ms = kNever;
    rank->kill_reason.clear();
  }
  return rank->commands;
}

void RankSupervisor::Report(const pb::RankHello& hello, pb::RankReport report) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr) return;
  rank->step = std::max(rank->step, report.progress().step());
  *report.mutable_group() = rank->start.group();
  report.set_rank(rank->start.rank());
  events_->RankReported(rank->start, std::move(report));
}

void RankSupervisor::Heartbeat(const pb::RankHello& hello, const pb::RankHeartbeat& heartbeat) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr) return;
  rank->step = std::max(rank->step, heartbeat.step());
  rank->watch.Hear(heartbeat, clock_->MonotonicMs());
}

void RankSupervisor::Failed(const pb::RankHello& hello, const pb::RankFailure& failure) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr) return;
  rank->failure = failure;
  rank->step = std::max(rank->step, failure.step());
}

void RankSupervisor::Done(const pb::RankHello& hello, int64_t step) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr) return;
  rank->done = true;
  rank->step = std::max(rank->step, step);
}

void RankSupervisor::Detach(const pb::RankHello& hello) {
  absl::MutexLock lock(&mutex_);
  Rank* rank = Find(hello);
  if (rank == nullptr) return;
  rank->commands->Close();
  rank->attached = false;
  rank->watch.End();
  if (rank->stop_requested) return;
  rank->kill_at_ms = clock_->MonotonicMs() + kLingerLimitMs;
  rank->kill_reason = "it lived on for 30 s after its session had ended";
}

}  // namespace diffmoe
