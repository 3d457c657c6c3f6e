#include "server/checkpoints/checkpoint_assembler.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/error.pb.h"
#include "server/checkpoints/shard_rules.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

using worker::v1::GroupId;
using worker::v1::Manifest;
using worker::v1::ShardData;
using worker::v1::ShardHeader;

// How often a waiting rank looks whether it has gone or the checkpoint has stalled.
constexpr absl::Duration kPoll = absl::Milliseconds(200);

absl::Status Stale(const std::string& message) {
  return MakeError(absl::StatusCode::kAborted, v1::STALE_EPOCH, message);
}

// What the ranks that did nothing wrong are told. A full disk and a stale epoch are theirs too; all
// else they may retry.
absl::Status ForOthers(const absl::Status& status, const std::string& checkpoint, int rank) {
  if (absl::IsAborted(status)) return status;
  const std::string message = absl::StrCat(
      "checkpoint of ", checkpoint, " was given up because of rank ", rank, ": ", status.message());
  if (absl::IsResourceExhausted(status)) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

}  // namespace

// All but `key`, `id` and `world_size` is guarded by the assembler's mutex; while committing, the
// committing thread alone uses headers and writers.
struct CheckpointAssembler::Pending {
  enum class Phase { kReceiving, kCommitting, kEnded };

  Pending(Key key_in, CheckpointId id_in, int world_size_in, int64_t now_ms)
      : key(std::move(key_in)),
        id(std::move(id_in)),
        world_size(world_size_in),
        headers(static_cast<size_t>(world_size_in)),
        writers(static_cast<size_t>(world_size_in)),
        begun_ms(now_ms),
        moved_ms(now_ms) {}

  std::string MissingRanks() const {
    std::vector<int> missing;
    for (int rank = 0; rank < world_size && missing.size() < 16; ++rank) {
      if (writers[static_cast<size_t>(rank)] == nullptr) missing.push_back(rank);
    }
    return absl::StrJoin(missing, ", ");
  }

  const Key key;
  const CheckpointId id;
  const int world_size;
  Phase phase = Phase::kReceiving;
  std::vector<std::optional<ShardHeader>> headers;
  std::vector<std::unique_ptr<ShardWriter>> writers;  // sealed ones
  int sealed = 0;
  const int64_t begun_ms;
  int64_t moved_ms;
  int failed_rank = -1;
  absl::Status result;
  absl::CondVar ended;
};

CheckpointAssembler::CheckpointAssembler(CheckpointStore* store, CoordinatorHost* host,
                                         metrics::CheckpointMetrics* metrics, const Clock* clock,
                                         const AssemblerOptions& options)
    : store_(store), host_(host), metrics_(metrics), clock_(clock), options_(options) {
  metrics_->SetPending(0);
}

CheckpointAssembler::~CheckpointAssembler() = default;

absl::StatusOr<std::unique_ptr<ShardSession>> CheckpointAssembler::Begin(
    const ShardHeader& header) {
  RETURN_IF_ERROR(CheckHeader(header, options_.max_world_size));
  RETURN_IF_ERROR(host_->CheckEpoch(header.group()));
  std::unique_ptr<ShardSession> session(new ShardSession(this, header));
  const absl::StatusOr<Manifest> committed =
      store_->GetManifest(header.group().id(), header.step());
  if (!committed.ok() && !absl::IsNotFound(committed.status())) return committed.status();
  if (committed.ok() && committed->epoch() == header.group().epoch()) return session;
  if (committed.ok() && committed->epoch() > header.group().epoch()) {
    return Stale(absl::StrCat("epoch ", committed->epoch(), " has saved step ", header.step(),
                              " already, got epoch ", header.group().epoch()));
  }
  ASSIGN_OR_RETURN(session->pending_, Join(header));
  absl::StatusOr<std::unique_ptr<ShardWriter>> writer =
      store_->NewShard(session->pending_->id, header.rank(), header.bytes());
  if (!writer.ok()) return session->Fail(writer.status());
  session->writer_ = *std::move(writer);
  KillPoint("assembler.header_taken");
  return session;
}

absl::StatusOr<std::shared_ptr<CheckpointAssembler::Pending>> CheckpointAssembler::Join(
    const ShardHeader& header) {
  const GroupId& group = header.group();
  const CheckpointId id{group.id(), header.step(), group.epoch()};
  const Key key(id.job_id, id.step, id.epoch);
  const size_t rank = static_cast<size_t>(header.rank());
  std::shared_ptr<Pending> again;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = pending_.find(key);
    if (found != pending_.end() && found->second->world_size == header.world_size() &&
        found->second->headers[rank].has_value()) {
      again = found->second;
    }
  }
  if (again != nullptr) {
    Fail(*again, header.rank(),
         absl::UnavailableError(absl::StrCat("rank ", rank, " has started to send it again")));
  }
  absl::MutexLock lock(&mutex_);
  if (shut_down_) return absl::UnavailableError("the coordinator is shutting down");
  std::shared_ptr<Pending>& pending = pending_[key];
  if (pending == nullptr) {
    if (pending_.size() > static_cast<size_t>(options_.max_pending)) {
      pending_.erase(key);
      return absl::ResourceExhaustedError(absl::StrCat(
          options_.max_pending, " checkpoints are being received already; try again later"));
    }
    pending = std::make_shared<Pending>(key, id, header.world_size(), clock_->MonotonicMs());
    metrics_->SetPending(static_cast<int64_t>(pending_.size()));
  }
  if (pending->world_size != header.world_size()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " says that ", ToString(id),
                                                   " has world size ", header.world_size(),
                                                   ", another rank said ", pending->world_size));
  }
  if (pending->phase != Pending::Phase::kReceiving || pending->headers[rank].has_value()) {
    return absl::UnavailableError(absl::StrCat(ToString(id), " is being committed; try again"));
  }
  pending->headers[rank] = header;
  pending->moved_ms = clock_->MonotonicMs();
  return pending;
}

void CheckpointAssembler::Fail(Pending& pending, int rank, const absl::Status& status) {
  std::vector<std::unique_ptr<ShardWriter>> discarded;  // removes files, outside the lock
  absl::MutexLock lock(&mutex_);
  if (pending.phase != Pending::Phase::kReceiving) return;
  pending.phase = Pending::Phase::kEnded;
  pending.failed_rank = rank;
  pending.result = status;
  discarded.swap(pending.writers);
  pending.ended.SignalAll();
  metrics_->GivenUp(status.code());
  LogWarning("checkpoints", "given up",
             {{"checkpoint", ToString(pending.id)}, {"rank", rank}, {"reason", status.message()}});
  pending_.erase(pending.key);
  metrics_->SetPending(static_cast<int64_t>(pending_.size()));
}

absl::Status CheckpointAssembler::StateFor(const Pending& pending, int rank) {
  absl::MutexLock lock(&mutex_);
  if (pending.phase != Pending::Phase::kEnded || pending.result.ok()) return absl::OkStatus();
  if (pending.failed_rank < 0 || pending.failed_rank == rank) return pending.result;
  return ForOthers(pending.result, ToString(pending.id), pending.failed_rank);
}

absl::Status CheckpointAssembler::SealAndCommit(Pending& pending, int rank,
                                                std::unique_ptr<ShardWriter> writer,
                                                absl::FunctionRef<bool()> cancelled) {
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    if (pending.phase == Pending::Phase::kReceiving) {
      pending.writers[static_cast<size_t>(rank)] = std::move(writer);
      pending.moved_ms = clock_->MonotonicMs();
      last = ++pending.sealed == pending.world_size;
      if (last) pending.phase = Pending::Phase::kCommitting;
    }
  }
  if (!last) return WaitForOthers(pending, rank, cancelled);
  KillPoint("assembler.last_shard_sealed");
  const absl::Status status = Commit(pending);
  KillPoint("assembler.committed");
  if (!status.ok()) metrics_->GivenUp(status.code());
  absl::MutexLock lock(&mutex_);
  pending.phase = Pending::Phase::kEnded;
  pending.result = status;
  pending.ended.SignalAll();
  pending_.erase(pending.key);
  metrics_->SetPending(static_cast<int64_t>(pending_.size()));
  return status;
}

absl::Status CheckpointAssembler::WaitForOthers(Pending& pending, int rank,
                                                absl::FunctionRef<bool()> cancelled) {
  for (;;) {
    std::string missing;
    bool stalled = false;
    {
      absl::MutexLock lock(&mutex_);
      if (pending.phase != Pending::Phase::kEnded) pending.ended.WaitWithTimeout(&mutex_, kPoll);
      if (pending.phase == Pending::Phase::kEnded) break;
      stalled = clock_->MonotonicMs() - pending.moved_ms > options_.stall_timeout_ms;
      if (stalled) missing = pending.MissingRanks();
    }
    if (cancelled())
      Fail(pending, rank,
           absl::UnavailableError("its stream broke while it waited for the others"));
    if (stalled) {
      Fail(pending, -1,
           absl::DeadlineExceededError(
               absl::StrCat("checkpoint of ", ToString(pending.id), ": nothing came for ",
                            options_.stall_timeout_ms, " ms; waiting for rank ", missing)));
    }
  }
  return StateFor(pending, rank);
}

absl::Status CheckpointAssembler::Commit(Pending& pending) {
  std::vector<ShardHeader> headers;
  std::vector<ShardLayout> layouts;
  for (size_t rank = 0; rank < pending.headers.size(); ++rank) {
    headers.push_back(*std::move(pending.headers[rank]));
    layouts.push_back(pending.writers[rank]->layout());
  }
  RETURN_IF_ERROR(CheckCoverage(headers));
  const Manifest manifest = BuildManifest(headers, layouts, clock_->UnixMs());
  RETURN_IF_ERROR(store_->Commit(manifest, std::move(pending.writers)));
  const int64_t duration_ms = clock_->MonotonicMs() - pending.begun_ms;
  metrics_->Committed(manifest.job_id(), manifest.step(), manifest.commit_time_ms(),
                      static_cast<double>(duration_ms) / 1000);
  LogInfo("checkpoints", "committed",
          {{"checkpoint", ToString(pending.id)}, {"milliseconds", duration_ms}});
  return absl::OkStatus();
}

void CheckpointAssembler::FailMatching(absl::FunctionRef<bool(const Key&)> matches,
                                       const absl::Status& status) {
  std::vector<std::shared_ptr<Pending>> failing;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [key, pending] : pending_) {
      if (matches(key)) failing.push_back(pending);
    }
  }
  for (const auto& pending : failing) Fail(*pending, -1, status);
}

void CheckpointAssembler::EndGroup(const GroupId& group) {
  FailMatching(
      [&](const Key& key) {
        return std::get<0>(key) == group.id() && std::get<2>(key) <= group.epoch();
      },
      Stale(absl::StrCat("epoch ", group.epoch(), " of ", group.id(), " has ended")));
}

void CheckpointAssembler::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    shut_down_ = true;
  }
  FailMatching([](const Key&) { return true; },
               absl::UnavailableError("the coordinator is shutting down"));
}

ShardSession::ShardSession(CheckpointAssembler* assembler, const ShardHeader& header)
    : assembler_(assembler),
      checkpoint_(
          ToString(CheckpointId{header.group().id(), header.step(), header.group().epoch()})),
      rank_(header.rank()),
      announced_bytes_(header.bytes()) {}

ShardSession::~ShardSession() { Abandon(); }

std::string ShardSession::Describe() const {
  return absl::StrCat("shard of rank ", rank_, ", ", checkpoint_);
}

absl::Status ShardSession::Fail(const absl::Status& status) {
  finished_ = true;
  writer_.reset();
  if (pending_ != nullptr) assembler_->Fail(*pending_, rank_, status);
  return status;
}

void ShardSession::Abandon() {
  if (finished_) return;
  Fail(absl::UnavailableError(absl::StrCat("its stream broke after ", received_bytes_, " of ",
                                           announced_bytes_, " bytes")))
      .IgnoreError();
}

absl::StatusOr<int64_t> ShardSession::Append(const ShardData& data) {
  if (pending_ != nullptr) RETURN_IF_ERROR(assembler_->StateFor(*pending_, rank_));
  const int64_t size = static_cast<int64_t>(data.bytes().size());
  if (size == 0 || size > kChunkBytes) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat(Describe(), ": a data message has 1 to ", kChunkBytes, " bytes, got ", size)));
  }
  if (size > announced_bytes_ - received_bytes_) {
    return Fail(
        absl::InvalidArgumentError(absl::StrCat(Describe(), ": announced with ", announced_bytes_,
                                                " bytes, got at least ", received_bytes_ + size)));
  }
  if (ChunkChecksum(data.bytes()) != data.xxh3()) {
    return Fail(absl::DataLossError(absl::StrCat(Describe(), ": bytes ", received_bytes_, " to ",
                                                 received_bytes_ + size - 1,
                                                 " don't match their checksum")));
  }
  if (writer_ != nullptr) {
    const absl::Status written = writer_->Append(data.bytes());
    if (!written.ok()) return Fail(written);
    absl::MutexLock lock(&assembler_->mutex_);
    pending_->moved_ms = assembler_->clock_->MonotonicMs();
  }
  if (received_bytes_ == 0) KillPoint("assembler.first_chunk_taken");
  received_bytes_ += size;
  assembler_->metrics_->CountReceived(size);
  return received_bytes_;
}

absl::Status ShardSession::Finish(absl::FunctionRef<bool()> cancelled) {
  if (received_bytes_ != announced_bytes_) {
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        Describe(), ": announced with ", announced_bytes_, " bytes, got ", received_bytes_)));
  }
  if (pending_ == nullptr) {
    finished_ = true;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(assembler_->StateFor(*pending_, rank_));
  const absl::Status sealed = writer_->Seal();
  if (!sealed.ok()) return Fail(sealed);
  finished_ = true;
  KillPoint("assembler.shard_sealed");
  return assembler_->SealAndCommit(*pending_, rank_, std::move(writer_), cancelled);
}

}  // namespace diffmoe::server
