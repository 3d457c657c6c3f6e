#include "server/coordinator.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/base/version.h"
#include "core/metrics/metrics.h"
#include "core/metrics/metrics_server.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"
#include "server/api/checkpoint_service.h"
#include "server/api/cluster_service.h"
#include "server/api/rpc_observer.h"
#include "server/api/sampler_plane_service.h"
#include "server/api/sampling_service.h"
#include "server/api/training_job_service.h"
#include "server/api/worker_plane_service.h"
#include "server/checkpoint_deleter.h"
#include "server/checkpoints/bulk_plane_service.h"
#include "server/checkpoints/store_maintenance.h"
#include "server/effect_executor.h"
#include "server/errors.h"
#include "server/group_table.h"
#include "server/http/api_gateway.h"
#include "server/http/console_pages.h"
#include "server/loop_host.h"
#include "server/state/records.h"
#include "server/state/step.h"

namespace diffmoe::server {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;
constexpr int kMaxThreads = 2048;
constexpr int kKeepaliveMs = 20'000;
// Streams of the HTTP API, and threads for everything else on that port.
constexpr int kHttpStreams = 32, kHttpThreads = 16;
constexpr auto kDrainTime = std::chrono::seconds(2);

// Host of "HOST:PORT".
absl::StatusOr<std::string> HostOf(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen: expected HOST:PORT, got \"", listen, "\""));
  }
  return listen.substr(0, colon);
}

std::mt19937_64 SeededGenerator() {
  std::random_device device;
  std::seed_seq seed{device(), device(), device(), device()};
  return std::mt19937_64(seed);
}

struct Loaded {
  State state;
  std::vector<worker::v1::Manifest> manifests;
};

absl::StatusOr<Loaded> LoadRecords(const RecordStore& records, const StateOptions& options) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const char* prefix : {kHeaderKey, kJobsPrefix, kManifestsPrefix, kCalibrationsPrefix}) {
    RETURN_IF_ERROR(records.Scan(prefix, [&all](std::string_view key, std::string_view value) {
      all.emplace_back(key, value);
      return true;
    }));
  }
  ASSIGN_OR_RETURN(State state, LoadState(all, options));
  Loaded loaded{std::move(state), {}};
  for (const auto& [key, value] : all) {
    if (!key.starts_with(kManifestsPrefix)) continue;
    loaded.manifests.emplace_back().ParseFromString(value);  // LoadState has parsed it before
  }
  return loaded;
}

class CoordinatorImpl final : public Coordinator {
 public:
  CoordinatorImpl(CoordinatorOptions options, std::function<void(absl::Status)> on_fatal)
      : options_(std::move(options)), on_fatal_(std::move(on_fatal)) {}
  ~CoordinatorImpl() override { Stop(); }

  absl::Status Open();
  const std::string& grpc_address() const override { return grpc_address_; }
  const std::string& metrics_address() const override { return metrics_address_; }
  void Stop() override;

 private:
  void BuildParts(State state);
  absl::Status Reconcile(const std::vector<worker::v1::Manifest>& manifests);
  void ServeHttp();
  void ShowLastCheckpoints(const std::vector<worker::v1::Manifest>& manifests, const State& state);
  absl::Status Serve();
  absl::Status WriteAddressFile() const;

  const CoordinatorOptions options_;
  const std::function<void(absl::Status)> on_fatal_;
  SystemClock clock_;

  metrics::Registry registry_{"diffmoe-coordinator", kVersion};
  metrics::ClusterMetrics cluster_metrics_{registry_};
  metrics::CheckpointMetrics checkpoint_metrics_{registry_};
  metrics::SampleMetrics sample_metrics_{registry_};
  metrics::RpcMetrics rpc_metrics_{registry_};
  metrics::StoreMetrics store_metrics_{registry_};

  // In order of construction; destroyed in reverse.
  std::unique_ptr<RecordStore> records_;
  std::unique_ptr<ChunkStore> chunks_;
  std::unique_ptr<metrics::MetricsServer> metrics_server_;
  CallTable calls_;
  GroupTable groups_;
  std::unique_ptr<LoopHost> host_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  std::unique_ptr<CheckpointDeleter> deleter_;
  std::unique_ptr<StoreMaintenance> maintenance_;
  std::unique_ptr<BulkPlaneService> bulk_;
  LoopEffectExecutor executor_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<WatchHub> hub_;
  std::unique_ptr<SampleStreams> samples_;
  std::unique_ptr<CalibrationStreams> calibrations_;
  std::unique_ptr<WorkerPlaneService> worker_plane_;
  std::unique_ptr<SamplerPlaneService> sampler_plane_;
  std::unique_ptr<Tracer> tracer_;  // may be null
  std::unique_ptr<CallTraces> traces_;
  std::unique_ptr<LogReads> log_reads_;
  std::unique_ptr<TrainingJobService> job_service_;
  std::unique_ptr<CheckpointService> checkpoint_service_;
  std::unique_ptr<SamplingService> sampling_service_;
  std::unique_ptr<ClusterService> cluster_service_;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex random_mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(random_mutex_) = SeededGenerator();
  std::shared_ptr<ApiGateway> gateway_;
  std::string host_name_, grpc_address_, metrics_address_;
  bool stopped_ = false;
};

absl::Status CoordinatorImpl::Open() {
  ASSIGN_OR_RETURN(records_, RecordStore::Open(options_.data_dir + "/records",
                                               {.accept_loss = options_.accept_data_loss}));
  RemoveUnfinished(options_.data_dir + "/coordinator.json");  // the records' lock is held
  ASSIGN_OR_RETURN(chunks_, ChunkStore::Open(options_.data_dir + "/chunks",
                                             {.accept_loss = options_.accept_data_loss}));
  ASSIGN_OR_RETURN(Loaded loaded, LoadRecords(*records_, options_.state));
  ASSIGN_OR_RETURN(host_name_, HostOf(options_.listen));
  if (!options_.metrics_listen.empty()) {
    ASSIGN_OR_RETURN(metrics_server_,
                     metrics::MetricsServer::Start(options_.metrics_listen, registry_,
                                                   kHttpStreams + kHttpThreads));
    metrics_address_ = metrics_server_->address();
  }
  if (!options_.trace_file.empty()) {
    ASSIGN_OR_RETURN(tracer_,
                     Tracer::Open({options_.trace_file, "diffmoe-coordinator"},
                                  [engine = std::mt19937_64(std::random_device()())]() mutable {
                                    return engine();
                                  }));
  }
  KillPoint("coordinator.loaded");
  ShowLastCheckpoints(loaded.manifests, loaded.state);
  BuildParts(std::move(loaded.state));
  RETURN_IF_ERROR(Reconcile(loaded.manifests));
  KillPoint("coordinator.reconciled");
  loop_->Start();
  RETURN_IF_ERROR(Serve());
  ServeHttp();
  KillPoint("coordinator.before_address");
  RETURN_IF_ERROR(WriteAddressFile());
  LogInfo(
      "coordinator", "ready",
      {{"grpc", grpc_address_}, {"metrics", metrics_address_}, {"data_dir", options_.data_dir}});
  return absl::OkStatus();
}

void CoordinatorImpl::BuildParts(State state) {
  host_ = std::make_unique<LoopHost>(records_.get(), &calls_, &groups_);
  checkpoints_ = std::make_unique<CheckpointStore>(chunks_.get(), host_.get());
  deleter_ = std::make_unique<CheckpointDeleter>(checkpoints_.get());
  maintenance_ = std::make_unique<StoreMaintenance>(options_.data_dir, records_.get(),
                                                    chunks_.get(), checkpoints_.get());
  bulk_ = std::make_unique<BulkPlaneService>(checkpoints_.get(), host_.get(), &checkpoint_metrics_,
                                             &clock_);
  loop_ = std::make_unique<Loop>(
      std::move(state),
      [records = records_.get()](const std::vector<RecordWrite>& writes) {
        return records->Commit(writes);
      },
      &clock_, &executor_, on_fatal_, options_.loop);
  host_->SetLoop(loop_.get());
  hub_ = std::make_unique<WatchHub>();
  const auto cancelled = [loop = loop_.get()](uint64_t call) {
    // After the loop has stopped nothing needs to be freed.
    loop->Post(CancelSample{call}).IgnoreError();
  };
  samples_ = std::make_unique<SampleStreams>(cancelled);
  calibrations_ = std::make_unique<CalibrationStreams>(cancelled);
  worker_plane_ = std::make_unique<WorkerPlaneService>(loop_.get(), &calls_);
  sampler_plane_ = std::make_unique<SamplerPlaneService>(loop_.get(), &calls_);
  traces_ = std::make_unique<CallTraces>(tracer_.get());
  log_reads_ = std::make_unique<LogReads>(
      loop_.get(),
      [plane = worker_plane_.get()](uint64_t session, worker::v1::CoordinatorMessage message) {
        plane->Send(session, std::move(message));
      },
      options_.logs);
  log_reads_->Start();
  bulk_->SetLogSink(log_reads_.get());
  job_service_ = std::make_unique<TrainingJobService>(loop_.get(), &calls_, records_.get(),
                                                      hub_.get(), log_reads_.get(), traces_.get());
  checkpoint_service_ = std::make_unique<CheckpointService>(
      loop_.get(), &calls_, records_.get(), checkpoints_.get(), &checkpoint_metrics_);
  const auto draw = [this] {
    absl::MutexLock lock(&random_mutex_);
    return random_();
  };
  sampling_service_ = std::make_unique<SamplingService>(SamplingParts{
      loop_.get(), &calls_, samples_.get(), calibrations_.get(), traces_.get(), draw});
  cluster_service_ = std::make_unique<ClusterService>(
      loop_.get(), maintenance_.get(), CoordinatorInfo{options_.data_dir, metrics_address_});
  executor_.SetParts({.clock = &clock_,
                      .data_dir = options_.data_dir,
                      .records = records_.get(),
                      .chunks = chunks_.get(),
                      .calls = &calls_,
                      .groups = &groups_,
                      .hub = hub_.get(),
                      .logs = log_reads_.get(),
                      .traces = traces_.get(),
                      .samples = samples_.get(),
                      .calibrations = calibrations_.get(),
                      .workers = worker_plane_.get(),
                      .samplers = sampler_plane_.get(),
                      .bulk = bulk_.get(),
                      .deleter = deleter_.get(),
                      .cluster_metrics = &cluster_metrics_,
                      .sample_metrics = &sample_metrics_,
                      .store_metrics = &store_metrics_,
                      .checkpoint_metrics = &checkpoint_metrics_});
}

absl::Status CoordinatorImpl::Reconcile(const std::vector<worker::v1::Manifest>& manifests) {
  ASSIGN_OR_RETURN(const ReconcileResult result, checkpoints_->Reconcile(manifests));
  if (result.orphans_deleted > 0) {
    LogInfo("coordinator", "removed checkpoints that were never committed",
            {{"count", result.orphans_deleted}, {"bytes", result.orphan_bytes}});
  }
  for (const DamagedCheckpoint& damaged : result.damaged) {
    RETURN_IF_ERROR(
        loop_->Post(CheckpointDamaged{damaged.id.job_id, damaged.id.step, damaged.reason}));
  }
  return absl::OkStatus();
}

void CoordinatorImpl::ShowLastCheckpoints(const std::vector<worker::v1::Manifest>& manifests,
                                          const State& state) {
  for (const worker::v1::Manifest& manifest : manifests) {
    const JobEntry& job = state.jobs.at(manifest.job_id());
    if (HasEnded(job.job().state()) || job.checkpoints.rbegin()->first != manifest.step()) continue;
    checkpoint_metrics_.SetLast(manifest.job_id(), manifest.step(), manifest.commit_time_ms());
  }
}

absl::Status CoordinatorImpl::Serve() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port);
  // Two coordinators must not share a port.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs / 2);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetResourceQuota(grpc::ResourceQuota("coordinator").SetMaxThreads(kMaxThreads));
  builder.experimental().SetInterceptorCreators(RpcObservers(&rpc_metrics_));
  builder.RegisterService(job_service_.get());
  builder.RegisterService(checkpoint_service_.get());
  builder.RegisterService(sampling_service_.get());
  builder.RegisterService(cluster_service_.get());
  builder.RegisterService(worker_plane_.get());
  builder.RegisterService(sampler_plane_.get());
  builder.RegisterService(bulk_.get());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("can't listen on ", options_.listen,
                     ": the port is in use or the address isn't this machine's"));
  }
  server_->GetHealthCheckService()->SetServingStatus(true);
  grpc_address_ = absl::StrCat(host_name_, ":", port);
  return absl::OkStatus();
}

void CoordinatorImpl::ServeHttp() {
  if (metrics_server_ == nullptr) return;
  // Through a socket: gRPC's in-process transport loses a message that comes with the end of its
  // stream.
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // lists have no bound of their own
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  gateway_ = std::make_shared<ApiGateway>(
      grpc::CreateCustomChannel(grpc_address_, grpc::InsecureChannelCredentials(), arguments),
      ApiGatewayOptions{.writes = options_.console_writes, .max_streams = kHttpStreams});
  gateway_->AddRoutes(&metrics_server_->http());
  AddConsolePages(&metrics_server_->http());
}

absl::Status CoordinatorImpl::WriteAddressFile() const {
  const nlohmann::json info = {
      {"grpc_address", grpc_address_}, {"metrics_address", metrics_address_}, {"pid", getpid()}};
  return WriteFileAtomically(options_.data_dir + "/coordinator.json", info.dump(2) + "\n");
}

void CoordinatorImpl::Stop() {
  if (stopped_ || loop_ == nullptr) return;
  stopped_ = true;
  const absl::Status status = MakeRetryableError(absl::StatusCode::kUnavailable, v1::SHUTTING_DOWN,
                                                 "the coordinator is stopping", 1000);
  if (server_ != nullptr) server_->GetHealthCheckService()->SetServingStatus(false);
  if (gateway_ != nullptr) gateway_->Shutdown();
  loop_->Stop();
  calls_.FailAll(status);
  hub_->CloseAll(status);
  log_reads_->CloseAll(status);
  samples_->CloseAll(status);
  calibrations_->CloseAll(status);
  worker_plane_->CloseAll(status);
  sampler_plane_->CloseAll(status);
  bulk_->Shutdown();
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kDrainTime);
  if (server_ != nullptr) LogInfo("coordinator", "stopped");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(
    const CoordinatorOptions& options, std::function<void(absl::Status)> on_fatal) {
  auto coordinator = std::make_unique<CoordinatorImpl>(options, std::move(on_fatal));
  RETURN_IF_ERROR(coordinator->Open());
  return coordinator;
}

}  // namespace diffmoe::server
