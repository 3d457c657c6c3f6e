#include "tests/simulation/client.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace diffmoe::simulation {
namespace {

constexpr int64_t kTimeoutMs = 3000;

bool AskAgain(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

}  // namespace

Client::Client(World* world, Network* network, Coordinator* coordinator, Checker* checker,
               JobPlans* plans, const std::string& name)
    : world_(world),
      network_(network),
      coordinator_(coordinator),
      checker_(checker),
      plans_(plans),
      name_(name),
      samples_(world, network, coordinator, name) {}

void Client::Later(int64_t delay_ms, std::function<void()> task) {
  ++busy_;
  world_->time.After(delay_ms, [this, task = std::move(task)] {
    --busy_;
    task();
  });
}

v1::TrainingSpec Client::NewSpec() {
  Random& random = world_->random;
  v1::TrainingSpec spec;
  spec.set_name(absl::StrCat(name_, "-job", ++specs_));
  spec.mutable_model()->set_classes(10);
  spec.mutable_train()->set_steps(random.Chance(0.2) ? random.Between(150, 300)
                                                     : random.Between(5, 40));
  spec.mutable_parallel()->set_ranks(static_cast<int>(random.Pick<int64_t>({1, 1, 2, 2, 3, 4})));
  spec.mutable_parallel()->set_device(v1::DEVICE_CPU);
  spec.mutable_parallel()->set_max_restarts(static_cast<int>(random.Between(2, 6)));
  if (random.Chance(0.3)) spec.mutable_parallel()->set_min_ranks(1);
  spec.mutable_checkpoint()->set_every_steps(random.Between(3, 10));
  spec.mutable_checkpoint()->set_keep(static_cast<int>(random.Between(1, 3)));
  JobPlan plan;
  plan.step_ms = random.Between(40, 300);
  plan.priority = static_cast<int>(random.Pick<int64_t>({0, 0, 0, -5, 5, 10}));
  if (random.Chance(0.08)) plan.kind = JobKind::kBadInput;
  if (random.Chance(0.08)) {
    plan.kind = JobKind::kRepeatedError;
    plan.error_step = random.Between(1, spec.train().steps() - 1);
  }
  (*plans_)[spec.name()] = plan;
  return spec;
}

void Client::Begin(int jobs, int64_t duration_ms) {
  end_ms_ = world_->time.now_ms() + duration_ms;
  for (int i = 0; i < jobs; ++i) {
    const v1::TrainingSpec spec = NewSpec();
    const std::string request_id = absl::StrCat("request-", spec.name());
    Later(world_->random.Between(0, duration_ms * 3 / 4),
          [this, spec, request_id] { Submit(spec, request_id); });
  }
}

void Client::Submit(const v1::TrainingSpec& spec, const std::string& request_id) {
  ++busy_;
  waits_for_ = absl::StrCat("the submit ", request_id);
  network_->Call(
      name_, kTimeoutMs,
      [=, this](Network::Answer answer) {
        coordinator_->Submit(spec, request_id, plans_->at(spec.name()).priority, answer);
      },
      [=, this](const server::Reply& reply) {
        --busy_;
        OnSubmitted(spec, request_id, reply);
      });
}

void Client::OnSubmitted(const v1::TrainingSpec& spec, const std::string& request_id,
                         const server::Reply& reply) {
  if (AskAgain(reply.status)) {
    return Later(world_->random.Between(100, 2000),
                 [this, spec, request_id] { Submit(spec, request_id); });
  }
  if (!reply.status.ok()) {
    return world_->Violate("a valid job is taken",
                           absl::StrCat(request_id, ": ", reply.status.ToString()));
  }
  const auto [known, added] = jobs_.emplace(request_id, reply.job.id());
  world_->trace.Line(name_, request_id, " is ", reply.job.id());
  if (known->second != reply.job.id()) {
    return world_->Violate(
        "one job per request_id",
        absl::StrCat(request_id, " was ", known->second, ", now it is ", reply.job.id()));
  }
  if (!added) return;
  // The same request again, as a proxy may send it.
  if (world_->random.Chance(0.4)) {
    Later(world_->random.Between(1, 20'000),
          [this, spec, request_id] { Submit(spec, request_id); });
  }
  UseJob(reply.job.id());
}

void Client::UseJob(const std::string& job_id) {
  Random& random = world_->random;
  if (random.Chance(0.3)) {
    Later(random.Between(0, 15'000), [this, job_id] { Cancel(job_id); });
  }
  if (random.Chance(0.25)) {
    Later(random.Between(0, 20'000), [this, job_id] { PauseAndPerhapsResume(job_id); });
  }
  if (random.Chance(0.2)) {
    Later(random.Between(0, 20'000), [this, job_id] { SetPriority(job_id); });
  }
  if (random.Chance(0.2)) {
    Later(random.Between(1000, 25'000),
          [this, job_id] { MakeAnother(job_id, absl::StrCat("another-", job_id)); });
  }
  const int64_t gets = random.Between(0, 3);
  for (int64_t i = 0; i < gets; ++i) {
    Later(random.Between(0, 30'000), [this, job_id] { Get(job_id); });
  }
  samples_.UseJob(job_id);
}

void Client::Change(const std::string& what, const std::string& job_id,
                    std::function<void(Network::Answer)> serve, std::function<void()> done) {
  ++busy_;
  waits_for_ = absl::StrCat(what, " ", job_id);
  world_->trace.Line(name_, what, " ", job_id);
  network_->Call(name_, kTimeoutMs, serve, [=, this](const server::Reply& reply) {
    --busy_;
    if (AskAgain(reply.status)) {
      Later(world_->random.Between(100, 2000), [=, this] { Change(what, job_id, serve, done); });
    } else if (!reply.status.ok() && !absl::IsFailedPrecondition(reply.status) &&
               !absl::IsInvalidArgument(reply.status) && !absl::IsDataLoss(reply.status)) {
      // A fork may find that no step is left, or that the checkpoint is damaged.
      world_->Violate("a valid request is taken",
                      absl::StrCat(what, " ", job_id, ": ", reply.status.ToString()));
    } else {
      done();
    }
  });
}

void Client::PauseAndPerhapsResume(const std::string& job_id) {
  Change(
      "pauses", job_id, [=, this](Network::Answer answer) { coordinator_->Pause(job_id, answer); },
      [=, this] {
        if (world_->random.Chance(0.3)) return;
        Later(world_->random.Between(0, 15'000), [=, this] {
          Change(
              "resumes", job_id,
              [=, this](Network::Answer answer) { coordinator_->Resume(job_id, answer); }, [] {});
        });
      });
}

void Client::SetPriority(const std::string& job_id) {
  const int priority = static_cast<int>(world_->random.Between(-10, 10));
  Change(
      "changes the priority of", job_id,
      [=, this](Network::Answer answer) { coordinator_->SetPriority(job_id, priority, answer); },
      [] {});
}

void Client::MakeAnother(const std::string& job_id, const std::string& request_id) {
  const bool retry = world_->random.Chance(0.5);
  Change(
      retry ? "retries" : "forks", job_id,
      [=, this](Network::Answer answer) {
        if (retry) return coordinator_->Retry(job_id, request_id, answer);
        coordinator_->Fork(job_id, request_id, answer);
      },
      [] {});
}

void Client::Cancel(const std::string& job_id) {
  ++busy_;
  world_->trace.Line(name_, "cancels ", job_id);
  network_->Call(
      name_, kTimeoutMs,
      [=, this](Network::Answer answer) { coordinator_->Cancel(job_id, answer); },
      [=, this](const server::Reply& reply) {
        --busy_;
        if (AskAgain(reply.status)) {
          Later(world_->random.Between(100, 2000), [this, job_id] { Cancel(job_id); });
        } else if (!reply.status.ok() && !absl::IsFailedPrecondition(reply.status)) {
          world_->Violate("a cancel is taken", absl::StrCat(job_id, ": ", reply.status.ToString()));
        } else {
          world_->trace.Line(name_, "cancel of ", job_id,
                             " is answered: ", absl::StatusCodeToString(reply.status.code()));
        }
      });
}

void Client::Get(const std::string& job_id) {
  ++busy_;
  network_->Call(
      name_, kTimeoutMs,
      [=, this](Network::Answer answer) { coordinator_->GetJob(job_id, answer); },
      [=, this](const server::Reply& reply) {
        --busy_;
        if (!absl::IsNotFound(reply.status)) return;
        world_->Violate("an acknowledged job is never lost", absl::StrCat(job_id, " isn't found"));
      });
}

}  // namespace diffmoe::simulation
