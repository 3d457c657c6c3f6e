#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

void SendWelcome(Transition& t, uint64_t session) {
  worker::v1::CoordinatorMessage message;
  message.mutable_welcome()->set_heartbeat_interval_ms(t.options().heartbeat_interval_ms);
  message.mutable_welcome()->set_silence_limit_ms(t.options().silence_limit_ms);
  t.Emit(SendToWorker{session, std::move(message)});
}

// Claims the slot of an announced rank. Keeps what is wanted, stops what isn't.
void AdoptRank(Transition& t, WorkerEntry& worker, const worker::v1::RunningRank& running) {
  const std::string& group_id = running.group().id();
  const int64_t epoch = running.group().epoch();
  const size_t slot = static_cast<size_t>(running.slot());
  if (running.slot() >= 0 && slot < worker.slots.size()) {
    worker.slots[slot].user = SlotUser{group_id, epoch, running.rank()};
  }
  if (const auto it = t.state.samplers.find(group_id);
      it != t.state.samplers.end() && it->second.epoch == epoch &&
      it->second.worker_id == worker.id && it->second.phase != SamplerPhase::kStopping) {
    return;
  }
  JobEntry* job = FindJob(t, group_id);
  const size_t rank = static_cast<size_t>(running.rank());
  if (job == nullptr || job->job().epoch() != epoch || running.rank() < 0 ||
      rank >= job->attempt.ranks.size() || job->attempt.ranks[rank].worker_id != worker.id ||
      !job->attempt.ranks[rank].Alive()) {
    if (Planted(Fault::kUnwantedRankKept)) return;
    SendStopGroup(t, worker.id, group_id, epoch, t.options().failure_stop_grace_ms,
                  "it is not wanted any more");
    return;
  }
  RankEntry& entry = job->attempt.ranks[rank];
  entry.phase = RankPhase::kRunning;
  entry.missing_since_ms.reset();
  if (job->attempt.stop) RepeatStop(t, *job, worker.id);
}

bool Announces(const worker::v1::Hello& hello, const std::string& group_id, int64_t epoch,
               int rank) {
  for (const worker::v1::RunningRank& running : hello.running()) {
    if (running.group().id() == group_id && running.group().epoch() == epoch &&
        running.rank() == rank) {
      return true;
    }
  }
  return false;
}

// Ranks that should run on the worker but aren't announced. Their exit messages may still come.
void NoteMissing(Transition& t, const WorkerEntry& worker, const worker::v1::Hello& hello) {
  if (Planted(Fault::kMissingRankUnnoticed)) return;
  for (const std::string& id : t.state.placed) {
    JobEntry& job = t.state.jobs.at(id);
    for (size_t i = 0; i < job.attempt.ranks.size(); ++i) {
      RankEntry& rank = job.attempt.ranks[i];
      if (rank.worker_id != worker.id || !rank.Alive()) continue;
      if (Announces(hello, id, job.job().epoch(), static_cast<int>(i))) continue;
      if (!rank.missing_since_ms) rank.missing_since_ms = t.now.monotonic_ms;
    }
  }
  std::vector<std::string> gone;
  for (const auto& [id, sampler] : t.state.samplers) {
    if (sampler.worker_id == worker.id && !Announces(hello, id, sampler.epoch, 0))
      gone.push_back(id);
  }
  for (const std::string& id : gone) {
    SamplerGone(t, id, "the sampler was gone when its worker came back");
  }
}

// All ranks of an adopted job are there again.
void FinishAdoptions(Transition& t) {
  const std::vector<std::string> placed(t.state.placed.begin(), t.state.placed.end());
  for (const std::string& id : placed) {
    JobEntry& job = t.state.jobs.at(id);
    if (!job.attempt.adopt_until_ms) continue;
    bool complete = true;
    for (const RankEntry& rank : job.attempt.ranks) {
      complete = complete && rank.phase != RankPhase::kExpected;
    }
    if (!complete) continue;
    job.attempt.adopt_until_ms.reset();
    AddJobEvent(t, job, "goes on after a restart of the coordinator; its ranks kept running");
  }
}

void LoseWorker(Transition& t, WorkerEntry& worker) {
  const std::string why = absl::StrCat("worker ", worker.id, " is lost (not heard of for ",
                                       (t.now.monotonic_ms - worker.last_heard_ms) / 1000, " s)");
  t.Emit(WorkerLogged{worker.id, why, true});
  worker.lost = true;
  worker.silent_since_ms = t.now.monotonic_ms;
  if (worker.session != 0) {
    t.Emit(CloseSession{worker.session, absl::AbortedError("silent for too long; connect again")});
    t.state.sessions.erase(worker.session);
    worker.session = 0;
  }
  for (SlotEntry& slot : worker.slots) slot.user.reset();
  t.state.schedule_due = true;
  const std::vector<std::string> placed(t.state.placed.begin(), t.state.placed.end());
  for (const std::string& id : placed) {
    JobEntry& job = t.state.jobs.at(id);
    const int64_t epoch = job.job().epoch();
    for (size_t i = 0; job.job().epoch() == epoch && i < job.attempt.ranks.size(); ++i) {
      const RankEntry& rank = job.attempt.ranks[i];
      if (rank.worker_id == worker.id && rank.Alive()) {
        FailRank(t, job, static_cast<int>(i), {v1::END_CAUSE_WORKER_LOST, why, 0, 0, 0});
      }
    }
  }
  std::vector<std::string> samplers;
  for (const auto& [id, sampler] : t.state.samplers) {
    if (sampler.worker_id == worker.id) samplers.push_back(id);
  }
  for (const std::string& id : samplers) SamplerGone(t, id, why);
}

}  // namespace

void OnWorkerHello(Transition& t, const WorkerHello& event) {
  const worker::v1::Hello& hello = event.hello;
  const bool known = t.state.workers.contains(hello.worker_id());
  if (!known && static_cast<int>(t.state.workers.size()) >= t.options().max_workers) {
    t.Emit(CloseSession{
        event.session,
        MakeRetryableError(
            absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
            absl::StrCat("at most ", t.options().max_workers, " workers may connect"), 60'000)});
    return;
  }
  WorkerEntry& worker = t.state.workers[hello.worker_id()];
  if (worker.session != 0) {
    t.Emit(CloseSession{worker.session, absl::AbortedError(absl::StrCat(
                                            "another session of worker ", hello.worker_id(),
                                            " has replaced this one"))});
    t.state.sessions.erase(worker.session);
  }
  const std::string what = worker.id.empty() ? "connected" : "connected again";
  worker = {};
  worker.id = hello.worker_id();
  worker.host = hello.host();
  worker.version = hello.version();
  worker.metrics_address = hello.metrics_address();
  worker.session = event.session;
  worker.last_heard_ms = t.now.monotonic_ms;
  worker.connect_unix_ms = t.now.unix_ms;
  for (const std::string& device : hello.slot_devices()) worker.slots.push_back({device, {}});
  t.state.sessions[event.session] = worker.id;
  t.Emit(WorkerLogged{worker.id,
                      absl::StrCat(what, " with ", hello.slot_devices_size(), " slots and ",
                                   hello.running_size(), " running ranks"),
                      false});
  SendWelcome(t, event.session);
  for (const worker::v1::RunningRank& running : hello.running()) AdoptRank(t, worker, running);
  NoteMissing(t, worker, hello);
  FinishAdoptions(t);
  t.state.schedule_due = true;
}

void OnWorkerHeartbeat(Transition& t, const WorkerHeartbeat& event) { Heard(t, event.session); }

void OnSessionClosed(Transition& t, const SessionClosed& event) {
  const auto it = t.state.sessions.find(event.session);
  if (it == t.state.sessions.end()) return;
  WorkerEntry& worker = t.state.workers.at(it->second);
  t.state.sessions.erase(it);
  worker.session = 0;
  worker.silent = true;
  worker.silent_since_ms = t.now.monotonic_ms;
  t.Emit(WorkerLogged{worker.id, "stream broke; waiting for it to come back", true});
}

void OnResumed(Transition& t) {
  for (auto& [id, worker] : t.state.workers) {
    if (worker.lost) continue;
    worker.last_heard_ms = t.now.monotonic_ms;
    if (worker.silent) worker.silent_since_ms = t.now.monotonic_ms;
  }
  for (const std::string& id : t.state.placed) {
    AttemptEntry& attempt = t.state.jobs.at(id).attempt;
    if (attempt.adopt_until_ms) {
      attempt.adopt_until_ms = t.now.monotonic_ms + t.options().adoption_grace_ms;
    }
    if (attempt.stop) attempt.stop_since_ms = t.now.monotonic_ms;
    for (RankEntry& rank : attempt.ranks) {
      if (rank.missing_since_ms) rank.missing_since_ms = t.now.monotonic_ms;
    }
  }
}

void TickWorkers(Transition& t) {
  if (Planted(Fault::kSilentWorkerKept)) return;
  const int64_t now_ms = t.now.monotonic_ms;
  std::vector<std::string> forgotten;
  for (auto& [id, worker] : t.state.workers) {
    if (worker.lost) {
      if (now_ms >= worker.silent_since_ms + t.options().forget_worker_ms) forgotten.push_back(id);
      continue;
    }
    if (!worker.silent && now_ms >= worker.last_heard_ms + t.options().silence_limit_ms) {
      worker.silent = true;
      worker.silent_since_ms = now_ms;
      t.Emit(WorkerLogged{id, "silent; it gets no new work", true});
    }
    if (worker.silent && now_ms >= worker.silent_since_ms + t.options().worker_grace_ms) {
      LoseWorker(t, worker);
    }
  }
  for (const std::string& id : forgotten) t.state.workers.erase(id);
}

WorkerEntry* Heard(Transition& t, uint64_t session) {
  const auto it = t.state.sessions.find(session);
  if (it == t.state.sessions.end()) return nullptr;
  WorkerEntry& worker = t.state.workers.at(it->second);
  worker.last_heard_ms = t.now.monotonic_ms;
  if (worker.silent) {
    worker.silent = false;
    t.state.schedule_due = true;
    t.Emit(WorkerLogged{worker.id, "heard of again", false});
  }
  return &worker;
}

void Send(Transition& t, const std::string& worker_id, worker::v1::CoordinatorMessage message) {
  const auto it = t.state.workers.find(worker_id);
  // Without a stream nothing is sent: the worker's next Hello shows what it misses.
  if (it == t.state.workers.end() || it->second.session == 0) return;
  t.Emit(SendToWorker{it->second.session, std::move(message)});
}

void SendStopGroup(Transition& t, const std::string& worker_id, const std::string& group_id,
                   int64_t epoch, int64_t grace_ms, const std::string& reason, bool save) {
  worker::v1::CoordinatorMessage message;
  worker::v1::StopGroup* stop = message.mutable_stop_group();
  stop->mutable_group()->set_id(group_id);
  stop->mutable_group()->set_epoch(epoch);
  stop->set_grace_ms(grace_ms);
  stop->set_reason(reason);
  stop->set_save(save);
  Send(t, worker_id, std::move(message));
}

std::set<std::pair<std::string, int>> ReservedSlots(const State& state) {
  std::set<std::pair<std::string, int>> reserved;
  for (const std::string& id : state.placed) {
    const JobEntry& job = state.jobs.at(id);
    const std::optional<StopKind> stop = job.attempt.stop;
    if (stop != StopKind::kFailure && stop != StopKind::kResize) continue;
    for (const RankEntry& rank : job.attempt.ranks) reserved.emplace(rank.worker_id, rank.slot);
  }
  return reserved;
}

void FreeSlot(Transition& t, const std::string& worker_id, const SlotUser& user) {
  const auto it = t.state.workers.find(worker_id);
  if (it == t.state.workers.end()) return;
  for (SlotEntry& slot : it->second.slots) {
    if (slot.user == user) slot.user.reset();
  }
}

}  // namespace diffmoe::server
