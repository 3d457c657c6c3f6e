#include "client/bench/load_generator.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/sampling.grpc.pb.h"

namespace diffmoe {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr absl::Duration kLook = absl::Milliseconds(100);

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

// The requests in flight and what became of the others. Thread-safe. All calls must have ended
// before it goes.
class Flight {
 public:
  Flight(const LoadOptions& options, std::shared_ptr<grpc::Channel> channel)
      : options_(options), stub_(v1::SamplingService::NewStub(std::move(channel))) {}

  void Start(int64_t number);
  // The same on the caller's thread, until the request has ended.
  void Run(int64_t number);
  // Waits until fewer than `count` are in flight; whether that came true in time.
  bool AwaitFewerThan(int count, absl::Duration limit);
  void CancelAll();
  int in_flight() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int>(calls_.size());
  }
  int64_t ended() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(outcomes_.size());
  }
  double elapsed() const { return SecondsSince(start_); }
  void TakeInto(LoadResult* result);

 private:
  class Call;
  v1::SampleRequest Request(int64_t number) const;
  void SetDeadline(grpc::ClientContext* context) const;
  void Begun(grpc::ClientContext* context);
  void Note(const v1::SampleResponse& event, LoadOutcome* outcome) const;
  void Ended(grpc::ClientContext* context, const grpc::Status& status, LoadOutcome outcome);

  const LoadOptions& options_;
  const std::unique_ptr<v1::SamplingService::Stub> stub_;
  const SteadyClock::time_point start_ = SteadyClock::now();
  mutable absl::Mutex mutex_;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  std::vector<LoadOutcome> outcomes_ ABSL_GUARDED_BY(mutex_);
  int most_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

v1::SampleRequest Flight::Request(int64_t number) const {
  v1::SampleRequest request = options_.request;
  request.set_seed(options_.request.seed() + static_cast<uint64_t>(number));
  request.add_classes(options_.classes[static_cast<size_t>(number) % options_.classes.size()]);
  return request;
}

void Flight::SetDeadline(grpc::ClientContext* context) const {
  if (options_.deadline == absl::InfiniteDuration()) return;
  context->set_deadline(absl::ToChronoTime(absl::Now() + options_.deadline));
}

void Flight::Begun(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  calls_.insert(context);
  most_in_flight_ = std::max(most_in_flight_, static_cast<int>(calls_.size()));
}

void Flight::Note(const v1::SampleResponse& event, LoadOutcome* outcome) const {
  if (event.has_progress() && outcome->first_progress_seconds < 0) {
    outcome->first_progress_seconds = elapsed() - outcome->start_seconds;
  }
  if (!event.has_image()) return;
  const v1::SampleResponse::Image& image = event.image();
  const auto end = image.offset() + static_cast<int64_t>(image.pixels().size());
  if (end >= image.total_bytes()) ++outcome->images;
}

void Flight::Ended(grpc::ClientContext* context, const grpc::Status& status, LoadOutcome outcome) {
  outcome.code = static_cast<absl::StatusCode>(status.error_code());
  outcome.latency_seconds = elapsed() - outcome.start_seconds;
  absl::MutexLock lock(&mutex_);
  calls_.erase(context);
  outcomes_.push_back(outcome);
}

// Owns itself from Begin until OnDone, which is the last thing that gRPC calls.
class Flight::Call final : public grpc::ClientReadReactor<v1::SampleResponse> {
 public:
  Call(Flight* flight, v1::SampleRequest request)
      : flight_(*flight), request_(std::move(request)) {}

  void Begin() {
    flight_.Begun(&context_);
    outcome_.start_seconds = flight_.elapsed();
    flight_.SetDeadline(&context_);
    flight_.stub_->async()->Sample(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    flight_.Note(event_, &outcome_);
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    // The owner of the flight may go as soon as the last call counts as ended.
    const std::unique_ptr<Call> self(this);
    flight_.Ended(&context_, status, outcome_);
  }

 private:
  Flight& flight_;
  const v1::SampleRequest request_;
  grpc::ClientContext context_;
  v1::SampleResponse event_;
  LoadOutcome outcome_;
};

void Flight::Start(int64_t number) { (new Call(this, Request(number)))->Begin(); }

void Flight::Run(int64_t number) {
  const v1::SampleRequest request = Request(number);
  grpc::ClientContext context;
  Begun(&context);
  LoadOutcome outcome;
  outcome.start_seconds = elapsed();
  SetDeadline(&context);
  const auto stream = stub_->Sample(&context, request);
  v1::SampleResponse event;
  while (stream->Read(&event)) Note(event, &outcome);
  Ended(&context, stream->Finish(), outcome);
}

bool Flight::AwaitFewerThan(int count, absl::Duration limit) {
  const auto fewer = [this, count]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return static_cast<int>(calls_.size()) < count;
  };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&fewer), limit);
}

void Flight::CancelAll() {
  absl::MutexLock lock(&mutex_);
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

void Flight::TakeInto(LoadResult* result) {
  absl::MutexLock lock(&mutex_);
  result->outcomes = std::move(outcomes_);
  result->most_in_flight = most_in_flight_;
}

// Times of a small call to the coordinator, for comparison. One thread.
class SmallCalls {
 public:
  explicit SmallCalls(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::ClusterService::NewStub(channel)) {}

  absl::Status Make() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::Cluster cluster;
    const SteadyClock::time_point start = SteadyClock::now();
    const grpc::Status status = stub_->GetCluster(&context, v1::GetClusterRequest(), &cluster);
    if (!status.ok()) {
      return absl::Status(
          static_cast<absl::StatusCode>(status.error_code()),
          absl::StrCat("a small call to the coordinator: ", status.error_message()));
    }
    seconds_.push_back(SecondsSince(start));
    return absl::OkStatus();
  }
  absl::Status Make(int count) {
    for (int i = 0; i < count; ++i) RETURN_IF_ERROR(Make());
    return absl::OkStatus();
  }
  std::vector<double> Take() { return std::move(seconds_); }

 private:
  const std::unique_ptr<v1::ClusterService::Stub> stub_;
  std::vector<double> seconds_;
};

class Reporter {
 public:
  Reporter(const LoadOptions& options, const Flight& flight) : options_(options), flight_(flight) {}
  void MaybeReport() {
    const double now = flight_.elapsed();
    if (!options_.on_progress || now < next_) return;
    next_ = now + 0.5;
    options_.on_progress(absl::StrCat(static_cast<int64_t>(now), " s, ", flight_.ended(),
                                      " requests ended, ", flight_.in_flight(), " in flight"));
  }

 private:
  const LoadOptions& options_;
  const Flight& flight_;
  double next_ = 0;
};

// Clients that each wait for one request before they send the next. Their threads end with the
// window or by Stop, after the request they are in. The first of them makes a small call after each
// request, so that both meet the same machine.
class ClosedLoop {
 public:
  ClosedLoop(const LoadOptions& options, Flight* flight, SmallCalls* small)
      : options_(options), flight_(*flight), small_(*small) {
    for (int i = 0; i < options.closed; ++i) {
      clients_.emplace_back([this, first = i == 0] { RunClient(first); });
    }
  }
  ~ClosedLoop() {
    Stop();
    for (std::thread& client : clients_) client.join();
  }
  void Stop() { stop_ = true; }

  // Until the window is over, every request was started, or the interrupt.
  void Watch(Interrupt* interrupt, Reporter* reporter) const {
    const double window = absl::ToDoubleSeconds(options_.window);
    while (next_ < options_.max_requests) {
      const double left = window - flight_.elapsed();
      if (left <= 0 || !interrupt->WaitFor(std::min(kLook, absl::Seconds(left)))) return;
      reporter->MaybeReport();
    }
  }

 private:
  void RunClient(bool first) {
    const double window = absl::ToDoubleSeconds(options_.window);
    while (!stop_ && flight_.elapsed() < window) {
      const int64_t number = next_++;
      if (number >= options_.max_requests) return;
      flight_.Run(number);
      if (first && small_calls_.ok()) small_calls_ = small_.Make();
    }
  }

  const LoadOptions& options_;
  Flight& flight_;
  SmallCalls& small_;
  absl::Status small_calls_;  // of the first client
  std::atomic<int64_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> clients_;
};

int64_t RunOpen(const LoadOptions& options, Interrupt* interrupt, Flight* flight,
                Reporter* reporter) {
  PoissonArrivals arrivals(options.rate, options.arrival_seed);
  int64_t not_started = 0;
  const double window = absl::ToDoubleSeconds(options.window);
  for (int64_t number = 0; number < options.max_requests; ++number) {
    const double arrival = arrivals.Next();
    if (arrival > window) break;
    const double ahead = arrival - flight->elapsed();
    if (!interrupt->WaitFor(absl::Seconds(std::max(0.0, ahead)))) break;
    if (flight->in_flight() < options.in_flight_bound) {
      flight->Start(number);
    } else {
      ++not_started;
    }
    reporter->MaybeReport();
  }
  return not_started;
}

}  // namespace

double PoissonArrivals::Next() {
  // SplitMix64: the same sequence with every standard library.
  state_ += 0x9e3779b97f4a7c15;
  uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  mixed ^= mixed >> 31;
  const double uniform = static_cast<double>(mixed >> 11) * 0x1p-53;  // [0, 1)
  now_ -= std::log1p(-uniform) / rate_;
  return now_;
}

absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, ApiClient* client,
                                   Interrupt* interrupt) {
  LoadResult result;
  SmallCalls small(client->channel());
  RETURN_IF_ERROR(small.Make(options.unary_calls));
  Flight flight(options, client->channel());
  Reporter reporter(options, flight);
  std::optional<ClosedLoop> closed;
  if (options.closed > 0) {
    result.arrivals = absl::StrCat("closed, ", options.closed, " at a time");
    closed.emplace(options, &flight, &small);
    closed->Watch(interrupt, &reporter);
    closed->Stop();
  } else {
    result.arrivals = absl::StrCat("Poisson, ", options.rate, " a second");
    result.not_started = RunOpen(options, interrupt, &flight, &reporter);
  }
  result.window_seconds = std::min(flight.elapsed(), absl::ToDoubleSeconds(options.window));
  const double drain_end = flight.elapsed() + absl::ToDoubleSeconds(options.drain_limit);
  while (!flight.AwaitFewerThan(1, kLook)) {
    if (interrupt->triggered() || flight.elapsed() > drain_end) flight.CancelAll();
    reporter.MaybeReport();
  }
  closed.reset();
  result.wall_seconds = flight.elapsed();
  flight.TakeInto(&result);
  result.images_per_request = options.request.count();
  result.in_flight_bound = options.in_flight_bound;
  if (options.deadline != absl::InfiniteDuration()) {
    result.deadline_seconds = absl::ToDoubleSeconds(options.deadline);
  }
  if (!interrupt->triggered()) RETURN_IF_ERROR(small.Make(options.unary_calls));
  result.unary_seconds = small.Take();
  return result;
}

}  // namespace diffmoe
