// ClusterService: what the loop knows of workers and slots. Thread-safe; nothing is owned.
#pragma once

#include <string>

#include "diffmoe/v1/cluster.grpc.pb.h"
#include "server/loop.h"

namespace diffmoe::server {

// What a coordinator says about itself.
struct CoordinatorInfo {
  std::string data_dir;
  std::string metrics_address;
};

class ClusterService final : public v1::ClusterService::CallbackService {
 public:
  ClusterService(Loop* loop, CoordinatorInfo info) : loop_(loop), info_(std::move(info)) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context,
                                       const v1::GetClusterRequest* request,
                                       v1::Cluster* response) override;

 private:
  Loop* loop_;
  const CoordinatorInfo info_;
};

}  // namespace diffmoe::server
