#include "tests/simulation/coordinator.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "tests/simulation/coordinator_process.h"
#include "tests/simulation/worker.h"

namespace diffmoe::simulation {

using server::Reply;

Coordinator::Coordinator(World* world, Network* network, ModelStore* store, ModelChunks* chunks,
                         Checker* checker, const server::StateOptions& options,
                         std::function<void()> on_down)
    : world_(world),
      network_(network),
      store_(store),
      chunks_(chunks),
      checker_(checker),
      options_(options),
      on_down_(std::move(on_down)) {}

Coordinator::~Coordinator() = default;

void Coordinator::Start() {
  const absl::Status opened = store_->Open();
  checker_->OnOpened(opened, store_->records());
  if (!opened.ok()) return;
  std::vector<std::pair<std::string, std::string>> records;
  for (const auto& [key, value] : store_->records()) {
    if (key == server::kHeaderKey || key.starts_with(server::kJobsPrefix) ||
        key.starts_with(server::kManifestsPrefix) || key.starts_with(server::kCalibrationsPrefix)) {
      records.emplace_back(key, value);
    }
  }
  absl::StatusOr<server::State> state = server::LoadState(records, options_);
  if (!state.ok()) return world_->Violate("a restart loads its records", state.status().ToString());
  process_ = std::make_unique<Process>(this, *std::move(state));
  world_->trace.Line("coordinator", "starts with ", records.size(), " records");
  Reconcile();
  const absl::Status begun = process_->core.Begin();
  AfterTurn(begun);
}

void Coordinator::Reconcile() {
  for (const auto& [key, value] : store_->records()) {
    if (!key.starts_with(server::kManifestsPrefix)) continue;
    worker::v1::Manifest manifest;
    manifest.ParseFromString(value);
    if (chunks_->Has({manifest.job_id(), manifest.step(), manifest.epoch()})) continue;
    Post(server::CheckpointDamaged{manifest.job_id(), manifest.step(), "its bytes are missing"})
        .IgnoreError();
  }
  for (const CheckpointKey& key : chunks_->List()) {
    const auto manifest = FindManifest(key.job_id, key.step);
    if (manifest && manifest->epoch() == key.epoch) continue;
    world_->trace.Line("coordinator", "removes bytes without a manifest: ", key.job_id, "@",
                       key.step);
    chunks_->Delete(key);
  }
}

void Coordinator::Crash(const std::string& why) {
  if (!alive()) return;
  world_->trace.Line("coordinator", "crashes: ", why);
  // Whoever waits sees a broken connection.
  const std::unique_ptr<Process> process = std::move(process_);
  checker_->OnCrash();
  store_->Crash();
  frozen_until_ms_ = 0;
  network_->HoldAll(0);
  const absl::Status status = absl::UnavailableError("the connection broke");
  for (auto& [session, connection] : process->connections) {
    if (connection->broken) continue;
    connection->broken = true;
    world_->time.At(network_->ArrivalMs(connection->worker_id),
                    [connection] { connection->worker->ConnectionLost(connection); });
  }
  for (auto& [session, connection] : process->samplers) {
    if (connection->broken) continue;
    connection->broken = true;
    world_->time.At(network_->ArrivalMs(connection->host),
                    [connection, status] { connection->lost(status); });
  }
  const auto fail = [status](const Answer& answer) { answer(Reply{0, status, {}, false}); };
  for (auto& [call, answer] : process->calls) fail(answer);
  for (auto& [key, waiting] : process->rendezvous) {
    for (auto& [rank, answer] : waiting.answers) fail(answer);
  }
  for (auto& [key, pending] : process->pending) {
    for (auto& [rank, answer] : pending.shards) fail(answer);
  }
  for (auto& [call, stream] : process->samples) stream.end(status);
  on_down_();
}

void Coordinator::CrashInNextCommit(CommitCrash where) {
  if (!alive()) return;
  store_->CrashInNextCommit(where, [this] { process_->dying = true; });
}

bool Coordinator::frozen() const { return frozen_until_ms_ > world_->time.now_ms(); }

void Coordinator::Freeze(int64_t duration_ms) {
  if (!alive() || frozen()) return;
  world_->trace.Line("coordinator", "is frozen for ", duration_ms, " ms");
  frozen_until_ms_ = world_->time.now_ms() + duration_ms;
  checker_->OnCoordinatorAway(duration_ms);
  network_->HoldAll(frozen_until_ms_);
}

const server::State* Coordinator::state() const {
  return alive() ? &process_->core.state() : nullptr;
}

absl::Status Coordinator::Post(server::Event event) {
  if (!alive()) return absl::UnavailableError("connection refused");
  if (server::IsRequest(event) && process_->core.stalled())
    return absl::ResourceExhaustedError("the disk is full");
  process_->queue.push_back(std::move(event));
  if (!process_->core.stalled()) {
    WakeAt(world_->time.now_ms() + world_->random.Between(0, 1));
  }
  return absl::OkStatus();
}

void Coordinator::PostWhenRoom(server::Event event) {
  if (!alive()) return;
  if (process_->core.stalled()) {
    process_->blocked.push_back(std::move(event));
    return;
  }
  Post(std::move(event)).IgnoreError();
}

void Coordinator::WakeAt(int64_t time_ms) {
  time_ms = std::max({time_ms, world_->time.now_ms(), frozen_until_ms_});
  if (process_->wake_ms <= time_ms) return;
  process_->wake_ms = time_ms;
  const uint64_t life = process_->life;
  world_->time.At(time_ms, [this, life, time_ms] {
    if (!alive() || process_->life != life || process_->wake_ms != time_ms) return;
    process_->wake_ms = std::numeric_limits<int64_t>::max();
    if (frozen()) return WakeAt(frozen_until_ms_);
    Turn();
  });
}

void Coordinator::Turn() {
  Process& process = *process_;
  std::vector<server::Event> events;
  constexpr size_t kMaxBatch = 512;  // as LoopOptions
  if (!process.core.stalled()) {
    while (!process.queue.empty() && events.size() < kMaxBatch) {
      events.push_back(std::move(process.queue.front()));
      process.queue.pop_front();
    }
  }
  const std::vector<Query> queries = std::exchange(process.queries, {});
  const absl::Status status = process.core.RunBatch(events);
  if (!process.dying) {
    for (const Query& query : queries) query(process.core.state());
  }
  AfterTurn(status);
}

void Coordinator::AfterTurn(const absl::Status& status) {
  Process& process = *process_;
  if (process.dying) return Crash("in a commit");
  if (!status.ok()) {
    if (!absl::IsResourceExhausted(status)) {
      return world_->Violate("commits work", status.ToString());
    }
    world_->trace.Line("coordinator", "can't write: ", status.message());
    constexpr int64_t kRetryMs = 500;  // as LoopOptions
    process.wake_ms = std::numeric_limits<int64_t>::max();
    return WakeAt(world_->time.now_ms() + kRetryMs);
  }
  checker_->CheckSamples(process.core.state());
  checker_->CheckConservation(process.core.state());
  if (world_->random.Chance(0.01)) checker_->OnCommitted(process.core.state(), store_->records());
  for (server::Event& event : std::exchange(process.blocked, {})) PostWhenRoom(std::move(event));
  const int64_t now_ms = world_->time.now_ms();
  if (!process.queue.empty() || !process.queries.empty()) return WakeAt(now_ms);
  // As LoopOptions: the loop looks at the clock at least once a second.
  const int64_t wait_ms = process.core.wakeup_ms() - process.clock.MonotonicMs();
  WakeAt(now_ms + std::clamp<int64_t>(wait_ms, 1, 1000));
}

uint64_t Coordinator::NewCall(Answer answer) {
  const uint64_t call = next_number_++;
  process_->calls[call] = std::move(answer);
  return call;
}

void Coordinator::AnswerCall(const Reply& reply) {
  const auto found = process_->calls.find(reply.call);
  if (found == process_->calls.end()) {
    return world_->Violate("a call is answered once", absl::StrCat("call ", reply.call));
  }
  const Answer answer = std::move(found->second);
  process_->calls.erase(found);
  answer(reply);
}

// --- Worker plane

void Coordinator::Accept(const ConnectionPtr& connection, const worker::v1::Hello& hello) {
  connection->session = next_number_++;
  process_->connections[connection->session] = connection;
  world_->trace.Line("coordinator", "session ", connection->session, " of ", connection->worker_id,
                     " with ", hello.running_size(), " ranks");
  Post(server::WorkerHello{connection->session, hello}).IgnoreError();
}

void Coordinator::Receive(const ConnectionPtr& connection,
                          const worker::v1::WorkerMessage& message) {
  using worker::v1::WorkerMessage;
  if (!alive() || !process_->connections.contains(connection->session)) return;
  const uint64_t session = connection->session;
  switch (message.message_case()) {
    case WorkerMessage::kHeartbeat:
      return Post(server::WorkerHeartbeat{session}).IgnoreError();
    case WorkerMessage::kRankStarted:
      return Post(server::RankStarted{session, message.rank_started()}).IgnoreError();
    case WorkerMessage::kRankReport:
      return Post(server::RankReported{session, message.rank_report()}).IgnoreError();
    case WorkerMessage::kRankExited:
      return Post(server::RankExited{session, message.rank_exited()}).IgnoreError();
    default:
      return world_->Violate("workers speak the protocol", connection->worker_id);
  }
}

void Coordinator::StreamBroke(const ConnectionPtr& connection) {
  if (!alive() || process_->connections.erase(connection->session) == 0) return;
  Post(server::SessionClosed{connection->session}).IgnoreError();
}

void Coordinator::Send(uint64_t session, worker::v1::CoordinatorMessage message) {
  const auto found = process_->connections.find(session);
  const bool open = found != process_->connections.end() && !found->second->broken;
  if (message.has_start_rank() && !open) checker_->OnStartLost(message.start_rank());
  if (!open) return;
  const ConnectionPtr connection = found->second;
  if (message.has_stop_group()) checker_->OnStopSent(message.stop_group());
  if (message.has_start_rank()) checker_->OnStartSent(connection->worker_id, message.start_rank());
  connection->last_down_ms =
      std::max(connection->last_down_ms, network_->ArrivalMs(connection->worker_id));
  world_->time.At(connection->last_down_ms, [this, connection, message = std::move(message)] {
    if (!connection->broken) return connection->worker->Receive(connection, message);
    if (message.has_start_rank()) checker_->OnStartLost(message.start_rank());
  });
}

void Coordinator::Close(uint64_t session) {
  const auto found = process_->connections.find(session);
  if (found == process_->connections.end()) return;
  const ConnectionPtr connection = found->second;
  StreamBroke(connection);
  world_->time.At(std::max(connection->last_down_ms, network_->ArrivalMs(connection->worker_id)),
                  [connection] {
                    if (std::exchange(connection->broken, true)) return;
                    connection->worker->ConnectionLost(connection);
                  });
}

// --- Public API

void Coordinator::Request(const std::function<server::Event(uint64_t)>& make,
                          const std::function<void(const Reply&)>& look, const Answer& answer) {
  if (!alive()) return answer(Reply{0, absl::UnavailableError("connection refused"), {}, false});
  const uint64_t call = NewCall([this, look, answer](const Reply& reply) {
    if (alive() && !process_->dying) look(reply);
    answer(reply);
  });
  if (world_->random.Chance(crash_on_request_)) {
    CrashInNextCommit(world_->random.Pick<CommitCrash>(
        {CommitCrash::kBeforeSync, CommitCrash::kBeforeMark, CommitCrash::kAfterMark}));
  }
  const absl::Status posted = Post(make(call));
  if (!posted.ok()) AnswerCall(Reply{call, posted, {}, false});
}

void Coordinator::Submit(const v1::TrainingSpec& spec, const std::string& request_id, int priority,
                         Answer answer) {
  Request(
      [&](uint64_t call) {
        return server::SubmitJob{call, spec, {request_id, spec.name(), priority, {}}};
      },
      [this, request_id](const Reply& reply) { checker_->OnSubmitAnswered(request_id, reply); },
      answer);
}

void Coordinator::Fork(const std::string& job_id, const std::string& request_id, Answer answer) {
  Request(
      [&](uint64_t call) {
        return server::ForkJob{call, job_id, {}, {}, {request_id, job_id, 0, {}}};
      },
      [this, request_id](const Reply& reply) { checker_->OnSubmitAnswered(request_id, reply); },
      answer);
}

void Coordinator::Retry(const std::string& job_id, const std::string& request_id, Answer answer) {
  Request(
      [&](uint64_t call) {
        return server::RetryJob{call, job_id, {request_id, job_id, 0, {}}};
      },
      [this, request_id](const Reply& reply) { checker_->OnSubmitAnswered(request_id, reply); },
      answer);
}

void Coordinator::Cancel(const std::string& job_id, Answer answer) {
  if (alive()) checker_->OnCancelSent(job_id);
  Request(
      [&](uint64_t call) {
        return server::CancelJob{call, job_id};
      },
      [this, job_id](const Reply& reply) { checker_->OnCancelAnswered(job_id, reply); }, answer);
}

void Coordinator::Pause(const std::string& job_id, Answer answer) {
  if (alive()) checker_->OnPauseSent(job_id);
  Request(
      [&](uint64_t call) {
        return server::PauseJob{call, job_id};
      },
      [this, job_id](const Reply& reply) { checker_->OnPauseAnswered(job_id, reply); }, answer);
}

void Coordinator::Resume(const std::string& job_id, Answer answer) {
  if (alive()) checker_->OnResumeSent(job_id);
  Request(
      [&](uint64_t call) {
        return server::ResumeJob{call, job_id};
      },
      [](const Reply&) {}, answer);
}

void Coordinator::SetPriority(const std::string& job_id, int priority, Answer answer) {
  Request(
      [&](uint64_t call) {
        return server::UpdateJob{call, job_id, priority, {}, {}};
      },
      [](const Reply&) {}, answer);
}

void Coordinator::GetJob(const std::string& job_id, Answer answer) {
  if (!alive()) return answer(Reply{0, absl::UnavailableError("connection refused"), {}, false});
  process_->queries.push_back([job_id, answer](const server::State& state) {
    const auto job = state.jobs.find(job_id);
    if (job == state.jobs.end()) {
      return answer(Reply{0, absl::NotFoundError(job_id), {}, false});
    }
    answer(Reply{0, absl::OkStatus(), job->second.job(), false});
  });
  WakeAt(world_->time.now_ms());
}

template <typename Event>
uint64_t Coordinator::PostSample(Event event, uint64_t seed, SampleStream stream) {
  if (!alive()) {
    stream.end(absl::UnavailableError("connection refused"));
    return 0;
  }
  const uint64_t call = next_number_++;
  const int64_t deadline_in_ms = event.deadline_in_ms;
  event.call = call;
  const absl::Status posted = Post(std::move(event));
  if (!posted.ok()) {
    stream.end(posted);
    return 0;
  }
  process_->samples[call] = std::move(stream);
  checker_->OnSampleCall(call, seed, deadline_in_ms);
  return call;
}

uint64_t Coordinator::Sample(const std::string& job_id, const v1::SampleRequest& request,
                             int64_t deadline_in_ms, SampleStream stream) {
  return PostSample(
      server::SubmitSample{0, job_id, {}, request, deadline_in_ms, {"", request.seed()}},
      request.seed(), std::move(stream));
}

uint64_t Coordinator::Calibrate(const std::string& job_id,
                                const v1::CalibrateCheckpointRequest& request,
                                SampleStream stream) {
  return PostSample(server::SubmitCalibration{0, job_id, {}, request, 0, {}}, 0, std::move(stream));
}

void Coordinator::CancelSampleById(const std::string& request_id, Answer answer) {
  Request(
      [&](uint64_t call) {
        return server::CancelSampleById{call, request_id};
      },
      [](const Reply&) {}, answer);
}

void Coordinator::CancelSample(uint64_t call) {
  if (alive() && process_->samples.contains(call)) Post(server::CancelSample{call}).IgnoreError();
}

}  // namespace diffmoe::simulation
