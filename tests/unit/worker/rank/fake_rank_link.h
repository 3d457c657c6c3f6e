// A link to nobody: holds one checkpoint of random weights and keeps the updates of samples.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "worker/rank/rank_link.h"

namespace diffmoe {

class FakeRankLink final : public RankLink {
 public:
  // A checkpoint for every tensor of `config`'s model, "ema/NAME", drawn from a fixed seed.
  explicit FakeRankLink(const TrainingConfig& config);

  // In the order of arrival, per request.
  std::map<std::string, std::vector<SampleUpdateData>> updates;

  int flushes = 0;

  // Updates of these requests fail, as when their stream broke.
  std::set<std::string> deaf;

  // What becomes of checkpoints, and what stop_requested says. From any thread.
  std::function<absl::Status(int64_t, absl::Span<const TensorRun>)> put_shard;
  std::atomic<bool> stop = false;
  // The next command; not set: there is none.
  std::function<std::optional<RankCommandData>()> next_command;

  const RankAssignment& assignment() const override { return assignment_; }
  Activity& activity() override { return activity_; }
  void Report(ProgressReport, std::vector<StepReportRecord>) override {}
  absl::Status PutShard(int64_t step, absl::Span<const TensorRun> runs,
                        const std::optional<CheckpointSummaryData>&) override {
    return put_shard ? put_shard(step, runs) : Unused();
  }
  absl::StatusOr<CheckpointManifest> GetManifest(const std::string&, int64_t) override {
    return manifest_;
  }
  absl::Status ReadExtents(const std::string&, int64_t,
                           absl::Span<const ReadTarget> targets) override;
  void SayFailure(const absl::Status&, int64_t) override {}
  void SayDone(int64_t) override {}
  std::optional<RankCommandData> NextCommand(absl::Duration) override {
    return next_command ? next_command() : std::nullopt;
  }
  bool stop_requested() const override { return stop; }
  bool save_requested() const override { return false; }
  absl::Status PushSampleUpdate(const std::string& request_id, SampleUpdateData update) override {
    if (deaf.contains(request_id)) return absl::UnavailableError("the stream broke");
    updates[request_id].push_back(std::move(update));
    return absl::OkStatus();
  }
  void FlushSampleUpdates() override { ++flushes; }
  absl::Status KeySet(const std::string&, const std::string&) override { return Unused(); }
  absl::StatusOr<std::string> KeyGet(const std::string&, absl::Duration) override {
    return Unused();
  }
  absl::StatusOr<int64_t> KeyAdd(const std::string&, int64_t) override { return Unused(); }
  absl::Status KeyWait(const std::vector<std::string>&, absl::Duration) override {
    return Unused();
  }
  absl::StatusOr<bool> KeyCheck(const std::vector<std::string>&) override { return Unused(); }
  absl::StatusOr<bool> KeyDelete(const std::string&) override { return Unused(); }
  absl::StatusOr<int64_t> KeyCount() override { return Unused(); }

 private:
  static absl::Status Unused() { return absl::InternalError("this test has no such call"); }

  RankAssignment assignment_;
  Activity activity_;
  CheckpointManifest manifest_;
  std::vector<float> weights_;
};

}  // namespace diffmoe
