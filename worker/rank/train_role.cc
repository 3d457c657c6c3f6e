#include "worker/rank/train_role.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/data/image_dataset.h"
#include "core/parallel/shared_memory_collectives.h"
#include "core/train/train_engine.h"
#include "worker/rank/checkpoint_writer.h"
#include "worker/rank/control_store.h"
#include "worker/rank/initial_weights.h"
#include "worker/rank/progress_meter.h"
#include "worker/rank/state_reader.h"

namespace diffmoe {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Times in which something must move.
constexpr double kShortestLimitSeconds = 10;
constexpr double kSlowestSteps = 3;
// A rank gives up on its peers later than their workers give up on them, so that the culprit's
// worker speaks first.
constexpr double kPeerMarginSeconds = 3;

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

std::unique_ptr<Collectives> JoinGroup(RankLink& link, const TrainingConfig& config) {
  const RankAssignment& assignment = link.assignment();
  if (assignment.world_size == 1) return MakeLocalCollectives();
  const ActivityScope scope(&link.activity(), "joining the group of its peers", "",
                            /*waits_for_peers=*/true);
  CollectivesOptions options;
  options.timeout = Milliseconds(config.step_budget_seconds);
  options.interface_address = assignment.rank_address;
  return MakeCollectives(MakeControlStore(link, options.timeout), assignment.rank,
                         assignment.world_size, options);
}

// What a rank says of itself in the flags of a step.
enum StepFlag : uint32_t {
  kSaveAndStop = 1,   // it was asked to save a checkpoint and stop
  kWriterIsBusy = 2,  // a checkpoint is still on its way
};

// The job's settings on this many ranks, which may be fewer than parallel.ranks.
TrainingConfig ConfigFor(const RankAssignment& assignment) {
  TrainingConfig config = assignment.config;
  config.ranks = assignment.world_size;
  config.expert_parallel = std::min(config.expert_parallel, config.ranks);
  return config;
}

// State that isn't a tensor, as "elapsed_seconds thresholds_initialized".
std::string TrainerState(double elapsed_seconds, bool thresholds_initialized) {
  return absl::StrCat(elapsed_seconds, " ", thresholds_initialized ? 1 : 0);
}

CheckpointSummaryData Summary(const TrainEngine& engine, double loss, double elapsed_seconds) {
  CheckpointSummaryData summary;
  summary.loss = loss;
  for (const std::vector<float>& layer : engine.Thresholds()) {
    summary.experts = static_cast<int>(layer.size());
    summary.thresholds.insert(summary.thresholds.end(), layer.begin(), layer.end());
  }
  for (int64_t i = 0; i < engine.moe_layer_count(); ++i) {
    summary.blocks.push_back(static_cast<int>(engine.moe_layer(i).block()));
  }
  summary.trainer_state = TrainerState(elapsed_seconds, engine.thresholds_initialized());
  return summary;
}

// Fills the engine from a checkpoint; returns the training time that it holds.
absl::StatusOr<double> Restore(RankLink& link, TrainEngine& engine) {
  const RankAssignment& assignment = link.assignment();
  const ActivityScope scope(&link.activity(), "loading the checkpoint");
  ASSIGN_OR_RETURN(const CheckpointManifest manifest,
                   link.GetManifest(assignment.restore_job, assignment.restore_step));
  std::vector<WantedRun> wanted;
  for (const StateRun& run : engine.NeededState()) {
    wanted.push_back({run.name, run.shape, run.first_element, run.elements, run.data});
  }
  const double begin = Now();
  RETURN_IF_ERROR(ReadState(link, manifest, wanted));
  int64_t elements = 0;
  for (const WantedRun& run : wanted) elements += run.elements;
  LogInfo("rank", "loaded a checkpoint",
          {{"checkpoint_job", assignment.restore_job},
           {"step", assignment.restore_step},
           {"bytes", elements * static_cast<int64_t>(sizeof(float))},
           {"seconds", Now() - begin}});
  const std::vector<std::string> state = absl::StrSplit(manifest.summary.trainer_state, ' ');
  double elapsed = 0;
  if (state.size() != 2 || !absl::SimpleAtod(state[0], &elapsed)) {
    return absl::DataLossError(absl::StrCat("checkpoint ", manifest.job_id, "@", manifest.step,
                                            ": unreadable trainer state"));
  }
  std::vector<std::vector<float>> thresholds;
  const size_t experts = static_cast<size_t>(manifest.summary.experts);
  for (size_t i = 0; i < manifest.summary.blocks.size(); ++i) {
    const auto first = manifest.summary.thresholds.begin() + static_cast<int64_t>(i * experts);
    thresholds.emplace_back(first, first + static_cast<int64_t>(experts));
  }
  engine.FinishRestore(thresholds, state[1] == "1");
  return elapsed;
}

class Training {
 public:
  Training(RankLink& link, const ImageDataset& dataset, int64_t* last_step, const RankTrace& trace)
      : link_(link),
        trace_(trace),
        config_(ConfigFor(link.assignment())),
        dataset_(dataset),
        last_step_(last_step),
        writer_(link, trace),
        collectives_(JoinGroup(link, config_)),
        engine_(config_, *collectives_,
                {.flags = [this] { return Flags(); }, .activity = &link.activity()}),
        meter_(config_) {
    collectives_->SetActivity(&link.activity());
  }

  absl::Status Run() {
    const RankAssignment& assignment = link_.assignment();
    double elapsed = 0;
    int64_t step = assignment.restore_step;
    if (step > 0) {
      const ScopedSpan span(trace_.tracer, trace_.parent, "load checkpoint",
                            {{"diffmoe.step", step}});
      ASSIGN_OR_RETURN(elapsed, Restore(link_, engine_));
    } else if (config_.initial_weights) {
      RETURN_IF_ERROR(LoadInitialWeights(*config_.initial_weights, config_.model, engine_));
    } else {
      engine_.Initialize();
    }
    *last_step_ = step;
    writer_.Prepare(engine_.OwnedState());
    LogInfo("rank", "training",
            {{"world_size", assignment.world_size},
             {"from_step", step},
             {"to_step", config_.steps},
             {"images", dataset_.size()}});
    const double begin = Now() - elapsed;
    // A checkpoint of the last step: nothing is left to do.
    bool last = step >= config_.steps || (config_.minutes && elapsed >= 60 * *config_.minutes);
    while (!last) {
      if (link_.stop_requested()) return absl::CancelledError("asked to stop");
      if (writer_.fenced())
        return absl::AbortedError("this attempt has been replaced by a newer one");
      const double data_begin = Now();
      const Batch batch = NextBatch(step);
      const double data_seconds = Now() - data_begin;
      const StepFigures figures = engine_.Step(step, batch, Now() - begin);
      *last_step_ = ++step;
      FollowPace(step, Now() - data_begin);
      last = step >= config_.steps ||
             (config_.minutes && figures.elapsed_seconds >= 60 * *config_.minutes);
      const bool leaves = last || (figures.flags & kSaveAndStop) != 0;
      meter_.Add(step, figures, engine_.phases(), data_seconds, Now() - data_begin);
      if (assignment.rank == 0 && (leaves || meter_.Due())) {
        auto [progress, records] =
            meter_.Take(Now() - begin, static_cast<int64_t>(dataset_.bad_files().size()), leaves);
        link_.Report(std::move(progress), std::move(records));
      }
      if (leaves) {
        const ActivityScope scope(&link_.activity(), "waiting until its checkpoint is durable", "",
                                  /*waits_for_peers=*/true);
        RETURN_IF_ERROR(writer_.SaveDurably(step, engine_.OwnedState(),
                                            MaybeSummary(figures.loss, Now() - begin)));
        if (last) return absl::OkStatus();
        return absl::CancelledError(absl::StrCat("stopped with a checkpoint of step ", step));
      }
      if (step % config_.checkpoint_every_steps == 0) MaybeSave(step, figures, Now() - begin);
    }
    return absl::OkStatus();
  }

 private:
  uint32_t Flags() const {
    return (link_.save_requested() ? kSaveAndStop : 0u) | (writer_.busy() ? kWriterIsBusy : 0u);
  }

  Batch NextBatch(int64_t step) {
    const RankAssignment& assignment = link_.assignment();
    const ActivityScope scope(&link_.activity(), "reading images");
    return MakeBatch(config_, step, assignment.rank, assignment.world_size,
                     static_cast<uint64_t>(dataset_.size()),
                     [&](uint64_t index, std::span<float> out) {
                       link_.activity().Advance();
                       return ReadOrThrow(index, out);
                     });
  }

  // Derives the times after which a rank counts as hung, or its peers as lost, from the slowest
  // step so far.
  void FollowPace(int64_t step, double seconds) {
    link_.activity().set_step(step);
    // The first step waits for peers that are still starting; it says nothing about the pace.
    if (!std::exchange(in_pace_, true)) return;
    slowest_seconds_ = std::max(slowest_seconds_, seconds);
    const double limit =
        std::min(config_.step_budget_seconds,
                 std::max(kShortestLimitSeconds, kSlowestSteps * slowest_seconds_));
    link_.activity().set_limit_ms(Milliseconds(limit).count());
    collectives_->SetTimeout(Milliseconds(limit + kPeerMarginSeconds));
  }

  void MaybeSave(int64_t step, const StepFigures& figures, double elapsed) {
    if ((figures.flags & kWriterIsBusy) != 0) {
      LogWarning("rank", "checkpoint left out: the one before is still on its way",
                 {{"step", step}, {"every_steps", config_.checkpoint_every_steps}});
      return;
    }
    writer_.Save(step, engine_.OwnedState(), MaybeSummary(figures.loss, elapsed));
  }

  int ReadOrThrow(uint64_t index, std::span<float> out) {
    int label = 0;
    const absl::Status status =
        dataset_.Read(static_cast<int64_t>(index), absl::MakeSpan(out.data(), out.size()), &label);
    if (!status.ok()) throw std::runtime_error(std::string(status.message()));
    return label;
  }

  std::optional<CheckpointSummaryData> MaybeSummary(double loss, double elapsed) const {
    if (link_.assignment().rank != 0) return std::nullopt;
    return Summary(engine_, loss, elapsed);
  }

  RankLink& link_;
  const RankTrace trace_;
  const TrainingConfig config_;
  const ImageDataset& dataset_;
  int64_t* last_step_;
  CheckpointWriter writer_;
  std::unique_ptr<Collectives> collectives_;
  TrainEngine engine_;
  ProgressMeter meter_;
  double slowest_seconds_ = 0;
  bool in_pace_ = false;  // the first step of this attempt is done
};

}  // namespace

absl::Status RunTrainRole(RankLink& link, int64_t* last_step, const RankTrace& trace) {
  const TrainingConfig& config = link.assignment().config;
  link.activity().set_step(link.assignment().restore_step);
  link.activity().set_limit_ms(Milliseconds(config.step_budget_seconds).count());
  std::unique_ptr<ImageDataset> dataset;
  {
    const ActivityScope scope(&link.activity(), "opening the data set");
    ASSIGN_OR_RETURN(dataset, ImageDataset::Open(config.data, config.model, {.progress = [&link] {
                                                   link.activity().Advance();
                                                 }}));
  }
  ScopedSpan span(trace.tracer, trace.parent, "train",
                  {{"diffmoe.job", link.assignment().group_id},
                   {"diffmoe.epoch", link.assignment().epoch},
                   {"diffmoe.rank", int64_t{link.assignment().rank}}});
  Training training(link, *dataset, last_step, {trace.tracer, span.context()});
  const absl::Status status = training.Run();
  span.SetStatus(status);
  return status;
}

}  // namespace diffmoe
