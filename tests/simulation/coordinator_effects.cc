// Effects, and the bulk plane with a model of the checkpoint assembler.
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "tests/simulation/coordinator_process.h"

namespace diffmoe::simulation {

using server::Reply;

Coordinator::Process::Process(Coordinator* owner, server::State state)
    : life(owner->next_number_++),
      clock(&owner->world_->time, &owner->world_->unix_jump_ms,
            owner->world_->random.Between(0, 1'000'000)),
      executor(owner),
      core(
          std::move(state),
          [owner](const std::vector<RecordWrite>& writes) { return owner->store_->Commit(writes); },
          &clock, &executor, /*away_ms=*/3000) {}

void Coordinator::Executor::Execute(server::Effect effect) {
  Process& process = *owner_->process_;
  Trace& trace = owner_->world_->trace;
  if (process.dying) {
    const auto* send = std::get_if<server::SendToWorker>(&effect);
    if (send != nullptr && send->message.has_start_rank()) {
      owner_->checker_->OnStartLost(send->message.start_rank());
    }
    return;
  }
  if (auto* reply = std::get_if<Reply>(&effect)) {
    owner_->AnswerCall(*reply);
  } else if (auto* send = std::get_if<server::SendToWorker>(&effect)) {
    owner_->Send(send->session, std::move(send->message));
  } else if (const auto* close = std::get_if<server::CloseSession>(&effect)) {
    owner_->Close(close->session);
  } else if (const auto* command = std::get_if<server::SendToSampler>(&effect)) {
    owner_->SendToSampler(command->session, command->command);
  } else if (const auto* refused = std::get_if<server::CloseSampler>(&effect)) {
    owner_->CloseSampler(refused->session, refused->status);
  } else if (const auto* started = std::get_if<server::GroupStarted>(&effect)) {
    process.groups.Start(started->id, started->epoch);
  } else if (const auto* ended = std::get_if<server::GroupEnded>(&effect)) {
    owner_->EndGroup(ended->id, ended->epoch);
  } else if (const auto* gone = std::get_if<server::DeleteCheckpoint>(&effect)) {
    const CheckpointKey key{gone->job_id, gone->step, gone->epoch};
    owner_->world_->time.After(owner_->world_->random.Between(0, 50),
                               [owner = owner_, life = process.life, key] {
                                 if (!owner->alive() || owner->process_->life != life) return;
                                 owner->chunks_->Delete(key);
                               });
  } else if (const auto* event = std::get_if<server::SampleEvent>(&effect)) {
    const auto found = process.samples.find(event->call);
    if (found != process.samples.end()) found->second.response(event->response);
  } else if (const auto* calibration = std::get_if<server::CalibrationEvent>(&effect)) {
    if (calibration->response.has_finished()) {
      owner_->checker_->OnCalibrationAnswered(calibration->response.finished().checkpoint());
    }
    const auto found = process.samples.find(calibration->call);
    if (found != process.samples.end()) found->second.calibration(calibration->response);
  } else if (const auto* end = std::get_if<server::SampleEnd>(&effect)) {
    owner_->checker_->OnSampleEnded(end->call, end->status);
    auto stream = process.samples.extract(end->call);
    if (!stream.empty()) stream.mapped().end(end->status);
  } else if (std::holds_alternative<server::SampleSubmitted>(effect)) {
    owner_->checker_->OnSampleSubmitted();
  } else if (const auto* counted = std::get_if<server::SampleCounted>(&effect)) {
    owner_->checker_->OnSampleCounted(counted->outcome);
  } else if (const auto* job = std::get_if<server::JobLogged>(&effect)) {
    trace.Line("coordinator", job->job_id, " epoch ", job->epoch, ": ", job->message);
  } else if (const auto* worker = std::get_if<server::WorkerLogged>(&effect)) {
    trace.Line("coordinator", worker->worker_id, ": ", worker->message);
  }
}

void Coordinator::EndGroup(const std::string& id, int64_t epoch) {
  const absl::Status stale =
      absl::AbortedError(absl::StrCat("epoch ", epoch, " of ", id, " has ended"));
  process_->groups.End(id, epoch);
  for (auto it = process_->rendezvous.begin(); it != process_->rendezvous.end();) {
    if (it->first.first != id || it->first.second > epoch) {
      ++it;
      continue;
    }
    for (const auto& [rank, answer] : it->second.answers) answer(Reply{0, stale, {}, false});
    it = process_->rendezvous.erase(it);
  }
  std::vector<PendingKey> ended;
  for (const auto& [key, pending] : process_->pending) {
    if (std::get<0>(key) == id && std::get<2>(key) <= epoch && !pending.committing)
      ended.push_back(key);
  }
  for (const PendingKey& key : ended) FailPending(key, stale);
}

bool Coordinator::Wants(const worker::v1::GroupId& group) const {
  return alive() && process_->groups.Check(group.id(), group.epoch()).ok();
}

void Coordinator::Join(const worker::v1::GroupId& group, int rank, int world_size, Answer answer) {
  absl::Status status = absl::UnavailableError("connection refused");
  if (alive()) status = process_->groups.Check(group.id(), group.epoch());
  if (!status.ok()) return answer(Reply{0, status, {}, false});
  Process::Rendezvous& meeting = process_->rendezvous[{group.id(), group.epoch()}];
  meeting.world_size = world_size;
  meeting.joined.insert(rank);
  meeting.answers[rank] = std::move(answer);
  if (static_cast<int>(meeting.joined.size()) < world_size) return;
  for (const auto& [member, waiting] : std::exchange(meeting.answers, {})) waiting(Reply{});
}

std::optional<worker::v1::Manifest> Coordinator::FindManifest(const std::string& job_id,
                                                              int64_t step) const {
  const auto found = store_->records().find(server::ManifestKey(job_id, step));
  if (found == store_->records().end()) return std::nullopt;
  worker::v1::Manifest manifest;
  manifest.ParseFromString(found->second);
  return manifest;
}

void Coordinator::PutShard(const worker::v1::GroupId& group, int64_t step, int rank, int world_size,
                           Answer answer) {
  absl::Status status = absl::UnavailableError("connection refused");
  if (alive()) status = process_->groups.Check(group.id(), group.epoch());
  if (!status.ok()) return answer(Reply{0, status, {}, false});
  const auto committed = FindManifest(group.id(), step);
  if (committed && committed->epoch() >= group.epoch()) {
    const bool same = committed->epoch() == group.epoch();
    return answer(Reply{
        0, same ? absl::OkStatus() : absl::AbortedError("saved by a newer epoch"), {}, false});
  }
  const PendingKey key{group.id(), step, group.epoch()};
  auto found = process_->pending.find(key);
  if (found != process_->pending.end() && found->second.committing) {
    return answer(Reply{0, absl::UnavailableError("is being committed"), {}, false});
  }
  if (found != process_->pending.end() && found->second.shards.contains(rank)) {
    FailPending(key, absl::UnavailableError("a rank has started to send it again"));
  }
  Pending& pending = process_->pending[key];
  pending.world_size = world_size;
  pending.shards[rank] = std::move(answer);
  if (static_cast<int>(pending.shards.size()) == world_size) CommitShards(key);
}

void Coordinator::CommitShards(const PendingKey& key) {
  const auto& [job_id, step, epoch] = key;
  process_->pending[key].committing = true;
  const CheckpointKey checkpoint{job_id, step, epoch};
  chunks_->Delete(checkpoint);  // of an earlier commit whose outcome was unknown
  const auto ingest = [this, checkpoint] {
    absl::Status status = chunks_->Ingest(checkpoint);
    if (status.ok()) checker_->OnBytesStored(checkpoint);
    return status;
  };
  if (!Planted(Fault::kManifestBeforeBytes)) {
    if (absl::Status status = ingest(); !status.ok()) return EndCommit(key, status);
  }
  worker::v1::Manifest manifest;
  manifest.set_job_id(job_id);
  manifest.set_step(step);
  manifest.set_epoch(epoch);
  manifest.set_world_size(process_->pending[key].world_size);
  manifest.mutable_summary()->set_experts(1);
  manifest.mutable_summary()->add_blocks(1);
  manifest.mutable_summary()->add_thresholds(0.5f);
  const uint64_t call = NewCall([this, key, manifest, ingest](const Reply& reply) {
    if (!alive()) return;  // it crashed; the ranks see their connections break
    checker_->OnManifestAnswered(manifest, reply);
    if (Planted(Fault::kManifestBeforeBytes)) ingest().IgnoreError();
    EndCommit(key, reply.status);
  });
  // Storing the bytes takes its time; meanwhile the attempt may end.
  const bool slow = world_->random.Chance(0.1);
  const uint64_t life = process_->life;
  world_->time.After(world_->random.Between(0, slow ? 8000 : 20), [this, life, call, manifest] {
    if (alive() && process_->life == life) PostWhenRoom(server::CommitManifest{call, manifest});
  });
}

void Coordinator::EndCommit(const PendingKey& key, const absl::Status& status) {
  const auto& [job_id, step, epoch] = key;
  world_->trace.Line("coordinator", "checkpoint ", job_id, "@", step, " epoch ", epoch, ": ",
                     absl::StatusCodeToString(status.code()));
  if (status.ok()) {
    for (const CheckpointKey& stored : chunks_->List()) {
      if (stored.job_id == job_id && stored.step == step && stored.epoch < epoch) {
        chunks_->Delete(stored);
      }
    }
  } else {
    chunks_->Delete({job_id, step, epoch});
  }
  FailPending(key, status);
}

void Coordinator::FailPending(const PendingKey& key, const absl::Status& status) {
  const auto pending = process_->pending.extract(key);
  for (const auto& [rank, answer] : pending.mapped().shards) answer(Reply{0, status, {}, false});
}

void Coordinator::ReadCheckpoint(const std::string& job_id, int64_t step, Answer answer) {
  absl::Status status = absl::UnavailableError("connection refused");
  if (alive()) {
    status = absl::OkStatus();
    const auto manifest = FindManifest(job_id, step);
    const std::string name = absl::StrCat("checkpoint ", job_id, "@", step);
    if (!manifest) {
      status = absl::NotFoundError(absl::StrCat(name, " doesn't exist"));
    } else if (const CheckpointKey key{job_id, step, manifest->epoch()};
               !chunks_->Has(key) || chunks_->IsDamaged(key)) {
      status = absl::DataLossError(absl::StrCat("shard 0 of ", name, " is damaged"));
      Post(server::CheckpointDamaged{job_id, step, "a chunk doesn't match its checksum"})
          .IgnoreError();
    }
  }
  answer(Reply{0, status, {}, false});
}

}  // namespace diffmoe::simulation
