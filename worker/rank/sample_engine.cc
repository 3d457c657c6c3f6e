#include "worker/rank/sample_engine.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "worker/error_boundary.h"

namespace diffmoe {
namespace {

constexpr size_t kCurves = 4;
// The curve knows the past; a request is given up only when it misses its deadline by more.
constexpr double kCertain = 0.9;
// Seconds that differ by less are the same to whoever plans with them.
constexpr double kSameSeconds = 0.05;

bool Near(double a, double b) { return std::abs(a - b) <= kSameSeconds * std::max(a, b); }

bool Same(const SamplerLoadUpdate& a, const SamplerLoadUpdate& b) {
  return Near(a.step_base_seconds, b.step_base_seconds) &&
         Near(a.step_row_seconds, b.step_row_seconds) && a.rows_waiting == b.rows_waiting &&
         a.width_rows == b.width_rows && a.requests == b.requests;
}

absl::Status DeadlineError(const SampleRequest& request, absl::string_view how) {
  const SampleProgressUpdate progress = request.Progress();
  return absl::DeadlineExceededError(absl::StrFormat("deadline %s after %d of %d denoise steps",
                                                     how, progress.step, progress.steps));
}

}  // namespace

SampleEngine::SampleEngine(RankLink& link, SampleExecutor& executor, SampleEngineOptions options)
    : link_(link), executor_(executor), options_([&options] {
        if (!options.now) options.now = [] { return absl::Now(); };
        return std::move(options);
      }()) {}

void SampleEngine::Add(SampleWork work) {
  const std::string id = work.request_id;
  if (requests_.contains(id)) return;
  absl::Status status = CheckSampleWork(work);
  if (status.ok() && requests_.size() >= static_cast<size_t>(options_.max_requests)) {
    status = absl::ResourceExhaustedError(absl::StrCat("this sampler has ", requests_.size(),
                                                       " requests, at most ", options_.max_requests,
                                                       " are taken; try again later"));
  }
  if (!status.ok()) {
    link_.PushSampleUpdate(id, status).IgnoreError();
    return;
  }
  const absl::Time now = options_.now();
  SampleTrace trace(options_.tracer, work.traceparent, id, now);
  auto request = std::make_unique<SampleRequest>(std::move(work), now);
  request->trace = std::move(trace);
  queue_.Add(id, request->rows_total());
  requests_.emplace(id, std::move(request));
}

void SampleEngine::Cancel(const std::string& request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  stats_.rows_wasted += found->second->rows_served();
  found->second->trace.Ended(options_.now(), found->second->count(), absl::CancelledError());
  queue_.Cancel(request_id);
  requests_.erase(found);
}

void SampleEngine::Forget() {
  while (!requests_.empty()) Cancel(std::string(requests_.begin()->first));
}

void SampleEngine::Stop(const absl::Status& status) {
  for (auto& [id, request] : requests_) Fail(*request, status);
  DropEnded();
}

void SampleEngine::Step() {
  const absl::Time begin = options_.now();
  EndLate(begin);
  DropEnded();
  std::vector<Picked> picked = Pick(begin, /*late_too=*/false);
  // A machine with nothing better to do tries even what will hardly be in time.
  if (picked.empty()) picked = Pick(begin, /*late_too=*/true);
  // Loading a checkpoint takes its time.
  EndLate(options_.now());
  std::erase_if(picked, [](const Picked& image) { return image.request->ended; });
  if (!picked.empty()) Call(picked);
  DropEnded();
  SendLoad(options_.now());
}

SampleEngineStats SampleEngine::stats() const {
  SampleEngineStats stats = stats_;
  for (const auto& [id, request] : requests_) {
    stats.images_held += static_cast<int64_t>(request->running().size());
  }
  return stats;
}

StepCurve& SampleEngine::CurveOf(const std::string& job_id) {
  auto found =
      std::ranges::find_if(curves_, [&](const JobCurve& known) { return known.job_id == job_id; });
  if (found == curves_.end()) {
    curves_.push_front({job_id, StepCurve(options_.curve)});
    if (curves_.size() > kCurves) curves_.pop_back();
  } else {
    curves_.splice(curves_.begin(), curves_, found);
  }
  return curves_.front().curve;
}

const StepCurve* SampleEngine::KnownCurve(const std::string& job_id) const {
  for (const JobCurve& known : curves_) {
    if (known.job_id == job_id && known.curve.measured()) return &known.curve;
  }
  return nullptr;
}

int SampleEngine::width() const {
  return curves_.empty() ? options_.curve.least_rows : curves_.front().curve.width();
}

void SampleEngine::Send(SampleRequest& request, SampleUpdateData update) {
  if (request.ended) return;
  const absl::Status status = link_.PushSampleUpdate(request.id(), std::move(update));
  if (status.ok()) return;
  // Nobody hears what it would say.
  LogWarning("rank", "a sample request is given up",
             {{"request", request.id()}, {"error", status.message()}});
  request.ended = any_ended_ = true;
  request.trace.Ended(options_.now(), request.count(), status);
  stats_.rows_wasted += request.rows_served();
}

void SampleEngine::Fail(SampleRequest& request, const absl::Status& status) {
  if (request.ended) return;
  Send(request, status);
  if (request.ended) return;
  request.ended = any_ended_ = true;
  request.trace.Ended(options_.now(), request.count(), status);
  stats_.rows_wasted += request.rows_served();
}

void SampleEngine::EndLate(absl::Time now) {
  for (auto& [id, request] : requests_) {
    const std::optional<absl::Time>& deadline = request->work().deadline;
    if (!deadline) continue;
    if (now >= *deadline) {
      Fail(*request, DeadlineError(*request, "passed"));
    } else if (Hopeless(*request, now)) {
      Fail(*request, DeadlineError(*request, "can't be met"));
    }
  }
}

SampleEngine::Need SampleEngine::NeedOf(const SampleRequest& request, double call_rows) const {
  const StepCurve* curve = KnownCurve(request.work().job_id);
  if (curve == nullptr) return {};
  const double width = curve->width();
  const double call = curve->Seconds(std::min(width, call_rows));
  return {.together = static_cast<double>(request.rows_left()) / width * curve->Seconds(width),
          .in_turn = static_cast<double>(request.calls_left()) * call,
          .call = call};
}

bool SampleEngine::Hopeless(const SampleRequest& request, absl::Time now) const {
  if (request.adaptive() || !request.weight_exact()) return false;
  const Need need = NeedOf(request, 1);
  return now + absl::Seconds(kCertain * std::max(need.in_turn, need.together)) >
         *request.work().deadline;
}

DeadlinePlan SampleEngine::PlanOf(double call_rows, absl::Time now) const {
  DeadlinePlan plan(now);
  for (const auto& [id, request] : requests_) {
    if (!request->started() || !request->work().deadline || request->ended) continue;
    const Need need = NeedOf(*request, call_rows);
    plan.Commit(id, *request->work().deadline, need.together, need.in_turn + need.call);
  }
  return plan;
}

std::vector<SampleRequest*> SampleEngine::Order(const DeadlinePlan& plan) {
  std::vector<SampleRequest*> order;
  std::set<std::string> urgent;
  for (const std::string& id : plan.Urgent()) {
    order.push_back(requests_.at(id).get());
    urgent.insert(id);
  }
  queue_.Visit([&](const std::string& id) {
    SampleRequest* request = requests_.at(id).get();
    if (!request->ended && !urgent.contains(id)) order.push_back(request);
    return true;
  });
  return order;
}

bool SampleEngine::Joins(const SampleRequest& request, int64_t position) const {
  const StepCurve* curve = KnownCurve(request.work().job_id);
  const int64_t requests = std::ssize(requests_);
  if (position == 0 || request.rows_served() == 0) return true;
  if (curve == nullptr || !curve->has_slope() || requests > curve->width()) return true;
  // Its rows now delay those ahead; in a call of their own they would cost the base, which delays
  // itself and those behind.
  const double rows = 2.0 * request.row_weight();
  return curve->row_seconds() * rows * static_cast<double>(position) <=
         curve->base_seconds() * static_cast<double>(requests - position);
}

std::vector<SampleEngine::Picked> SampleEngine::Pick(absl::Time now, bool late_too) {
  std::vector<Picked> picked;
  int64_t rows_wanted = 0, rows_ahead = 0, position = 0;
  for (const auto& [id, request] : requests_) rows_wanted += request->rows_runnable();
  const double call_rows = static_cast<double>(rows_wanted);
  DeadlinePlan plan = PlanOf(call_rows, now);
  int room = 0;
  for (SampleRequest* request : Order(plan)) {
    const std::optional<absl::Time>& deadline = request->work().deadline;
    if (!request->started() && deadline && !late_too) {
      const Need need = NeedOf(*request, call_rows);
      const double behind = need.together * (1 + static_cast<double>(rows_ahead) /
                                                     static_cast<double>(request->rows_left()));
      const double in_turn = need.in_turn + need.call;
      if (!plan.Fits(*deadline, need.together, std::max(in_turn, behind))) continue;
      plan.Commit(request->id(), *deadline, need.together, in_turn);
    }
    rows_ahead += request->rows_left();
    // The first in order says what the machine can do, and always gets an image in.
    if (position == 0) {
      room = std::max(CurveOf(request->work().job_id).width(), 2 * request->row_weight());
    }
    if (!Joins(*request, position)) continue;
    room -= PickFrom(*request, room, &picked);
    if (!request->ended) ++position;
    if (room <= 0) break;
  }
  return picked;
}

int SampleEngine::PickFrom(SampleRequest& request, int room, std::vector<Picked>* picked) {
  const int given = room;
  const auto take = [&](int index, ImageTask* task) {
    const int rows = task->rows() * request.row_weight();
    if (rows > room) return false;
    picked->push_back({&request, index, task});
    room -= rows;
    return true;
  };
  for (auto& [index, image] : request.running()) {
    if (room <= 0 || !take(index, image.task.get())) return given - room;
  }
  while (room > 0) {
    const int index = request.NextToPrepare(options_.max_images_ahead);
    if (index < 0) break;
    const absl::Status status = CatchErrors([&] { return PrepareImage(request, index); });
    if (!status.ok()) {
      Fail(request, status);
      return 0;
    }
    if (request.ended || !take(index, request.running().at(index).task.get())) break;
  }
  return given - room;
}

absl::Status SampleEngine::Begin(SampleRequest& request) {
  const ActivityScope scope(&link_.activity(), "loading a checkpoint for request ", request.id());
  const absl::Time begin = options_.now();
  ASSIGN_OR_RETURN(std::shared_ptr<const SampleModel> model, executor_.Load(request.work()));
  request.trace.Started(begin, options_.now());
  request.model = std::move(model);
  Send(request, SampleStarted{});
  return absl::OkStatus();
}

absl::Status SampleEngine::PrepareImage(SampleRequest& request, int index) {
  if (!request.started()) RETURN_IF_ERROR(Begin(request));
  ASSIGN_OR_RETURN(std::unique_ptr<ImageTask> task,
                   executor_.Prepare(request.work(), request.model, index));
  request.Begin(std::move(task));
  return absl::OkStatus();
}

void SampleEngine::Call(const std::vector<Picked>& picked) {
  std::vector<ImageTask*> tasks;
  int rows = 0;
  bool one_job = true;
  for (const Picked& image : picked) {
    tasks.push_back(image.task);
    const int image_rows = image.task->rows();
    image.request->CountServed(image_rows);
    rows += image_rows * image.request->row_weight();
    one_job = one_job && image.request->work().job_id == picked[0].request->work().job_id;
  }
  const ActivityScope scope(&link_.activity(), "a denoise step of request ",
                            picked[0].request->id());
  std::vector<absl::Status> statuses;
  const absl::Time begin = options_.now();
  const absl::Status status = CatchErrors([&] {
    statuses = executor_.Call(tasks);
    return absl::OkStatus();
  });
  const absl::Time end = options_.now();
  if (!status.ok()) statuses.assign(picked.size(), status);
  if (status.ok() && one_job) {
    CurveOf(picked[0].request->work().job_id).Observe(rows, absl::ToDoubleSeconds(end - begin));
  }
  ++stats_.calls;
  stats_.rows += rows;
  queue_.Serve(rows);
  for (size_t i = 0; i < picked.size(); ++i) AfterCall(picked[i], statuses[i]);
  // Images of a request stand side by side.
  SampleRequest* last = nullptr;
  for (const Picked& image : picked) {
    if (image.request != last) Report(*image.request, end);
    last = image.request;
  }
}

void SampleEngine::AfterCall(const Picked& picked, const absl::Status& status) {
  SampleRequest& request = *picked.request;
  if (request.ended) return;
  if (!status.ok()) return Fail(request, status);
  SampleRequest::RunningImage& image = request.running().at(picked.index);
  const int64_t step = image.task->steps_done();
  const bool stepped = step != image.steps_seen;
  image.steps_seen = step;
  const absl::Status handled = CatchErrors([&]() -> absl::Status {
    if (image.task->done()) return ImageDone(request, picked.index);
    const int every = request.work().preview_every;
    if (every == 0 || !stepped || step % every != 0) return absl::OkStatus();
    SamplePreview preview;
    preview.step = static_cast<int>(step);
    preview.steps = request.adaptive() ? request.Progress().steps : request.work().steps;
    preview.image = executor_.Picture(*image.task);
    preview.image.index = picked.index;
    preview.image.label = request.work().classes[static_cast<size_t>(picked.index)];
    Send(request, std::move(preview));
    return absl::OkStatus();
  });
  if (!handled.ok()) Fail(request, handled);
}

absl::Status SampleEngine::ImageDone(SampleRequest& request, int index) {
  const ImageTask& task = *request.running().at(index).task;
  SampleImage picture = executor_.Picture(task);
  const ImageUsage usage = executor_.Usage(task);
  return request.AddDone(index, std::move(picture), usage);
}

void SampleEngine::Report(SampleRequest& request, absl::Time now) {
  if (request.ended) return;
  if (request.adaptive()) queue_.Raise(request.id(), request.rows_total());
  std::vector<EncodedImage> ready = request.TakeReady();
  const bool complete = request.complete();
  if (complete && request.work().deadline && now > *request.work().deadline) {
    return Fail(request, DeadlineError(request, "passed"));
  }
  if (complete || now - request.last_progress >= options_.progress_interval) {
    request.last_progress = now;
    Send(request, request.Progress());
  }
  for (EncodedImage& image : ready) Send(request, std::move(image));
  if (!complete || request.ended) return;
  Send(request, request.Finished(now));
  if (request.ended) return;
  queue_.Finish(request.id());
  request.ended = any_ended_ = true;
  request.trace.Ended(now, request.count(), absl::OkStatus());
}

void SampleEngine::DropEnded() {
  if (!any_ended_) return;
  any_ended_ = false;
  std::erase_if(requests_, [&](const auto& entry) {
    if (!entry.second->ended) return false;
    queue_.Cancel(entry.first);  // unless it is finished there
    return true;
  });
}

void SampleEngine::SendLoad(absl::Time now) {
  SamplerLoadUpdate load;
  load.requests = static_cast<int>(requests_.size());
  load.width_rows = width();
  if (!curves_.empty()) {
    load.step_base_seconds = curves_.front().curve.base_seconds();
    load.step_row_seconds = curves_.front().curve.row_seconds();
  }
  for (const auto& [id, request] : requests_) load.rows_waiting += request->rows_left();
  const bool idle = load.requests == 0;
  if (sent_load_ ? Same(load, *sent_load_) : idle) return;
  const bool just_idle = idle && sent_load_ && sent_load_->requests != 0;
  if (!just_idle && now - last_load_ < options_.load_interval) return;
  if (!link_.PushSampleUpdate("", load).ok()) return;
  sent_load_ = load;
  last_load_ = now;
}

}  // namespace diffmoe
