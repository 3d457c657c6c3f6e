#include "tests/observe/scenario.h"

#include <signal.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(90);
constexpr char kManySteps[] = "train.steps=1000000";

std::string Seconds(absl::Duration duration) {
  return absl::StrFormat("%.1f s", absl::ToDoubleSeconds(duration));
}

class Scenario {
 public:
  explicit Scenario(Scene& scene) : scene_(scene), cluster_(scene.cluster()) {}

  void Run(absl::Time end) {
    const std::string ended = scene_.Submit("ended", {"train.steps=10", "parallel.ranks=1"});
    trained_ = scene_.Submit("watched", {kManySteps, "model.depth=4", "checkpoint.every_steps=50",
                                         "optimizer.learning_rate=0.003"});
    // The rules' time is shortened, the job's isn't: what lasts seconds on a busy machine lasts
    // minutes for them.
    scene_.AwaitAlerts("a model in its first steps", {},
                       {"DiffmoeCapacityGap", "DiffmoePredictorInaccurate"}, trained_);
    scene_.AwaitAlerts("a restart of its ranks", {}, {"DiffmoeJobNotProgressing"}, trained_);
    scene_.AwaitAlerts("a coordinator away", {}, {"DiffmoeCheckpointOld"}, trained_);
    AwaitCheckpoint();
    scene_.Await("a job ends", kLimit,
                 [&] { return LookAtJob(cluster_, ended).state() == v1::SUCCEEDED; });
    // A step that fails makes nonsense of the ones after it.
    const std::vector<std::function<void()>> steps = {[this] { Sample(4); },
                                                      [this] { Calibrate(); },
                                                      [this] { Refuse(); },
                                                      [this] { CollapseExperts(); },
                                                      [this] { KillRanks(); },
                                                      [this] { LoseLoss(); },
                                                      [this] { LoseWorker(); },
                                                      [this] { StopCoordinator(); },
                                                      [this] { RestartCoordinator(); },
                                                      [this] { Sample(1); }};
    for (const auto& step : steps) {
      if (scene_.failures().empty()) step();
    }
    if (end - absl::Now() > absl::Minutes(1)) BlockQueue();
    while (absl::Now() < end && scene_.failures().empty()) Sample(1);
    if (!scene_.failures().empty()) return;
    scene_.AwaitQuery("the ended job's series are gone",
                      absl::StrCat("absent(diffmoe_train_step{job_id=\"", ended, "\"})"));
  }

 private:
  void AwaitCheckpoint() {
    scene_.Await("the job trains and has a checkpoint", kLimit, [&] {
      const v1::Job job = LookAtJob(cluster_, trained_);
      return job.state() == v1::RUNNING && job.latest_checkpoint_step() > 0;
    });
  }

  void Sample(int requests) {
    for (int i = 0; i < requests; ++i) {
      const auto receipt =
          cluster_.CliJson({"sample", "--job", trained_, "--class", "0", "--n", "2", "--steps",
                            "10", "--out", cluster_.dir() + "/a.png"},
                           kLimit);
      scene_.Check(receipt.ok(), absl::StrCat("sample: ", receipt.status().message()));
    }
    scene_.Say(absl::StrCat(requests, " sampling requests have ended"));
  }

  void Calibrate() {
    const auto done = cluster_.Cli({"calibrate", trained_, "--images", "16"}, kLimit);
    const bool good = done.ok() && done->exit == ExitState{0, 0};
    scene_.Check(good, absl::StrCat("calibrate: ", done.ok() ? done->err : "didn't end"));
    scene_.Say("a checkpoint is calibrated");
  }

  // Requests for a checkpoint that isn't there, until the share of refusals is an alert.
  void Refuse() {
    const auto firing = [&] {
      const auto series = scene_.prometheus().Query(
          "ALERTS{alertstate=\"firing\",alertname=\"DiffmoeSampleRefusals\"}");
      return series.ok() && !series->empty();
    };
    scene_.Await("requests are refused", kLimit, [&] {
      (void)cluster_.Cli({"sample", "--job", trained_ + "@step=7", "--class", "0", "--out",
                          cluster_.dir() + "/b.png"});
      return firing();
    });
    scene_.AwaitAlerts("a row of refusals", {"DiffmoeSampleRefusals"});
  }

  std::vector<pid_t> Ranks(const std::string& job) {
    return ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", job});
  }

  // Twice both ranks of the job at once.
  void KillRanks() {
    for (int round = 0; round < 2; ++round) {
      const int64_t epoch = LookAtJob(cluster_, trained_).epoch();
      for (const pid_t rank : Ranks(trained_)) kill(rank, SIGKILL);
      scene_.Await("the job trains again after its ranks were killed", kLimit, [&] {
        const v1::Job job = LookAtJob(cluster_, trained_);
        return job.epoch() > epoch && job.state() == v1::RUNNING;
      });
    }
    scene_.AwaitAlerts("a row of killed ranks", {"DiffmoeRanksCrash"});
  }

  void LoseLoss() {
    const std::string id = scene_.Submit(
        "not-finite", {"train.steps=5000", "parallel.ranks=1", "optimizer.learning_rate=1",
                       "optimizer.warmup_steps=0", "parallel.max_restarts=0"});
    scene_.Await("the job without a loss has failed", kLimit,
                 [&] { return LookAtJob(cluster_, id).state() == v1::FAILED; });
    // The worker knows it before the coordinator does.
    const auto scrape = HttpGet(cluster_.worker_metrics(), "/metrics");
    const std::string series = absl::StrCat("diffmoe_train_loss{job_id=\"", id, "\"} Nan\n");
    scene_.Check(scrape.ok() && absl::StrContains(scrape->body, series),
                 "no NaN in the scrape after the report of a loss that is not a number");
    scene_.Say("detection: a loss that is not a number shows in the first scrape after its report");
    scene_.AwaitAlerts("a loss that is not a number", {"DiffmoeLossNotFinite"},
                       {"DiffmoeGradientExploding", "DiffmoeExpertOverloaded"}, id);
  }

  // Far fewer tokens than experts: most of them are never chosen.
  void CollapseExperts() {
    const std::string id =
        scene_.Submit("collapsed", {kManySteps, "model.family=token_choice", "model.patch_size=16",
                                    "model.experts=64", "train.global_batch=4", "parallel.ranks=1",
                                    "checkpoint.every_steps=1000"});
    scene_.Await("the job with too many experts trains", kLimit,
                 [&] { return LookAtJob(cluster_, id).state() == v1::RUNNING; });
    const absl::Time reported = absl::Now();
    scene_.AwaitQuery("its dead experts show",
                      absl::StrCat("diffmoe_moe_dead_experts{job_id=\"", id, "\"} > 0"));
    scene_.Say("detection: a dead expert shows " + Seconds(absl::Now() - reported) +
               " after the first report");
    scene_.AwaitAlerts("experts without tokens", {"DiffmoeExpertDead"}, {"DiffmoeExpertOverloaded"},
                       id);
    const auto cancelled = cluster_.Cli({"job", "cancel", id});
    scene_.Check(cancelled.ok() && cancelled->exit == ExitState{0, 0}, "cancel " + id);
  }

  void LoseWorker() {
    const absl::Status started = scene_.StartSecondWorker();
    scene_.Check(started.ok(), absl::StrCat("second worker: ", started.message()));
    scene_.UpdateTargets();
    scene_.AwaitQuery("a second worker has come", "count(up == 1) == 3");
    scene_.KillSecondWorker();
    const absl::Time dead = absl::Now();
    scene_.AwaitQuery("the dead worker is lost", "diffmoe_workers{state=\"lost\"} > 0");
    scene_.Say("detection: a dead worker shows after " + Seconds(absl::Now() - dead));
    scene_.AwaitAlerts("a dead worker", {"DiffmoeWorkerSilent", "DiffmoeScrapeDown"});
    scene_.UpdateTargets();
    scene_.AwaitCalm("DiffmoeScrapeDown");
  }

  void StopCoordinator() {
    const absl::Time stopped = absl::Now();
    cluster_.coordinator()->Signal(SIGSTOP);
    scene_.AwaitQuery("a coordinator that stands still isn't up",
                      "up{job=\"diffmoe-coordinator\"} == 0");
    scene_.Say("detection: alive but not serving shows after " + Seconds(absl::Now() - stopped) +
               ", and 30 s later as an alert with the deployed rule");
    scene_.AwaitAlerts("a coordinator that stands still", {"DiffmoeScrapeDown"});
    cluster_.coordinator()->Signal(SIGCONT);
    scene_.AwaitQuery("it goes on", "up{job=\"diffmoe-coordinator\"} == 1");
    scene_.AwaitCalm("DiffmoeScrapeDown");
  }

  void RestartCoordinator() {
    cluster_.KillCoordinator();
    scene_.AwaitAlerts("a dead coordinator", {"DiffmoeScrapeDown", "DiffmoeWorkerDisconnected"},
                       {"DiffmoeNoWorkers"});
    const absl::Status started = cluster_.StartCoordinator();
    scene_.Check(started.ok(), absl::StrCat("restart: ", started.message()));
    scene_.UpdateTargets();
    scene_.AwaitQuery("the worker is back", "diffmoe_workers{state=\"connected\"} == 1");
    AwaitCheckpoint();
  }

  // More ranks than there are slots: a job that waits although slots are free.
  void BlockQueue() {
    const std::string id = scene_.Submit("too-large", {"parallel.ranks=4"});
    scene_.AwaitAlerts("a job that waits while slots are free", {"DiffmoeQueueStuck"});
    const auto cancelled = cluster_.Cli({"job", "cancel", id});
    scene_.Check(cancelled.ok() && cancelled->exit == ExitState{0, 0}, "cancel " + id);
  }

  Scene& scene_;
  Cluster& cluster_;
  std::string trained_;
};

}  // namespace

void RunScenario(Scene& scene, absl::Time end) { Scenario(scene).Run(end); }

}  // namespace diffmoe::test
