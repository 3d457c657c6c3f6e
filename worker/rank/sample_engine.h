// The sampling engine of one rank: requests join and leave between denoise steps, and images of all
// of them share each network call. Which images share a call follows the fair order of FairQueue
// and the width of StepCurve; the model is behind SampleExecutor.
//
// A request passes through: waiting (Add), prepare (its first image is begun; the checkpoint is
// loaded, Started is sent), steps, finish (images in ascending index, Finished). Images are
// prepared when they are first picked, and one that isn't picked simply waits, so a request of
// 1024 images holds what runs. Whatever goes wrong with a request is sent to it and ends it alone.
//
// A request whose deadline is near is served before its turn, and one is begun only when it leaves
// all that were begun in time, so that few steps are spent on what ends late. A call is narrower
// than it might be when few requests wait: each row delays those ahead, and shares the call's base
// with those behind (see Joins). The first step of a request comes as soon as there is room.
//
// Bounds: `max_requests` requests, beyond that RESOURCE_EXHAUSTED. One thread uses an engine.
// Order: construct, Add/Cancel/Step, Stop (optional), destroy.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/trace.h"
#include "worker/rank/deadline_plan.h"
#include "worker/rank/fair_queue.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/sample_executor.h"
#include "worker/rank/sample_request.h"
#include "worker/rank/step_curve.h"

namespace diffmoe {

struct SampleEngineOptions {
  int max_requests = 512;
  // Images of a request that may be under way or wait for an earlier one.
  int max_images_ahead = 128;
  absl::Duration progress_interval = absl::Milliseconds(20);  // 50 a second
  absl::Duration load_interval = absl::Milliseconds(100);
  StepCurveOptions curve;
  // What deadlines are compared with; seconds of calls are its differences.
  std::function<absl::Time()> now;  // empty: absl::Now
  Tracer* tracer = nullptr;         // outlives the engine; null: no spans are written
};

struct SampleEngineStats {
  int64_t calls = 0;
  int64_t rows = 0;         // of all calls
  int64_t rows_wasted = 0;  // of requests that were cancelled, expired or failed
  int64_t images_held = 0;  // prepared, not done
};

class SampleEngine {
 public:
  // Both outlive the engine.
  SampleEngine(RankLink& link, SampleExecutor& executor, SampleEngineOptions options = {});

  bool busy() const { return !requests_.empty(); }
  // A task that is known already is dropped: it may be sent again after a stream broke.
  void Add(SampleWork work);
  // Unknown requests are ignored: they may have just finished. Nothing more is sent for it.
  void Cancel(const std::string& request_id);
  // Ends what is late, then one network call for the images whose turn it is.
  void Step();
  // Cancels every request.
  void Forget();
  // Ends every request with `status`.
  void Stop(const absl::Status& status);

  SampleEngineStats stats() const;
  // Rows that the next call may have.
  int width() const;

 private:
  struct Picked {
    SampleRequest* request = nullptr;
    int index = 0;
    ImageTask* task = nullptr;
  };
  // Curves of the jobs seen last: another model costs something else.
  struct JobCurve {
    std::string job_id;
    StepCurve curve;
  };

  StepCurve& CurveOf(const std::string& job_id);
  const StepCurve* KnownCurve(const std::string& job_id) const;
  void Send(SampleRequest& request, SampleUpdateData update);
  void Fail(SampleRequest& request, const absl::Status& status);
  void EndLate(absl::Time now);
  // No time is left even if the rest of the request had the machine for itself.
  bool Hopeless(const SampleRequest& request, absl::Time now) const;
  // Seconds that a request still needs on the whole machine, and of its calls one after the other
  // when each has `call_rows` rows; of one such call, which it may have to wait for. 0 while
  // nothing is known.
  struct Need {
    double together = 0, in_turn = 0, call = 0;
  };
  Need NeedOf(const SampleRequest& request, double call_rows) const;
  // What was begun with a deadline.
  DeadlinePlan PlanOf(double call_rows, absl::Time now) const;
  // Urgent ones, then in fair order.
  std::vector<SampleRequest*> Order(const DeadlinePlan& plan);
  // `late_too`: begin also what will hardly be in time.
  std::vector<Picked> Pick(absl::Time now, bool late_too);
  // The request at `position` of the order is worth its rows in the next call.
  bool Joins(const SampleRequest& request, int64_t position) const;
  // Adds images of `request` while there is room; returns the rows that were added.
  int PickFrom(SampleRequest& request, int room, std::vector<Picked>* picked);
  absl::Status Begin(SampleRequest& request);
  absl::Status PrepareImage(SampleRequest& request, int index);
  void Call(const std::vector<Picked>& picked);
  void AfterCall(const Picked& picked, const absl::Status& status);
  absl::Status ImageDone(SampleRequest& request, int index);
  void Report(SampleRequest& request, absl::Time now);
  void DropEnded();
  void SendLoad(absl::Time now);

  RankLink& link_;
  SampleExecutor& executor_;
  const SampleEngineOptions options_;
  std::map<std::string, std::unique_ptr<SampleRequest>> requests_;
  FairQueue queue_;
  std::list<JobCurve> curves_;  // the one used last first, at most 4
  SampleEngineStats stats_;
  bool any_ended_ = false;
  std::optional<SamplerLoadUpdate> sent_load_;
  absl::Time last_load_ = absl::InfinitePast();
};

}  // namespace diffmoe
