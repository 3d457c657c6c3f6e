// The ranks of one attempt and what they do together: meet through the coordinator, restore, step,
// save in two phases, end. A rank whose peer is gone fails, as a collective would. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/rank.h"

namespace diffmoe::simulation {

class TrainingGroup : public std::enable_shared_from_this<TrainingGroup> {
 public:
  TrainingGroup(const RankParts& parts, const worker::v1::StartRank& start);

  // The rank's process is up.
  void Add(const std::shared_ptr<Rank>& rank);
  // `done`: it had finished its work.
  void OnGone(Rank* rank, bool done);
  // `save`: the ranks agree on a step, save it, and end.
  void OnStop(Rank* rank, bool save);
  void OnHang(Rank* rank);
  void OnAwake(Rank* rank);
  // Forgets its ranks; nothing may be called any more.
  void Release() { members_.clear(); }
  bool training() const { return phase_ == Phase::kTraining; }

 private:
  enum class Phase { kJoining, kRestoring, kTraining, kEnding };
  struct Member {
    std::shared_ptr<Rank> rank;
    int64_t begin_ms = 0;
    bool joined = false, restored = false, fenced = false;
    int64_t retry_ms = 200;  // of the last checkpoint
  };

  Member& MemberOf(const Rank* rank) { return members_[static_cast<size_t>(rank->number())]; }
  void Join(Member& member);
  void Restore(Member& member);
  void BeginTraining();
  void ScheduleStep();
  void Step();
  // True when somebody leaves before the step.
  bool LeaveBeforeStep();
  void ReportSteps(bool last);
  void Save();
  void SaveLast(Member& member);
  void EndMember(Member& member);
  void LosePeers(const Rank* culprit, const std::string& why);
  void PutShard(Member& member, Network::Answer receive);

  const RankParts parts_;
  const std::string job_id_;
  const int64_t epoch_;
  const v1::TrainingSpec spec_;
  const JobPlan plan_;
  const int64_t restore_step_;
  std::vector<Member> members_;
  Phase phase_ = Phase::kJoining;
  bool step_scheduled_ = false;
  bool save_requested_ = false;
  bool stopping_ = false;  // ends with a checkpoint before the last step
  int64_t step_ = 0;
  int64_t reported_step_ = 0;
  int64_t reported_ms_ = 0;
  int saves_in_flight_ = 0;
};

}  // namespace diffmoe::simulation
