// The rank processes of this worker: starts them on slots, speaks to their sessions, stops them,
// sees their death and says why they ended.
//
// A rank that hangs (hang_watch.h) is killed, and its exit says where it hung.
//
// A slot is free again once its process has been reaped. A rank that doesn't connect within 2
// minutes, or lives on for 30 s after its session has ended, is killed.
//
// Threads: Start, Stop, StopAll, KillAll and Tick from the one thread that lives as long as the
// program; everything else from any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/base/clock.h"
#include "core/base/log_pump.h"
#include "core/base/log_setup.h"
#include "diffmoe/worker/v1/rank_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "worker/agent/command_queue.h"
#include "worker/agent/hang_watch.h"
#include "worker/agent/oom_watch.h"
#include "worker/agent/process.h"
#include "worker/agent/worker_directory.h"

namespace diffmoe {

// What the supervisor tells. Called with its lock held: implementations return at once and don't
// call back.
class RankEvents {
 public:
  virtual ~RankEvents() = default;
  virtual void RankStarted(const worker::v1::StartRank& start, pid_t pid) = 0;
  // Also for a rank that could not be started. `group_ended`: no rank of the group is left here.
  virtual void RankExited(const worker::v1::StartRank& start, worker::v1::RankExited exited,
                          bool group_ended) = 0;
  virtual void RankReported(const worker::v1::StartRank& start, worker::v1::RankReport report) = 0;
};

struct RankOptions {
  std::string binary;
  std::vector<std::string> slot_devices;
  std::string address;  // on which ranks listen for their peers
  LogFormat log_format = LogFormat::kText;
  std::string trace_file = {};  // empty: none
};

class RankSupervisor {
 public:
  // All pointers outlive the supervisor.
  RankSupervisor(RankOptions options, const WorkerDirectory* directory, LogPump* logs,
                 const Clock* clock, RankEvents* events);

  // Failures come as RankExited with EXIT_CAUSE_SPAWN. A rank that runs already is announced again.
  void Start(const worker::v1::StartRank& start);
  // StopRank over the session, SIGTERM a second later (or after half the grace), SIGKILL after the
  // grace. With `save` the plain StopRank and SIGTERM come when a quarter of the grace, at most 3
  // s, is left. A later Stop may only shorten what is left. Ranks of earlier epochs of the group
  // are stopped as well.
  void Stop(const worker::v1::StopGroup& stop);
  // For the end of the worker. Without `save` SIGTERM at once and SIGKILL after the grace; with it
  // as Stop does. All ranks of a job save and end together, also those of other workers.
  void StopAll(absl::Duration grace, bool save, const std::string& reason);
  void KillAll();
  // Reaps, sends signals that are due, reports exits. Returns the time until it must be called
  // again at the latest.
  absl::Duration Tick();
  bool Empty() const;

  std::vector<worker::v1::RunningRank> Running() const;
  int64_t BusySlots() const;

  // A rank's session. Attach checks that this worker started the process and that it has no session
  // yet; the queue holds the rank's assignment. Errors: PERMISSION_DENIED, ALREADY_EXISTS.
  absl::StatusOr<std::shared_ptr<CommandQueue>> Attach(const worker::v1::RankHello& hello);
  void Report(const worker::v1::RankHello& hello, worker::v1::RankReport report);
  void Heartbeat(const worker::v1::RankHello& hello, const worker::v1::RankHeartbeat& heartbeat);
  void Failed(const worker::v1::RankHello& hello, const worker::v1::RankFailure& failure);
  void Done(const worker::v1::RankHello& hello, int64_t step);
  void Detach(const worker::v1::RankHello& hello);

 private:
  using Key = std::tuple<std::string, int64_t, int32_t>;
  struct Rank {
    worker::v1::StartRank start;
    pid_t pid = 0;
    std::shared_ptr<ChildLog> log;
    // Holds the assignment from the start, so that what comes before the session waits in it.
    std::shared_ptr<CommandQueue> commands = std::make_shared<CommandQueue>();
    bool attached = false;
    bool had_session = false;
    int64_t step = 0;
    HangWatch watch;
    std::string hang;  // what the watch said when it was killed for it
    std::optional<worker::v1::RankFailure> failure;
    bool done = false;
    bool stop_requested = false;   // with or without a checkpoint
    bool plain_stop_sent = false;  // without
    std::string stop_reason;
    std::string kill_reason;  // why this worker killed it without being asked
    // Monotonic times; kNever when not due.
    int64_t plain_stop_at_ms;
    int64_t terminate_at_ms;
    int64_t kill_at_ms;
    // Set once reaped: the exit is reported when the session has ended too, or at the given time.
    std::optional<ProcessExit> exit;
    int64_t report_by_ms;
  };
  using Ranks = std::map<Key, Rank>;

  static Key KeyOf(const worker::v1::GroupId& group, int32_t rank) {
    return {group.id(), group.epoch(), rank};
  }
  Rank* Find(const worker::v1::RankHello& hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<pid_t> SpawnRank(const worker::v1::StartRank& start,
                                  std::shared_ptr<ChildLog>* log) const;
  absl::Status CheckSlot(const worker::v1::StartRank& start) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefuseStart(const worker::v1::StartRank& start, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RequestStop(Rank& rank, int64_t plain_stop_in_ms, int64_t terminate_in_ms,
                   int64_t kill_in_ms, const std::string& reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendPlainStop(Rank& rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KillIfHung(Rank& rank, int64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendDueSignals(Rank& rank, int64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReportExit(Ranks::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool GroupRuns(const worker::v1::GroupId& group) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RankOptions options_;
  const WorkerDirectory* const directory_;
  LogPump* const logs_;
  const Clock* const clock_;
  RankEvents* const events_;
  mutable absl::Mutex mutex_;
  Ranks ranks_ ABSL_GUARDED_BY(mutex_);
  OomWatch oom_ ABSL_GUARDED_BY(mutex_);
  int64_t next_tick_ms_ ABSL_GUARDED_BY(mutex_) = 0;  // when the last Tick wanted the next; 0: none
};

}  // namespace diffmoe
