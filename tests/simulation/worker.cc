#include "tests/simulation/worker.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/sampler.h"

namespace diffmoe::simulation {
namespace {

namespace pb = ::diffmoe::worker::v1;

constexpr int64_t kFirstRetryMs = 200;
constexpr int64_t kRetryLimitMs = 2000;
constexpr int64_t kWelcomeTimeoutMs = 10'000;
// A dead connection is noticed by its keepalive.
constexpr int64_t kKeepaliveMs = 30'000;
constexpr int64_t kCooperativeMs = 1000;
// A rank that makes no progress for so long is killed.
constexpr int64_t kHangLimitMs = 12'000;
// How long the coordinator may hold a trouble against a worker that is over it: it comes back, and
// what was told about its ranks arrives.
constexpr int64_t kAfterTroubleMs = 20'000;

std::string Describe(const pb::StartRank& start) {
  return absl::StrCat("rank ", start.rank(), " of ", start.group().id(), " epoch ",
                      start.group().epoch());
}

}  // namespace

Worker::Worker(World* world, Network* network, Coordinator* coordinator, Checker* checker,
               RankGroups* groups, const std::string& id, int slots)
    : world_(world),
      network_(network),
      coordinator_(coordinator),
      checker_(checker),
      groups_(groups),
      id_(id),
      slots_(slots),
      clock_(&world->time, &world->unix_jump_ms, 0) {}

void Worker::Boot() {
  if (alive_ || left_) return;
  alive_ = true;
  ++life_;
  backoff_ms_ = kFirstRetryMs;
  outbox_ = std::make_unique<Outbox>(&clock_);
  world_->trace.Line(id_, "starts with ", slots_, " slots");
  TryConnect();
}

void Worker::Crash(const std::string& why) {
  if (!alive_) return;
  world_->trace.Line(id_, "crashes: ", why);
  checker_->OnWorkerTrouble(id_, world_->time.now_ms() + kAfterTroubleMs);
  alive_ = false;
  ++life_;
  frozen_until_ms_ = 0;
  BreakStream();
  connection_ = nullptr;
  open_ = false;
  // A rank dies with its worker; nobody is left to say so.
  for (auto& [key, supervised] : std::exchange(ranks_, {})) supervised.rank->Die();
}

void Worker::Leave() {
  left_ = true;
  Crash("it leaves for good");
}

void Worker::Freeze(int64_t duration_ms) {
  if (!alive_ || frozen()) return;
  world_->trace.Line(id_, "is frozen for ", duration_ms, " ms");
  frozen_until_ms_ = world_->time.now_ms() + duration_ms;
  checker_->OnWorkerTrouble(id_, frozen_until_ms_ + kAfterTroubleMs);
}

void Worker::WhenRunning(std::function<void()> task) {
  const uint64_t life = life_;
  if (!alive_) return;
  if (!frozen()) return task();
  world_->time.At(frozen_until_ms_, [this, life, task = std::move(task)] {
    if (life == life_) WhenRunning(task);
  });
}

bool Worker::Quiet() const {
  constexpr int64_t kSoonMs = 10;
  const int64_t soon_ms = world_->time.now_ms() + kSoonMs;
  return alive_ && !frozen() && open_ && !connection_->broken &&
         connection_->last_up_ms <= soon_ms && connection_->last_down_ms <= soon_ms;
}

// --- The stream

pb::Hello Worker::Hello() const {
  pb::Hello hello;
  hello.set_worker_id(id_);
  hello.set_host(id_);
  for (int slot = 0; slot < slots_; ++slot) hello.add_slot_devices("cpu");
  for (const auto& [key, supervised] : ranks_) {
    pb::RunningRank* running = hello.add_running();
    const pb::StartRank& start = supervised.rank->start();
    *running->mutable_group() = start.group();
    running->set_rank(start.rank());
    running->set_slot(start.slot());
    running->set_role(start.role());
    running->set_step(supervised.rank->step());
  }
  return hello;
}

void Worker::ConnectLater() {
  const int64_t delay_ms = world_->random.Between(backoff_ms_ / 2, backoff_ms_);
  backoff_ms_ = std::min(backoff_ms_ * 2, kRetryLimitMs);
  world_->time.After(delay_ms, [this, life = life_] {
    if (life == life_) WhenRunning([this] { TryConnect(); });
  });
}

void Worker::TryConnect() {
  if (connection_ != nullptr) return;
  connection_ = std::make_shared<Connection>();
  connection_->worker = this;
  connection_->worker_id = id_;
  const ConnectionPtr connection = connection_;
  connection->last_up_ms = network_->ArrivalMs(id_);
  world_->time.At(connection->last_up_ms, [this, connection, hello = Hello()] {
    if (connection->broken) return;
    if (coordinator_->alive()) return coordinator_->Accept(connection, hello);
    connection->broken = true;  // refused
    ConnectionLost(connection);
  });
  world_->time.After(kWelcomeTimeoutMs, [this, connection] {
    if (connection_ == connection && !open_) BreakStream();
  });
}

void Worker::BreakStream() {
  if (connection_ == nullptr || connection_->broken) return;
  const ConnectionPtr connection = connection_;
  connection->broken = true;
  world_->trace.Line(id_, "its stream breaks");
  world_->time.After(world_->random.Between(0, 200),
                     [this, connection] { ConnectionLost(connection); });
  world_->time.After(world_->random.Between(0, 300),
                     [this, connection] { coordinator_->StreamBroke(connection); });
}

void Worker::ConnectionLost(const ConnectionPtr& connection) {
  if (!alive_ || connection_ != connection) return;
  if (frozen()) return WhenRunning([this, connection] { ConnectionLost(connection); });
  connection_ = nullptr;
  if (open_) {
    open_ = false;
    outbox_->SessionLost();
  }
  ConnectLater();
}

void Worker::Open(const pb::Welcome& welcome) {
  open_ = true;
  ++stream_life_;
  backoff_ms_ = kFirstRetryMs;
  heartbeat_ms_ = welcome.heartbeat_interval_ms();
  outbox_->BeginSession();
  Heartbeat(stream_life_);
  Pump();
}

void Worker::Heartbeat(uint64_t stream) {
  if (!open_ || stream != stream_life_ || !alive_) return;
  if (frozen()) {
    return WhenRunning([this, stream] { Heartbeat(stream); });
  }
  pb::WorkerMessage message;
  message.mutable_heartbeat()->set_sequence(++heartbeats_);
  Send(std::move(message));
  world_->time.After(heartbeat_ms_, [this, stream] { Heartbeat(stream); });
}

void Worker::Send(pb::WorkerMessage message) {
  const ConnectionPtr connection = connection_;
  connection->last_up_ms = std::max(connection->last_up_ms, network_->ArrivalMs(id_));
  if (connection->last_up_ms > world_->time.now_ms() + kKeepaliveMs) return BreakStream();
  world_->time.At(connection->last_up_ms, [this, connection, message = std::move(message)] {
    if (!connection->broken) coordinator_->Receive(connection, message);
  });
}

void Worker::Pump() {
  pb::WorkerMessage message;
  while (open_ && connection_ != nullptr && !outbox_->WaitEmpty(absl::ZeroDuration())) {
    if (outbox_->Next(absl::ZeroDuration(), &message) != Outbox::NextResult::kMessage) return;
    Send(std::move(message));
  }
}

void Worker::Receive(const ConnectionPtr& connection, const pb::CoordinatorMessage& message) {
  if (!alive_ || connection_ != connection) {
    if (message.has_start_rank()) checker_->OnStartLost(message.start_rank());
    return;
  }
  if (frozen()) return WhenRunning([=, this] { Receive(connection, message); });
  Handle(message);
}

void Worker::Handle(const pb::CoordinatorMessage& message) {
  switch (message.message_case()) {
    case pb::CoordinatorMessage::kWelcome:
      return Open(message.welcome());
    case pb::CoordinatorMessage::kStartRank:
      return StartRank(message.start_rank());
    case pb::CoordinatorMessage::kStopGroup:
      return StopGroup(message.stop_group());
    default:
      return world_->Violate("the coordinator speaks the protocol", message.ShortDebugString());
  }
}

// --- Ranks

void Worker::Refuse(const pb::StartRank& start, const std::string& message) {
  pb::RankExited exited;
  *exited.mutable_group() = start.group();
  exited.set_rank(start.rank());
  exited.set_cause(pb::EXIT_CAUSE_SPAWN);
  exited.set_status_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
  exited.set_message(message);
  AddExited(std::move(exited));
}

void Worker::AddExited(pb::RankExited exited) {
  checker_->OnRankEnded(exited);
  outbox_->AddExited(std::move(exited));
  Pump();
}

void Worker::StartRank(const pb::StartRank& start) {
  const Key key{start.group().id(), start.group().epoch(), start.rank()};
  pb::RankStarted started;
  *started.mutable_group() = start.group();
  started.set_rank(start.rank());
  if (!ranks_.contains(key)) {
    for (const auto& [other, supervised] : ranks_) {
      if (supervised.rank->start().slot() != start.slot()) continue;
      checker_->OnSlotTaken(id_, start, supervised.rank->start());
      return Refuse(start, absl::StrCat("slot ", start.slot(), " is still held"));
    }
    world_->trace.Line(id_, "starts ", Describe(start), " in slot ", start.slot());
    checker_->OnSpawned(id_, start);
    ranks_[key].rank = groups_->NewRank(this, start);
    ranks_[key].rank->Begin();
  }
  outbox_->AddStarted(std::move(started));
  Pump();
}

void Worker::StopGroup(const pb::StopGroup& stop) {
  const int64_t now_ms = world_->time.now_ms();
  std::vector<Key> keys;
  for (const auto& [key, supervised] : ranks_) {
    if (std::get<0>(key) == stop.group().id() && std::get<1>(key) <= stop.group().epoch())
      keys.push_back(key);
  }
  for (const Key& key : keys) {
    Supervised& supervised = ranks_.at(key);
    world_->trace.Line(id_, "stops ", Describe(supervised.rank->start()), ": ", stop.reason());
    if (!supervised.stop_requested) supervised.stop_reason = stop.reason();
    // A plain stop after one with a checkpoint takes its place.
    if (!supervised.stop_requested || !stop.save()) supervised.rank->Stop(stop.save());
    supervised.stop_requested = true;
    const int64_t terminate_ms = stop.save() ? std::max<int64_t>(0, stop.grace_ms() - 1000)
                                             : std::min(kCooperativeMs, stop.grace_ms() / 2);
    world_->time.At(now_ms + terminate_ms, [this, key, life = life_] {
      if (life == life_) WhenRunning([this, key] { Terminate(key, /*kill=*/false); });
    });
    world_->time.At(now_ms + stop.grace_ms(), [this, key, life = life_] {
      if (life == life_) WhenRunning([this, key] { Terminate(key, /*kill=*/true); });
    });
  }
}

void Worker::Terminate(const Key& key, bool kill) {
  const auto found = ranks_.find(key);
  if (found == ranks_.end() || found->second.rank->gone()) return;
  // A process that is stopped doesn't see SIGTERM.
  if (!kill && found->second.rank->hung()) return;
  RankEnd end;
  end.exit.signal = kill ? SIGKILL : SIGTERM;
  found->second.rank->Exit(std::move(end));
}

void Worker::OnHang(const Rank* rank) {
  const pb::StartRank& start = rank->start();
  const Key key{start.group().id(), start.group().epoch(), start.rank()};
  world_->time.After(kHangLimitMs, [this, key, life = life_, since_ms = rank->hung_since_ms()] {
    if (life == life_) WhenRunning([this, key, since_ms] { KillHung(key, since_ms); });
  });
}

void Worker::KillHung(const Key& key, int64_t since_ms) {
  const auto found = ranks_.find(key);
  if (found == ranks_.end() || found->second.rank->gone()) return;
  Rank& rank = *found->second.rank;
  if (!rank.hung() || rank.hung_since_ms() != since_ms || found->second.stop_requested) return;
  RankEnd end;
  end.hang = "no progress in all-to-all dispatch of block 3";
  end.exit.signal = SIGKILL;
  rank.Exit(std::move(end));
}

void Worker::Report(const pb::RankReport& report) {
  WhenRunning([this, report] {
    outbox_->AddReport(report);
    Pump();
  });
}

void Worker::RankGone(Rank* rank, RankEnd end) {
  const pb::StartRank start = rank->start();
  const Key key{start.group().id(), start.group().epoch(), start.rank()};
  const int64_t step = rank->step();
  // The agent reaps the process and waits for its last words.
  world_->time.After(world_->random.Between(1, 20), [=, this, life = life_]() mutable {
    if (life != life_) return;
    WhenRunning([=, this]() mutable {
      const auto found = ranks_.find(key);
      if (found == ranks_.end()) return;
      end.stop_requested = found->second.stop_requested || end.stop_requested;
      end.stop_reason = found->second.stop_reason;
      ranks_.erase(found);
      pb::RankExited exited;
      *exited.mutable_group() = start.group();
      exited.set_rank(start.rank());
      exited.set_step(step);
      FillExit(end, &exited);
      world_->trace.Line(id_, Describe(start), " ended: ", pb::ExitCause_Name(exited.cause()), " ",
                         exited.message());
      AddExited(std::move(exited));
    });
  });
}

std::vector<Rank*> Worker::LivingRanks() const {
  std::vector<Rank*> living;
  for (const auto& [key, supervised] : ranks_) {
    if (!supervised.rank->gone()) living.push_back(supervised.rank.get());
  }
  return living;
}

std::vector<SlotTruth> Worker::Slots() const {
  std::vector<SlotTruth> slots;
  for (const auto& [key, supervised] : ranks_) {
    const pb::StartRank& start = supervised.rank->start();
    slots.push_back({id_,
                     start.slot(),
                     {start.group().id(), start.group().epoch(), start.rank()},
                     start.role() == pb::ROLE_SAMPLE,
                     supervised.rank->sampler() == nullptr || supervised.rank->sampler()->idle()});
  }
  return slots;
}

}  // namespace diffmoe::simulation
