// ClusterService: what the loop knows of workers and slots; backup and verification of the store,
// in a thread per call. Thread-safe; nothing is owned.
#pragma once

#include <string>

#include "diffmoe/v1/cluster.grpc.pb.h"
#include "server/checkpoints/store_maintenance.h"
#include "server/loop.h"

namespace diffmoe::server {

// What a coordinator says about itself.
struct CoordinatorInfo {
  std::string data_dir;
  std::string metrics_address;
};

// BackUpStore and VerifyStore block, so they are no callback methods.
using ClusterServiceBase = v1::ClusterService::WithCallbackMethod_ListWorkers<
    v1::ClusterService::WithCallbackMethod_GetCluster<v1::ClusterService::Service>>;

class ClusterService final : public ClusterServiceBase {
 public:
  ClusterService(Loop* loop, StoreMaintenance* maintenance, CoordinatorInfo info)
      : loop_(loop), maintenance_(maintenance), info_(std::move(info)) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context,
                                       const v1::GetClusterRequest* request,
                                       v1::Cluster* response) override;

  grpc::Status BackUpStore(grpc::ServerContext* context, const v1::BackUpStoreRequest* request,
                           v1::BackUpStoreResponse* response) override;
  grpc::Status VerifyStore(grpc::ServerContext* context, const v1::VerifyStoreRequest* request,
                           grpc::ServerWriter<v1::VerifyStoreResponse>* writer) override;

 private:
  Loop* loop_;
  StoreMaintenance* maintenance_;
  const CoordinatorInfo info_;
};

}  // namespace diffmoe::server
