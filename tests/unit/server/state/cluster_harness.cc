#include "tests/unit/server/state/cluster_harness.h"

#include <utility>

#include "server/state/records.h"

namespace diffmoe::server {

v1::TrainingSpec TestSpec(const std::string& name, int ranks) {
  v1::TrainingSpec spec;
  spec.set_name(name);
  v1::ModelSpec* model = spec.mutable_model();
  model->set_family(v1::FAMILY_DIFFMOE);
  model->set_classes(10);
  model->set_image_size(32);
  model->set_channels(1);
  model->set_patch_size(4);
  model->set_experts(8);
  spec.mutable_train()->set_steps(100);
  spec.mutable_parallel()->set_ranks(ranks);
  spec.mutable_parallel()->set_device(v1::DEVICE_CPU);
  spec.mutable_parallel()->set_max_restarts(5);
  spec.mutable_checkpoint()->set_every_steps(10);
  spec.mutable_checkpoint()->set_keep(2);
  return spec;
}

worker::v1::RunningRank Running(const std::string& group, int64_t epoch, int rank, int slot) {
  worker::v1::RunningRank running;
  running.mutable_group()->set_id(group);
  running.mutable_group()->set_epoch(epoch);
  running.set_rank(rank);
  running.set_slot(slot);
  return running;
}

void ClusterHarness::Apply(const Event& event) {
  for (Effect& effect : Step(state, event, now)) {
    if (const auto* write = std::get_if<WriteRecord>(&effect)) {
      records[write->key] = write->value;
    } else if (const auto* erase = std::get_if<DeleteRecord>(&effect)) {
      records.erase(erase->key);
    } else {
      if (const auto* reply = std::get_if<Reply>(&effect)) {
        last_status = reply->status;
        last_job = reply->job;
      }
      if (const auto* end = std::get_if<SampleEnd>(&effect)) sample_ends[end->call] = end->status;
      if (const auto* send = std::get_if<SendToSampler>(&effect)) {
        const worker::v1::SamplerCommand& command = send->command;
        if (command.has_sample_task()) {
          task_sessions_[command.sample_task().request_id()] = send->session;
        }
        if (command.has_calibrate_task()) {
          task_sessions_[command.calibrate_task().request_id()] = send->session;
        }
      }
      effects.push_back(std::move(effect));
    }
  }
}

void ClusterHarness::ApplyBatch(const Event& event) {
  Apply(event);
  if (ScheduleDue(state)) Apply(Schedule{});
}

void ClusterHarness::Post(const Event& event) {
  if (NextWakeupMs(state) <= now.monotonic_ms) ApplyBatch(Tick{});
  ApplyBatch(event);
}

void ClusterHarness::Advance(int64_t ms) {
  const int64_t until_ms = now.monotonic_ms + ms;
  while (true) {
    const int64_t next_ms = std::min(NextWakeupMs(state), until_ms);
    const int64_t delta_ms = std::max<int64_t>(0, next_ms - now.monotonic_ms);
    now.monotonic_ms += delta_ms;
    now.unix_ms += delta_ms;
    if (NextWakeupMs(state) > now.monotonic_ms) return;
    ApplyBatch(Tick{});
    if (NextWakeupMs(state) <= now.monotonic_ms) ++now.monotonic_ms;  // a tick that changes nothing
  }
}

void ClusterHarness::Restart() {
  const std::vector<std::pair<std::string, std::string>> loaded(records.begin(), records.end());
  auto again = LoadState(loaded, state.options);
  last_status = again.status();
  if (!again.ok()) return;
  state = *std::move(again);
  effects.clear();
  now.monotonic_ms += 500;
  now.unix_ms += 500;
  ApplyBatch(Restarted{});
}

std::string ClusterHarness::Submit(const v1::TrainingSpec& spec, const std::string& request_id,
                                   const std::string& hash) {
  last_job.Clear();
  Post(SubmitJob{next_number_++, spec, {request_id, hash, 0, {}}});
  return last_job.id();
}

std::string ClusterHarness::SubmitWithPriority(const v1::TrainingSpec& spec, int priority) {
  last_job.Clear();
  Post(SubmitJob{next_number_++, spec, {"", "h", priority, {}}});
  return last_job.id();
}

std::string ClusterHarness::Fork(const std::string& job_id, std::optional<int64_t> step,
                                 std::optional<v1::TrainingSpec> spec) {
  last_job.Clear();
  Post(ForkJob{next_number_++, job_id, step, std::move(spec), {}});
  return last_job.id();
}

std::string ClusterHarness::Retry(const std::string& job_id) {
  last_job.Clear();
  Post(RetryJob{next_number_++, job_id, {}});
  return last_job.id();
}

absl::Status ClusterHarness::Pause(const std::string& job_id) {
  Post(PauseJob{next_number_++, job_id});
  return last_status;
}

absl::Status ClusterHarness::Resume(const std::string& job_id) {
  Post(ResumeJob{next_number_++, job_id});
  return last_status;
}

absl::Status ClusterHarness::SetPriority(const std::string& job_id, int priority) {
  Post(UpdateJob{next_number_++, job_id, priority, {}, {}});
  return last_status;
}

absl::Status ClusterHarness::Pin(const std::string& job_id, int64_t step, bool pinned) {
  Post(PinCheckpoint{next_number_++, job_id, step, pinned});
  return last_status;
}

absl::Status ClusterHarness::DeleteCheckpoint(const std::string& job_id, int64_t step) {
  Post(DeleteJobCheckpoint{next_number_++, job_id, step});
  return last_status;
}

absl::Status ClusterHarness::Cancel(const std::string& job_id) {
  Post(CancelJob{next_number_++, job_id});
  return last_status;
}

uint64_t ClusterHarness::Connect(const std::string& worker_id, int slots,
                                 const std::vector<worker::v1::RunningRank>& running) {
  WorkerHello event{next_number_++, {}};
  event.hello.set_worker_id(worker_id);
  event.hello.set_host("host");
  for (int i = 0; i < slots; ++i) event.hello.add_slot_devices("cpu");
  for (const auto& rank : running) *event.hello.add_running() = rank;
  Post(event);
  return event.session;
}

void ClusterHarness::Started(uint64_t session, const std::string& group, int64_t epoch, int rank) {
  RankStarted event{session, {}};
  event.message.mutable_group()->set_id(group);
  event.message.mutable_group()->set_epoch(epoch);
  event.message.set_rank(rank);
  Post(event);
  if (state.samplers.contains(group)) ConnectSampler(session, group, epoch);
}

uint64_t ClusterHarness::ConnectSampler(uint64_t session, const std::string& group, int64_t epoch) {
  SamplerConnected event{next_number_++, {}};
  event.group.set_id(group);
  event.group.set_epoch(epoch);
  samplers_[event.session] = {session, event.group};
  Post(event);
  return event.session;
}

void ClusterHarness::Report(uint64_t session, const std::string& group, int64_t epoch,
                            int64_t step) {
  RankReported event{session, {}};
  event.message.mutable_group()->set_id(group);
  event.message.mutable_group()->set_epoch(epoch);
  event.message.mutable_progress()->set_step(step);
  v1::LayerStats* layer = event.message.mutable_progress()->add_layers();
  layer->set_block(1);
  layer->add_thresholds(0.5f);
  event.message.add_records()->set_step(step);
  Post(event);
}

namespace {

RankExited Exit(uint64_t session, const std::string& group, int64_t epoch, int rank,
                worker::v1::ExitCause cause) {
  RankExited event{session, {}};
  event.message.mutable_group()->set_id(group);
  event.message.mutable_group()->set_epoch(epoch);
  event.message.set_rank(rank);
  event.message.set_cause(cause);
  return event;
}

}  // namespace

void ClusterHarness::Done(uint64_t session, const std::string& group, int64_t epoch, int rank,
                          int64_t step) {
  RankExited event = Exit(session, group, epoch, rank, worker::v1::EXIT_CAUSE_DONE);
  event.message.set_step(step);
  Post(event);
}

void ClusterHarness::Killed(uint64_t session, const std::string& group, int64_t epoch, int rank,
                            int signal) {
  RankExited event = Exit(session, group, epoch, rank, worker::v1::EXIT_CAUSE_SIGNAL);
  event.message.set_signal(signal);
  Post(event);
}

void ClusterHarness::Errored(uint64_t session, const std::string& group, int64_t epoch, int rank,
                             absl::StatusCode code, const std::string& message, int64_t step) {
  RankExited event = Exit(session, group, epoch, rank, worker::v1::EXIT_CAUSE_ERROR);
  event.message.set_status_code(static_cast<int>(code));
  event.message.set_message(message);
  event.message.set_step(step);
  Post(event);
}

void ClusterHarness::Stopped(uint64_t session, const std::string& group, int64_t epoch, int rank) {
  Post(Exit(session, group, epoch, rank, worker::v1::EXIT_CAUSE_STOPPED));
}

absl::Status ClusterHarness::CommitCheckpoint(const std::string& job_id, int64_t epoch,
                                              int64_t step) {
  server::CommitManifest event{next_number_++, {}};
  event.manifest.set_job_id(job_id);
  event.manifest.set_epoch(epoch);
  event.manifest.set_step(step);
  event.manifest.mutable_summary()->add_blocks(1);
  event.manifest.mutable_summary()->set_experts(2);
  event.manifest.mutable_summary()->add_thresholds(0.25f);
  event.manifest.mutable_summary()->add_thresholds(0.75f);
  Post(event);
  return last_status;
}

uint64_t ClusterHarness::Sample(const std::string& job_id, std::optional<int64_t> step, int count,
                                int64_t deadline_in_ms) {
  SubmitSample event{next_number_++, job_id, step, {}, deadline_in_ms};
  event.request.add_classes(3);
  event.request.set_count(count);
  event.request.set_seed(7);
  Post(event);
  return event.call;
}

void ClusterHarness::Update(const worker::v1::SampleTask& task,
                            const v1::SampleResponse& response) {
  worker::v1::SampleUpdate update;
  update.set_request_id(task.request_id());
  *update.mutable_response() = response;
  Say(std::move(update));
}

void ClusterHarness::Say(worker::v1::SampleUpdate update) {
  SamplerUpdated event{task_sessions_.at(update.request_id()), {}};
  *event.updates.add_updates() = std::move(update);
  Post(event);
}

void ClusterHarness::FinishSample(const worker::v1::SampleTask& task) {
  v1::SampleResponse response;
  for (int i = 0; i < task.request().count(); ++i) {
    response.mutable_image()->set_index(i);
    Update(task, response);
  }
  response.mutable_finished()->mutable_receipt()->set_seconds(1.5);
  Update(task, response);
}

void ClusterHarness::Load(const worker::v1::GroupId& group, double base_seconds, double row_seconds,
                          int64_t rows_waiting, int requests, int width_rows) {
  SamplerUpdated event;
  for (const auto& [number, sampler] : samplers_) {
    if (sampler.group.id() == group.id()) event.session = number;
  }
  worker::v1::SamplerLoad* load = event.updates.add_updates()->mutable_load();
  load->set_step_base_seconds(base_seconds);
  load->set_step_row_seconds(row_seconds);
  load->set_rows_waiting(rows_waiting);
  load->set_requests(requests);
  load->set_width_rows(width_rows);
  Post(event);
}

uint64_t ClusterHarness::Submit(SubmitSample event) {
  event.call = next_number_++;
  if (event.request.classes().empty()) event.request.add_classes(3);
  if (event.request.count() == 0) event.request.set_count(1);
  if (!event.request.has_seed()) event.request.set_seed(7);
  Post(event);
  return event.call;
}

uint64_t ClusterHarness::Calibrate(SubmitCalibration event) {
  event.call = next_number_++;
  Post(event);
  return event.call;
}

absl::Status ClusterHarness::CancelById(const std::string& request_id) {
  Post(CancelSampleById{next_number_++, request_id});
  return last_status;
}

void ClusterHarness::SampleFailed(const worker::v1::SampleTask& task, absl::StatusCode code) {
  worker::v1::SampleUpdate update;
  update.set_request_id(task.request_id());
  update.mutable_error()->set_status_code(static_cast<int>(code));
  update.mutable_error()->set_message("said by the sampler");
  Say(std::move(update));
}

std::vector<worker::v1::StartRank> ClusterHarness::starts(uint64_t session) const {
  std::vector<worker::v1::StartRank> found;
  for (const SendToWorker& send : all<SendToWorker>()) {
    if (send.session == session && send.message.has_start_rank()) {
      found.push_back(send.message.start_rank());
    }
  }
  return found;
}

std::vector<worker::v1::StopGroup> ClusterHarness::stops(uint64_t session) const {
  std::vector<worker::v1::StopGroup> found;
  for (const SendToWorker& send : all<SendToWorker>()) {
    if (send.session == session && send.message.has_stop_group()) {
      found.push_back(send.message.stop_group());
    }
  }
  return found;
}

std::vector<worker::v1::SampleTask> ClusterHarness::tasks(uint64_t session) const {
  std::vector<worker::v1::SampleTask> found;
  for (const SendToSampler& send : all<SendToSampler>()) {
    if (samplers_.at(send.session).worker_session == session && send.command.has_sample_task()) {
      found.push_back(send.command.sample_task());
    }
  }
  return found;
}

std::vector<worker::v1::CalibrateTask> ClusterHarness::calibrate_tasks() const {
  std::vector<worker::v1::CalibrateTask> found;
  for (const SendToSampler& send : all<SendToSampler>()) {
    if (send.command.has_calibrate_task()) found.push_back(send.command.calibrate_task());
  }
  return found;
}

int ClusterHarness::cancelled_tasks(uint64_t session) const {
  int count = 0;
  for (const SendToSampler& send : all<SendToSampler>()) {
    const bool here = samplers_.at(send.session).worker_session == session;
    if (here && send.command.has_cancel_sample()) ++count;
  }
  return count;
}

std::vector<v1::SampleResponse> ClusterHarness::responses(uint64_t call) const {
  std::vector<v1::SampleResponse> found;
  for (const SampleEvent& event : all<SampleEvent>()) {
    if (event.call == call) found.push_back(event.response);
  }
  return found;
}

std::vector<std::string> ClusterHarness::events(const std::string& job_id) const {
  std::vector<std::string> messages;
  for (const auto& [key, value] : records) {
    if (!key.starts_with(EventsPrefix(job_id))) continue;
    v1::JobEvent event;
    event.ParseFromString(value);
    messages.push_back(event.message());
  }
  return messages;
}

RunningJob StartRunningJob(ClusterHarness& cluster, int ranks, int slots) {
  RunningJob running;
  running.session = cluster.Connect("w1", slots);
  running.id = cluster.Submit(TestSpec("job", ranks));
  for (int rank = 0; rank < ranks; ++rank) cluster.Started(running.session, running.id, 1, rank);
  cluster.Report(running.session, running.id, 1, 12);
  cluster.last_status = cluster.CommitCheckpoint(running.id, 1, 10);
  cluster.Clear();
  return running;
}

}  // namespace diffmoe::server
