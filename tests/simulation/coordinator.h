// The coordinator of a simulated cluster: the real LoopCore and state machine, over models of the
// stores, the network and the checkpoint assembler. It can crash, also in the middle of a commit,
// freeze, and come back. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "server/group_table.h"
#include "server/loop_core.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/model_store.h"
#include "tests/simulation/network.h"
#include "tests/simulation/virtual_time.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

class Worker;

// A worker's stream. Both ends hold it; messages that arrive after the break are lost.
struct Connection {
  Worker* worker = nullptr;
  std::string worker_id;
  uint64_t session = 0;  // 0: Hello has not arrived
  bool broken = false;
  int64_t last_up_ms = 0;  // arrival of the newest message of each direction
  int64_t last_down_ms = 0;
};
using ConnectionPtr = std::shared_ptr<Connection>;

// A sampler's session, likewise.
struct SamplerConnection {
  std::string host;
  uint64_t session = 0;  // 0: SamplerHello has not arrived
  bool broken = false;
  int64_t last_up_ms = 0;
  int64_t last_down_ms = 0;
  // The sampler's end, at the moment of arrival.
  std::function<void(const worker::v1::SamplerCommand&)> receive;
  std::function<void(const absl::Status&)> lost;
};
using SamplerConnectionPtr = std::shared_ptr<SamplerConnection>;

class Coordinator {
 public:
  using Answer = Network::Answer;
  // Follows a sample: responses, then its end, once.
  struct SampleStream {
    std::function<void(const v1::SampleResponse&)> response;
    std::function<void(const v1::CalibrateCheckpointResponse&)> calibration;
    std::function<void(const absl::Status&)> end;
  };

  // Nothing is owned; all must outlive the object. `on_down` is called after every crash.
  Coordinator(World* world, Network* network, ModelStore* store, ModelChunks* chunks,
              Checker* checker, const server::StateOptions& options, std::function<void()> on_down);
  ~Coordinator();

  // --- Life
  void Start();
  // Dies now; comes back when Start is called.
  void Crash(const std::string& why);
  void CrashInNextCommit(CommitCrash where);
  void Freeze(int64_t duration_ms);
  // With this probability the commit of a request's change is one in which it crashes.
  void CrashOnRequests(double chance) { crash_on_request_ = chance; }
  bool alive() const { return process_ != nullptr; }
  bool frozen() const;
  // Null while it isn't alive.
  const server::State* state() const;

  // --- Worker plane; at the moment of arrival
  void Accept(const ConnectionPtr& connection, const worker::v1::Hello& hello);
  void Receive(const ConnectionPtr& connection, const worker::v1::WorkerMessage& message);
  void StreamBroke(const ConnectionPtr& connection);

  // --- Sampler plane; at the moment of arrival
  void AcceptSampler(const SamplerConnectionPtr& connection, const worker::v1::GroupId& group);
  void ReceiveSampler(const SamplerConnectionPtr& connection,
                      const worker::v1::SampleUpdate& update);
  void SamplerBroke(const SamplerConnectionPtr& connection);

  // --- Public API
  void Submit(const v1::TrainingSpec& spec, const std::string& request_id, int priority,
              Answer answer);
  void Cancel(const std::string& job_id, Answer answer);
  void Pause(const std::string& job_id, Answer answer);
  void Resume(const std::string& job_id, Answer answer);
  void SetPriority(const std::string& job_id, int priority, Answer answer);
  // New jobs from the newest checkpoint of another one.
  void Fork(const std::string& job_id, const std::string& request_id, Answer answer);
  void Retry(const std::string& job_id, const std::string& request_id, Answer answer);
  void GetJob(const std::string& job_id, Answer answer);
  // The number of the call, for CancelSample; 0 when refused.
  uint64_t Sample(const std::string& job_id, const v1::SampleRequest& request,
                  int64_t deadline_in_ms, SampleStream stream);
  uint64_t Calibrate(const std::string& job_id, const v1::CalibrateCheckpointRequest& request,
                     SampleStream stream);
  void CancelSampleById(const std::string& request_id, Answer answer);
  void CancelSample(uint64_t call);

  // --- Bulk plane
  // Answers when all ranks of the group have joined.
  void Join(const worker::v1::GroupId& group, int rank, int world_size, Answer answer);
  void PutShard(const worker::v1::GroupId& group, int64_t step, int rank, int world_size,
                Answer answer);
  void ReadCheckpoint(const std::string& job_id, int64_t step, Answer answer);
  // Whether the running process has the group; one of an earlier life may not be ended yet.
  bool Wants(const worker::v1::GroupId& group) const;

 private:
  using Query = std::function<void(const server::State&)>;
  struct Process;
  class Executor;
  friend class Executor;
  using PendingKey = std::tuple<std::string, int64_t, int64_t>;  // job, step, epoch
  struct Pending {
    int world_size = 0;
    bool committing = false;
    std::map<int, Answer> shards;
  };

  template <typename Event>
  uint64_t PostSample(Event event, uint64_t seed, SampleStream stream);
  absl::Status Post(server::Event event);
  void PostWhenRoom(server::Event event);
  void WakeAt(int64_t time_ms);
  void Turn();
  void AfterTurn(const absl::Status& status);
  uint64_t NewCall(Answer answer);
  // A request that the loop answers: `make` builds its event, `look` sees the answer before it
  // leaves.
  void Request(const std::function<server::Event(uint64_t)>& make,
               const std::function<void(const server::Reply&)>& look, const Answer& answer);
  void AnswerCall(const server::Reply& reply);
  void Reconcile();
  // The manifest that a reader sees; nothing: none.
  std::optional<worker::v1::Manifest> FindManifest(const std::string& job_id, int64_t step) const;
  void CommitShards(const PendingKey& key);
  void EndCommit(const PendingKey& key, const absl::Status& status);
  void FailPending(const PendingKey& key, const absl::Status& status);
  void EndGroup(const std::string& id, int64_t epoch);
  void Send(uint64_t session, worker::v1::CoordinatorMessage message);
  void Close(uint64_t session);
  void SendToSampler(uint64_t session, const worker::v1::SamplerCommand& command);
  void CloseSampler(uint64_t session, const absl::Status& status);

  World* world_;
  Network* network_;
  ModelStore* store_;
  ModelChunks* chunks_;
  Checker* checker_;
  const server::StateOptions options_;
  const std::function<void()> on_down_;
  uint64_t next_number_ = 1;  // calls and sessions of all lives
  int64_t frozen_until_ms_ = 0;
  double crash_on_request_ = 0;
  std::unique_ptr<Process> process_;
};

}  // namespace diffmoe::simulation
