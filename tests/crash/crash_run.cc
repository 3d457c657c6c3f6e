#include "tests/crash/crash_run.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "tests/crash/crash_calls.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

namespace fs = std::filesystem;

// How long a process may live on before it is killed in the middle of something else.
constexpr absl::Duration kPointLimit = absl::Seconds(10);
constexpr absl::Duration kExitLimit = absl::Seconds(30);
constexpr absl::Duration kEndLimit = absl::Minutes(3);
constexpr int kActiveJobs = 2;
constexpr int kEndedJobsPerCheck = 5;

// What is lost is a list, which is made again: no record, no checkpoint.
bool AcceptsLoss(const KillPointEntry& entry) {
  return entry.scenario == Scenario::kAcceptLoss || entry.scenario == Scenario::kRepair;
}

std::string NameOf(const KillPointEntry& entry) {
  return absl::StrCat(entry.name, entry.victim == Victim::kWorker ? " (worker)" : "");
}

}  // namespace

CrashRun::CrashRun(std::string dir, uint64_t seed)
    : dir_(std::move(dir)),
      random_(seed),
      cluster_(dir_ + "/cluster"),
      expected_(dir_ + "/expected") {}

CrashRun::~CrashRun() {
  cluster_.KillCoordinator();
  cluster_.KillWorker();
  FinishScenario();
}

absl::Status CrashRun::Start() {
  RETURN_IF_ERROR(cluster_.StartCoordinator());
  return cluster_.StartWorker();
}

absl::Status CrashRun::Run(int cycles, const std::string& only) {
  RETURN_IF_ERROR(Start());
  std::vector<KillPointEntry> points;
  for (const KillPointEntry& entry : KillPoints()) {
    if (absl::StrContains(entry.name, only)) points.push_back(entry);
  }
  if (points.empty()) return absl::NotFoundError(absl::StrCat("no kill point holds ", only));
  std::shuffle(points.begin(), points.end(), random_);
  size_t next = 0;
  for (int cycle = 1; cycle <= cycles; ++cycle) {
    const absl::Time begin = absl::Now();
    const bool at_random = only.empty() && cycle % 8 == 0;
    const KillPointEntry& entry = points[next % points.size()];
    const int hits = summary_.at_points;
    const absl::Status status = at_random ? RandomMoment() : RunPoint(entry);
    if (!at_random) ++next;
    const std::string what = at_random ? "a random moment" : NameOf(entry);
    if (!status.ok()) {
      return absl::InternalError(absl::StrCat("cycle ", cycle, ", ", what, ": ", status.message()));
    }
    ++summary_.cycles;
    std::cout << "cycle " << cycle << " of " << cycles << ": " << what
              << (at_random || summary_.at_points > hits ? "" : ", not reached: killed elsewhere")
              << ", "
              << absl::FormatDuration(absl::Trunc(absl::Now() - begin, absl::Milliseconds(1)))
              << std::endl;
  }
  RETURN_IF_ERROR(AwaitAllEnds());
  RETURN_IF_ERROR(CheckLeftovers());
  return Check(/*all_jobs=*/true);
}

absl::Status CrashRun::RandomMoment() {
  const Victim victim = Random(2) == 0 ? Victim::kCoordinator : Victim::kWorker;
  Process* process = victim == Victim::kWorker ? cluster_.worker() : cluster_.coordinator();
  const absl::Time end = absl::Now() + absl::Milliseconds(Random(1000));
  while (absl::Now() < end) RETURN_IF_ERROR(Act());
  process->Signal(SIGKILL);
  ++summary_.at_random;
  return Recover(victim);
}

absl::Status CrashRun::RunPoint(const KillPointEntry& entry) {
  std::vector<std::string> flags;
  int visit = 1;
  switch (entry.scenario) {
    case Scenario::kFirstStart:
      return FirstStart(entry);
    case Scenario::kFullDisk:
      return FullDisk(entry);
    case Scenario::kLeftovers:
      RETURN_IF_ERROR(Prepare("shard.file_finished"));
      break;
    case Scenario::kOrphan:
      RETURN_IF_ERROR(Prepare("checkpoint.bytes_stored"));
      break;
    case Scenario::kRepair:
      cluster_.KillCoordinator();
      fs::remove(cluster_.CoordinatorDir() + "/chunks/db/CURRENT");
      break;
    case Scenario::kUnmarked:
      RETURN_IF_ERROR(Prepare("records.written"));
      break;
    case Scenario::kTraining:
      while (visit < 8 && Random(2) == 0) ++visit;
      break;
    default:
      break;
  }
  ASSIGN_OR_RETURN(const bool hit, RunUntilKilled(entry, {entry.name, visit}));
  ++(hit ? summary_.at_points : summary_.at_random);
  if (hit) ++summary_.hits[NameOf(entry)];
  return Recover(entry.victim, AcceptsLoss(entry));
}

absl::Status CrashRun::Prepare(const std::string& point) {
  return RunUntilKilled({point.c_str(), Victim::kCoordinator, Scenario::kTraining}, {point, 1})
      .status();
}

absl::StatusOr<bool> CrashRun::RunUntilKilled(const KillPointEntry& entry, const Armed& armed) {
  Process* process = nullptr;
  if (entry.victim == Victim::kWorker) {
    RETURN_IF_ERROR(cluster_.LaunchWorker(armed));
    process = cluster_.worker();
  } else {
    std::vector<std::string> flags;
    if (AcceptsLoss(entry)) flags = {"--accept-data-loss"};
    RETURN_IF_ERROR(cluster_.LaunchCoordinator(armed, flags));
    process = cluster_.coordinator();
  }
  bool begun = false;
  absl::Status status;
  WaitUntil(kPointLimit, [&] {
    if (!process->Running()) return true;
    if (!cluster_.CoordinatorReady()) return false;
    if (!begun) StartScenario(entry);
    begun = true;
    status = Act();
    return !status.ok();
  });
  process->Signal(SIGKILL);
  RETURN_IF_ERROR(process->Wait(kExitLimit).status());
  FinishScenario();
  RETURN_IF_ERROR(status);
  return EndedAt(*process, armed.point);
}

absl::Status CrashRun::Recover(Victim victim, bool accept_loss) {
  std::vector<std::string> flags;
  if (accept_loss) flags = {"--accept-data-loss"};
  RETURN_IF_ERROR(victim == Victim::kWorker ? cluster_.StartWorker()
                                            : cluster_.StartCoordinator(flags));
  RETURN_IF_ERROR(Check(/*all_jobs=*/false));
  return CheckBackups();
}

void CrashRun::StartScenario(const KillPointEntry& entry) {
  const std::vector<std::string> saved = expected_.JobsWithCheckpoints();
  if (entry.scenario == Scenario::kSample && !saved.empty()) {
    v1::SampleRequest request;
    request.set_checkpoint("jobs/" +
                           saved[static_cast<size_t>(Random(static_cast<int>(saved.size())))]);
    request.set_count(1);
    request.add_classes(0);
    request.set_steps(3);
    scenario_ = std::thread([this, request] {
      const auto context = CallContext();
      const auto stream = cluster_.sampling().Sample(context.get(), request);
      v1::SampleResponse response;
      while (stream->Read(&response)) {
      }
      stream->Finish();
    });
  } else if (entry.scenario == Scenario::kBackup) {
    backups_.push_back(absl::StrCat(dir_, "/backup-", ++runs_));
    scenario_ = std::thread([this, directory = backups_.back()] {
      v1::BackUpStoreRequest request;
      request.set_directory(directory);
      v1::BackUpStoreResponse response;
      cluster_.cluster().BackUpStore(CallContext().get(), request, &response);
    });
  } else if (entry.scenario == Scenario::kWorkerGone) {
    const std::string folder = absl::StrCat(dir_, "/rival-", ++runs_);
    rival_ = std::make_unique<CrashCluster>(folder);
    fs::create_directories(rival_->WorkerDir());
    fs::copy_file(cluster_.WorkerDir() + "/worker_id", rival_->WorkerDir() + "/worker_id");
    fs::create_directory_symlink(cluster_.CoordinatorDir(), rival_->CoordinatorDir());
    rival_->LaunchWorker({}).IgnoreError();
  }
}

void CrashRun::FinishScenario() {
  if (scenario_.joinable()) scenario_.join();
  if (rival_ != nullptr) rival_->KillWorker();
  rival_.reset();
}

absl::Status CrashRun::Act() {
  const std::vector<std::string> active = expected_.ActiveJobs();
  absl::Status status;
  if (static_cast<int>(active.size()) < kActiveJobs) {
    status = Submit();
  } else {
    const std::string& job = active[static_cast<size_t>(Random(static_cast<int>(active.size())))];
    const int choice = Random(400);
    if (choice < 16) {
      status = Change(job);
    } else if (choice < 32) {
      const auto& requests = expected_.requests();
      status = SubmitAgain(
          std::next(requests.begin(), Random(static_cast<int>(requests.size())))->first);
    } else {
      status = Look(job);
    }
  }
  return absl::IsUnavailable(status) ? absl::OkStatus() : status;
}

absl::Status CrashRun::Look(const std::string& job_id) {
  absl::Status status;
  for (int attempt = 0; attempt < 3; ++attempt) {
    status = LookOnce(job_id);
    if (!absl::IsAborted(status)) break;
  }
  return status;
}

absl::Status CrashRun::LookOnce(const std::string& job_id) {
  const std::string name = "jobs/" + job_id;
  JobView view;
  v1::GetJobRequest get;
  get.set_name(name);
  RETURN_IF_ERROR(
      CallStatus(cluster_.jobs().GetJob(CallContext().get(), get, &view.job), "GetJob " + name));
  v1::ListJobEventsRequest events;
  events.set_name(name);
  events.set_page_size(1000);
  v1::ListJobEventsResponse page;
  do {
    page.Clear();
    RETURN_IF_ERROR(CallStatus(cluster_.jobs().ListJobEvents(CallContext().get(), events, &page),
                               "ListJobEvents " + name));
    view.events.insert(view.events.end(), page.events().begin(), page.events().end());
    if (!view.events.empty()) events.set_after_sequence(view.events.back().sequence());
  } while (page.events_size() > 0);
  v1::ListCheckpointsRequest list;
  list.set_parent(name);
  list.set_page_size(1000);
  v1::ListCheckpointsResponse checkpoints;
  RETURN_IF_ERROR(
      CallStatus(cluster_.checkpoints().ListCheckpoints(CallContext().get(), list, &checkpoints),
                 "ListCheckpoints " + name));
  view.checkpoints = {checkpoints.checkpoints().begin(), checkpoints.checkpoints().end()};
  v1::ListThresholdsRequest history;
  history.set_parent(name);
  history.set_max_points(10'000);
  v1::ListThresholdsResponse points;
  RETURN_IF_ERROR(
      CallStatus(cluster_.checkpoints().ListThresholds(CallContext().get(), history, &points),
                 "ListThresholds " + name));
  view.thresholds = {points.points().begin(), points.points().end()};
  return expected_.Seen(view);
}

absl::Status CrashRun::ListAll() {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_page_size(100);
  do {
    v1::ListJobsResponse page;
    RETURN_IF_ERROR(
        CallStatus(cluster_.jobs().ListJobs(CallContext().get(), request, &page), "ListJobs"));
    jobs.insert(jobs.end(), page.jobs().begin(), page.jobs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return expected_.Listed(jobs, unanswered_.size());
}

absl::Status CrashRun::VerifyStore() {
  const auto context = CallContext();
  const auto stream = cluster_.cluster().VerifyStore(context.get(), v1::VerifyStoreRequest());
  v1::VerifyStoreResponse response;
  std::string damage;
  bool finished = false;
  while (stream->Read(&response)) {
    for (const std::string& one : response.damage()) absl::StrAppend(&damage, one, "; ");
    finished = response.finished();
  }
  RETURN_IF_ERROR(CallStatus(stream->Finish(), "VerifyStore"));
  if (damage.empty() && finished) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("VerifyStore: ", finished ? "" : "not finished; ", damage));
}

absl::Status CrashRun::Check(bool all_jobs) {
  ++summary_.checks;
  RETURN_IF_ERROR(ListAll());
  const std::set<std::string> unanswered = unanswered_;
  for (const std::string& request_id : unanswered) RETURN_IF_ERROR(SubmitAgain(request_id));
  RETURN_IF_ERROR(ListAll());
  std::vector<std::string> jobs = expected_.JobIds();
  if (!all_jobs) {
    std::shuffle(jobs.begin(), jobs.end(), random_);
    jobs.resize(std::min<size_t>(jobs.size(), kEndedJobsPerCheck));
    const std::vector<std::string> active = expected_.ActiveJobs();
    jobs.insert(jobs.end(), active.begin(), active.end());
  } else {
    for (const auto& [request_id, job] : std::map(expected_.requests())) {
      RETURN_IF_ERROR(SubmitAgain(request_id));
    }
  }
  for (const std::string& job : jobs) RETURN_IF_ERROR(Look(job));
  RETURN_IF_ERROR(VerifyStore());
  summary_.totals = expected_.totals();
  return absl::OkStatus();
}

absl::Status CrashRun::CheckLeftovers() const {
  for (const std::string& folder :
       {cluster_.CoordinatorDir(), cluster_.CoordinatorDir() + "/records", cluster_.WorkerDir()}) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      // "name.XXXXXX"
      if (entry.path().extension().string().size() == 7)
        return absl::InternalError(absl::StrCat(entry.path().string(), " is left over"));
    }
  }
  return absl::OkStatus();
}

absl::Status CrashRun::AwaitAllEnds() {
  absl::Status status;
  WaitUntil(kEndLimit, [&] {
    for (const std::string& job : expected_.ActiveJobs()) {
      status = Look(job);
      // A pause whose answer was lost may have taken effect as well.
      if (status.ok() && expected_.ActiveJobs().size() > 0) status = Resume(job);
      if (!status.ok()) return true;
    }
    return expected_.ActiveJobs().empty();
  });
  RETURN_IF_ERROR(status);
  if (expected_.ActiveJobs().empty()) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("job ", expected_.ActiveJobs().front(), " has not ended"));
}

}  // namespace diffmoe::test
