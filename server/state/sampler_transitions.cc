#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/placement.h"
#include "server/state/records.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

struct FreeSlotPlace {
  std::string worker_id;
  int slot = 0;
  std::string device;
};

// A free slot, of the wanted kind when there is one.
std::optional<FreeSlotPlace> FindFreeSlot(const State& state, int64_t now_ms,
                                          const std::string& wanted_kind) {
  const std::set<std::pair<std::string, int>> reserved = ReservedSlots(state);
  std::optional<FreeSlotPlace> other;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable() || worker.no_samplers_until_ms > now_ms) continue;
    for (size_t i = 0; i < worker.slots.size(); ++i) {
      const SlotEntry& slot = worker.slots[i];
      const int index = static_cast<int>(i);
      if (slot.user || reserved.contains({id, index})) continue;
      if (DeviceKind(slot.device) == wanted_kind) return FreeSlotPlace{id, index, slot.device};
      if (!other) other = FreeSlotPlace{id, index, slot.device};
    }
  }
  return other;
}

void StartSampler(Transition& t, const FreeSlotPlace& place) {
  const int64_t epoch = std::max<int64_t>(1, t.state.header.next_epoch());
  t.state.header.set_next_epoch(epoch + 1);
  t.Emit(WriteRecord{kHeaderKey, t.state.header.SerializeAsString()});
  SamplerEntry sampler;
  sampler.id = absl::StrCat("sampler-", epoch);
  sampler.epoch = epoch;
  sampler.worker_id = place.worker_id;
  sampler.slot = place.slot;
  sampler.device = place.device;
  sampler.start_since_ms = t.now.monotonic_ms;
  t.state.workers.at(place.worker_id).slots.at(static_cast<size_t>(place.slot)).user =
      SlotUser{sampler.id, epoch, 0};
  worker::v1::CoordinatorMessage message;
  worker::v1::StartRank* start = message.mutable_start_rank();
  start->mutable_group()->set_id(sampler.id);
  start->mutable_group()->set_epoch(epoch);
  start->set_world_size(1);
  start->set_slot(place.slot);
  start->set_role(worker::v1::ROLE_SAMPLE);
  t.Emit(GroupStarted{sampler.id, epoch});
  Send(t, place.worker_id, std::move(message));
  t.Emit(WorkerLogged{place.worker_id, absl::StrCat("starts ", sampler.id), false});
  t.state.samplers[sampler.id] = std::move(sampler);
}

std::string WaitReason(Transition& t) {
  bool busy = false;
  for (const auto& [id, sampler] : t.state.samplers) {
    if (sampler.phase == SamplerPhase::kStarting || sampler.not_before_ms > t.now.monotonic_ms) {
      return absl::StrCat("starting a sampler on worker ", sampler.worker_id);
    }
    busy = busy || sampler.phase == SamplerPhase::kReady;
  }
  if (t.state.samplers_yield) return "a job that waits gets the next free slots";
  if (busy) return "waits for a sampler";
  int slots = 0;
  for (const auto& [id, worker] : t.state.workers) {
    if (worker.Usable()) slots += static_cast<int>(worker.slots.size());
  }
  if (slots == 0) return "no worker is connected";
  return absl::StrCat("no slot is free for a sampler: all ", slots, " are in use");
}

// Where another sampler could be started.
std::optional<FreeSlotPlace> PlaceOfAnother(const Transition& t) {
  const int samplers = static_cast<int>(t.state.samplers.size());
  // One that took a slot that another gives up would have to give it up in turn, for ever.
  const bool yield = t.state.samplers_yield && samplers >= t.options().sampling_slots;
  if (yield || samplers >= t.options().max_samplers) return std::nullopt;
  bool cuda = false;
  if (const auto first = t.state.sample_queue.Front()) {
    cuda = t.state.samples.at(*first).model->config.device == diffmoe::DeviceKind::kCuda;
  }
  return FindFreeSlot(t.state, t.now.monotonic_ms, cuda ? "cuda" : "cpu");
}

bool IsStarting(const Transition& t) {
  for (const auto& [id, sampler] : t.state.samplers) {
    if (sampler.phase == SamplerPhase::kStarting || sampler.not_before_ms > t.now.monotonic_ms) {
      return true;
    }
  }
  return false;
}

absl::Status NotWanted(const std::string& id, int64_t epoch) {
  return absl::AbortedError(absl::StrCat("epoch ", epoch, " of ", id, " is not wanted"));
}

// What it was given is lost with its session.
void LoseSession(Transition& t, SamplerEntry& sampler, const std::string& why) {
  t.state.sampler_sessions.erase(sampler.session);
  sampler.session = 0;
  sampler.taken = 0;
  sampler.taken_rows = 0;
  sampler.given_rows = 0;
  const std::vector<uint64_t> calls = std::exchange(sampler.calls, {});
  t.state.schedule_due = true;
  if (sampler.phase != SamplerPhase::kStopping) {
    sampler.phase = SamplerPhase::kStarting;
    sampler.start_since_ms = t.now.monotonic_ms;
    t.Emit(WorkerLogged{sampler.worker_id, absl::StrCat(sampler.id, ": ", why), true});
  }
  for (const uint64_t call : calls) RequeueSample(t, call, why);
}

// The request for which samplers are started pays for one that doesn't come to be, so that none
// waits for ever.
void LoseFirstWaiting(Transition& t, const std::string& why) {
  const std::optional<uint64_t> first = t.state.sample_queue.Front();
  if (!first) return;
  RemoveFromQueue(t.state, t.state.samples.at(*first));
  RequeueSample(t, *first, why);
}

}  // namespace

bool AnotherMayCome(const Transition& t) { return IsStarting(t) || PlaceOfAnother(t).has_value(); }

void ScheduleSamplers(Transition& t) {
  for (auto& [id, sampler] : t.state.samplers) {
    if (sampler.yielding && sampler.phase == SamplerPhase::kReady && sampler.calls.empty()) {
      StopSampler(t, sampler, "a job needs the slot");
    }
  }
  DispatchWaiting(t);
  const bool wanted = std::exchange(t.state.more_samplers_wanted, false);
  if ((!t.state.sample_queue.empty() || wanted) && !IsStarting(t)) {
    if (const auto place = PlaceOfAnother(t)) StartSampler(t, *place);
  }
  if (!t.state.sample_queue.empty()) TellQueue(t, WaitReason(t));
}

std::set<std::string> ProtectedSamplers(const State& state) {
  std::set<std::string> chosen;
  for (const auto& [id, sampler] : state.samplers) {
    if (static_cast<int>(chosen.size()) >= state.options.sampling_slots) break;
    if (sampler.phase != SamplerPhase::kStopping) chosen.insert(id);
  }
  return chosen;
}

std::set<std::pair<std::string, int>> SamplingSlots(const State& state) {
  const auto wanted = static_cast<size_t>(std::max(0, state.options.sampling_slots));
  std::set<std::pair<std::string, int>> chosen;
  for (const std::string& id : ProtectedSamplers(state)) {
    const SamplerEntry& sampler = state.samplers.at(id);
    chosen.emplace(sampler.worker_id, sampler.slot);
  }
  // Then free ones, the last ones first; then those that become free later.
  for (const bool want_free : {true, false}) {
    for (auto worker = state.workers.rbegin(); worker != state.workers.rend(); ++worker) {
      if (!worker->second.Usable()) continue;
      for (size_t i = worker->second.slots.size(); i-- > 0 && chosen.size() < wanted;) {
        if (worker->second.slots[i].user.has_value() == want_free) continue;
        chosen.emplace(worker->first, static_cast<int>(i));
      }
    }
  }
  return chosen;
}

bool YieldSamplers(Transition& t, const std::string& device, int slots_missing) {
  const std::set<std::string> kept = ProtectedSamplers(t.state);
  int stopping = 0;
  std::vector<SamplerEntry*> idle, busy;
  for (auto& [id, sampler] : t.state.samplers) {
    if (DeviceKind(sampler.device) != device || kept.contains(id)) continue;
    if (sampler.phase == SamplerPhase::kStopping) {
      ++stopping;
    } else if (sampler.phase == SamplerPhase::kReady && sampler.calls.empty()) {
      idle.push_back(&sampler);
    } else {
      busy.push_back(&sampler);
    }
  }
  if (stopping + static_cast<int>(busy.size() + idle.size()) < slots_missing) return false;
  for (SamplerEntry* sampler : idle) {
    if (stopping >= slots_missing) break;
    StopSampler(t, *sampler, "a job needs the slot");
    ++stopping;
  }
  for (SamplerEntry* sampler : busy) {
    if (stopping >= slots_missing) break;
    sampler->yielding = true;
    ++stopping;
  }
  return true;
}

void StopSampler(Transition& t, SamplerEntry& sampler, const std::string& reason) {
  sampler.phase = SamplerPhase::kStopping;
  sampler.stop_since_ms = t.now.monotonic_ms;
  SendStopGroup(t, sampler.worker_id, sampler.id, sampler.epoch, t.options().sampler_stop_grace_ms,
                reason);
  t.Emit(WorkerLogged{sampler.worker_id, absl::StrCat("stops ", sampler.id, ": ", reason), false});
}

void SamplerGone(Transition& t, const std::string& sampler_id, const std::string& why) {
  const SamplerEntry sampler = t.state.samplers.at(sampler_id);
  t.state.samplers.erase(sampler_id);
  if (sampler.session != 0) {
    t.state.sampler_sessions.erase(sampler.session);
    t.Emit(CloseSampler{sampler.session, NotWanted(sampler.id, sampler.epoch)});
  }
  t.Emit(GroupEnded{sampler.id, sampler.epoch});
  FreeSlot(t, sampler.worker_id, {sampler.id, sampler.epoch, 0});
  t.state.schedule_due = true;
  if (sampler.phase == SamplerPhase::kStopping) return;
  t.Emit(WorkerLogged{sampler.worker_id, absl::StrCat(sampler.id, " ended: ", why), true});
  for (const uint64_t call : sampler.calls) RequeueSample(t, call, why);
  if (sampler.phase == SamplerPhase::kStarting) LoseFirstWaiting(t, why);
}

void OnSamplerConnected(Transition& t, const SamplerConnected& event) {
  const std::string& id = event.group.id();
  const auto found = t.state.samplers.find(id);
  if (found == t.state.samplers.end() || found->second.epoch != event.group.epoch()) {
    t.Emit(CloseSampler{event.session, NotWanted(id, event.group.epoch())});
    return;
  }
  SamplerEntry& sampler = found->second;
  if (sampler.session != 0) {
    t.Emit(CloseSampler{
        sampler.session,
        absl::AbortedError(absl::StrCat("another session of ", id, " has replaced this one"))});
    LoseSession(t, sampler, "its session was replaced");
  }
  sampler.session = event.session;
  t.state.sampler_sessions[event.session] = id;
  if (sampler.phase == SamplerPhase::kStopping) return;
  sampler.phase = SamplerPhase::kReady;
  sampler.idle_since_ms = t.now.monotonic_ms;
  Rebalance(t);
  t.state.schedule_due = true;
}

void OnSamplerDisconnected(Transition& t, const SamplerDisconnected& event) {
  const auto session = t.state.sampler_sessions.find(event.session);
  if (session == t.state.sampler_sessions.end()) return;
  LoseSession(t, t.state.samplers.at(session->second),
              "the way between the sampler and the coordinator broke");
}

void SendToSamplerOf(Transition& t, const SamplerEntry& sampler,
                     worker::v1::SamplerCommand command) {
  if (sampler.session != 0) t.Emit(SendToSampler{sampler.session, std::move(command)});
}

void TickSamplers(Transition& t) {
  const int64_t now_ms = t.now.monotonic_ms;
  const auto passed = [now_ms](int64_t& until_ms) {
    if (until_ms <= now_ms) until_ms = 0;
  };
  for (auto& [id, worker] : t.state.workers) passed(worker.no_samplers_until_ms);
  std::vector<std::string> stuck;
  for (auto& [id, sampler] : t.state.samplers) {
    passed(sampler.not_before_ms);
    passed(sampler.avoid_until_ms);
    if (sampler.phase == SamplerPhase::kStopping) {
      if (now_ms >= sampler.stop_since_ms + t.options().stop_limit_ms) stuck.push_back(id);
    } else if (sampler.phase == SamplerPhase::kStarting) {
      if (now_ms < sampler.start_since_ms + t.options().sampler_start_ms) continue;
      StopSampler(t, sampler, "it has had no session for too long");
      LoseFirstWaiting(t, "no sampler came to be ready");
    } else if (sampler.phase == SamplerPhase::kReady && sampler.calls.empty() &&
               now_ms >= sampler.idle_since_ms + t.options().sampler_idle_ms) {
      StopSampler(t, sampler, "idle");
    }
  }
  for (const std::string& id : stuck) SamplerGone(t, id, "it did not end when it was told to");
}

}  // namespace diffmoe::server
