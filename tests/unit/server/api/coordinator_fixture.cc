#include "tests/unit/server/api/coordinator_fixture.h"

#include "tests/support/wait.h"

namespace diffmoe::server {

CoordinatorFixture::CoordinatorFixture() {
  options_.data_dir = dir_.Sub("data");
  options_.listen = "127.0.0.1:0";
  options_.metrics_listen = "";  // its endpoint takes 2 s to close
  options_.state.adoption_grace_ms = 2000;
  options_.state.missing_rank_grace_ms = 200;
  options_.state.worker_grace_ms = 1000;
}

void CoordinatorFixture::Start() {
  auto coordinator = Coordinator::Start(options_, [](const absl::Status& status) {
    ADD_FAILURE() << "the store failed: " << status;
  });
  ASSERT_TRUE(coordinator.ok()) << coordinator.status();
  coordinator_ = *std::move(coordinator);
  channel_ = grpc::CreateChannel(coordinator_->grpc_address(), grpc::InsecureChannelCredentials());
  jobs_ = v1::TrainingJobService::NewStub(channel_);
  checkpoints_ = v1::CheckpointService::NewStub(channel_);
  sampling_ = v1::SamplingService::NewStub(channel_);
  cluster_ = v1::ClusterService::NewStub(channel_);
}

v1::TrainingSpec CoordinatorFixture::GoodSpec(int ranks) {
  v1::TrainingSpec spec;
  spec.set_name("fashion");
  v1::ModelSpec* model = spec.mutable_model();
  model->set_image_size(32);
  model->set_channels(1);
  model->set_patch_size(4);
  model->set_width(64);
  model->set_depth(2);
  model->set_heads(2);
  model->set_classes(10);
  model->set_experts(4);
  spec.mutable_data()->set_format(v1::DATA_FORMAT_IDX);
  spec.mutable_data()->set_path("/data/fashion");
  spec.mutable_train()->set_steps(100);
  spec.mutable_train()->set_global_batch(16);
  spec.mutable_parallel()->set_ranks(ranks);
  return spec;
}

grpc::Status CoordinatorFixture::Submit(const v1::TrainingSpec& spec, const std::string& request_id,
                                        v1::Job* job) {
  grpc::ClientContext context;
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(request_id);
  return jobs_->SubmitJob(&context, request, job);
}

v1::Job CoordinatorFixture::Get(const std::string& id) {
  grpc::ClientContext context;
  v1::GetJobRequest request;
  request.set_name("jobs/" + id);
  v1::Job job;
  const grpc::Status status = jobs_->GetJob(&context, request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

v1::Job CoordinatorFixture::WaitFor(const std::string& id,
                                    const std::function<bool(const v1::Job&)>& condition) {
  v1::Job job;
  test::WaitUntil(absl::Seconds(10), [&] {
    job = Get(id);
    return condition(job);
  });
  return job;
}

v1::Job CoordinatorFixture::WaitForState(const std::string& id, v1::JobState state) {
  const v1::Job job = WaitFor(id, [state](const v1::Job& j) { return j.state() == state; });
  EXPECT_EQ(job.state(), state) << v1::JobState_Name(job.state()) << ": " << job.reason();
  return job;
}

v1::ErrorDetails CoordinatorFixture::DetailsOf(const grpc::Status& status) {
  v1::StatusDetails outer;
  v1::ErrorDetails details;
  if (outer.ParseFromString(status.error_details()) && outer.details_size() == 1) {
    outer.details(0).UnpackTo(&details);
  }
  return details;
}

}  // namespace diffmoe::server
