#include <algorithm>

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
std::optional<FreeSlotPlace> FindFreeSlot(const State& state, const std::string& wanted_kind) {
  const std::set<std::pair<std::string, int>> reserved = ReservedSlots(state);
  std::optional<FreeSlotPlace> other;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable()) continue;
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

// An idle sampler, best one that has the checkpoint loaded.
SamplerEntry* ReadySampler(Transition& t, const SampleEntry& sample) {
  SamplerEntry* best = nullptr;
  for (auto& [id, sampler] : t.state.samplers) {
    if (sampler.phase != SamplerPhase::kReady || sampler.call) continue;
    if (sampler.not_before_ms > t.now.monotonic_ms) continue;
    const auto worker = t.state.workers.find(sampler.worker_id);
    if (worker == t.state.workers.end() || !worker->second.Usable()) continue;
    if (sampler.job_id == sample.job_id && sampler.step == sample.step) return &sampler;
    if (best == nullptr) best = &sampler;
  }
  return best;
}

std::string WaitReason(Transition& t) {
  bool busy = false;
  for (const auto& [id, sampler] : t.state.samplers) {
    if (sampler.phase == SamplerPhase::kStarting || sampler.not_before_ms > t.now.monotonic_ms) {
      return absl::StrCat("starting a sampler on worker ", sampler.worker_id);
    }
    busy = busy || sampler.phase == SamplerPhase::kReady;
  }
  if (t.samplers_yield) return "a job that waits gets the next free slots";
  if (busy) return "waits for a sampler";
  int slots = 0;
  for (const auto& [id, worker] : t.state.workers) {
    if (worker.Usable()) slots += static_cast<int>(worker.slots.size());
  }
  if (slots == 0) return "no worker is connected";
  return absl::StrCat("no slot is free for a sampler: all ", slots, " are in use");
}

}  // namespace

void ScheduleSamplers(Transition& t) {
  while (!t.state.sample_queue.empty()) {
    const uint64_t call = t.state.sample_queue.front();
    SamplerEntry* sampler = ReadySampler(t, t.state.samples.at(call));
    if (sampler == nullptr) break;
    t.state.sample_queue.pop_front();
    DispatchSample(t, call, *sampler);
  }
  if (t.state.sample_queue.empty()) return;
  bool starting = false;
  for (const auto& [id, sampler] : t.state.samplers) {
    starting = starting || sampler.phase == SamplerPhase::kStarting ||
               sampler.not_before_ms > t.now.monotonic_ms;
  }
  // One that took a slot that another gives up would have to give it up in turn, for ever.
  if (!starting && !t.samplers_yield &&
      static_cast<int>(t.state.samplers.size()) < t.options().max_samplers) {
    const SampleEntry& first = t.state.samples.at(t.state.sample_queue.front());
    const bool cuda = first.spec.parallel().device() == v1::DEVICE_CUDA;
    if (const auto place = FindFreeSlot(t.state, cuda ? "cuda" : "cpu")) StartSampler(t, *place);
  }
  TellQueue(t, WaitReason(t));
}

bool YieldSamplers(Transition& t, const std::string& device, int slots_missing) {
  int stopping = 0, busy = 0;
  std::vector<SamplerEntry*> idle;
  for (auto& [id, sampler] : t.state.samplers) {
    if (DeviceKind(sampler.device) != device) continue;
    if (sampler.phase == SamplerPhase::kStopping) {
      ++stopping;
    } else if (sampler.phase == SamplerPhase::kReady && !sampler.call) {
      idle.push_back(&sampler);
    } else {
      ++busy;
    }
  }
  if (stopping + busy + static_cast<int>(idle.size()) < slots_missing) return false;
  for (SamplerEntry* sampler : idle) {
    if (stopping >= slots_missing) break;
    StopSampler(t, *sampler, "a job needs the slot");
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
  t.Emit(GroupEnded{sampler.id, sampler.epoch});
  FreeSlot(t, sampler.worker_id, {sampler.id, sampler.epoch, 0});
  t.state.schedule_due = true;
  if (sampler.phase == SamplerPhase::kStopping) return;
  t.Emit(WorkerLogged{sampler.worker_id, absl::StrCat(sampler.id, " ended: ", why), true});
  if (sampler.call) {
    RequeueSample(t, *sampler.call, why);
  } else if (sampler.phase == SamplerPhase::kStarting && !t.state.sample_queue.empty()) {
    RequeueSample(t, t.state.sample_queue.front(), why);
  }
}

void SamplerStarted(Transition& t, SamplerEntry& sampler) {
  if (sampler.phase != SamplerPhase::kStarting) return;
  sampler.phase = SamplerPhase::kReady;
  SamplerIdle(t, sampler);
}

void SamplerIdle(Transition& t, SamplerEntry& sampler) {
  sampler.call.reset();
  sampler.idle_since_ms = t.now.monotonic_ms;
  t.state.schedule_due = true;
}

void TickSamplers(Transition& t) {
  std::vector<std::string> stuck;
  for (auto& [id, sampler] : t.state.samplers) {
    if (sampler.phase == SamplerPhase::kStopping) {
      if (t.now.monotonic_ms >= sampler.stop_since_ms + t.options().stop_limit_ms)
        stuck.push_back(id);
    } else if (sampler.phase == SamplerPhase::kReady && !sampler.call &&
               t.now.monotonic_ms >= sampler.idle_since_ms + t.options().sampler_idle_ms) {
      StopSampler(t, sampler, "idle");
    }
  }
  for (const std::string& id : stuck) SamplerGone(t, id, "it did not end when it was told to");
}

}  // namespace diffmoe::server
