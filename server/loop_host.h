// CoordinatorHost over the loop. Thread-safe; nothing is owned. Destroy it after the gRPC server
// and after the loop.
#pragma once

#include <string>

#include "core/storage/record_store.h"
#include "server/call_table.h"
#include "server/checkpoints/coordinator_host.h"
#include "server/group_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class LoopHost final : public CoordinatorHost {
 public:
  LoopHost(RecordStore* records, CallTable* calls, GroupTable* groups)
      : records_(records), calls_(calls), groups_(groups) {}
  // The loop needs the host's users and the other way round; call it before the bulk plane is
  // served.
  void SetLoop(Loop* loop) { loop_ = loop; }

  absl::Status CheckEpoch(const worker::v1::GroupId& group) override;
  absl::Status CommitManifest(const worker::v1::Manifest& manifest) override;
  absl::StatusOr<worker::v1::Manifest> GetManifest(const std::string& job_id,
                                                   int64_t step) override;
  void OnDamagedCheckpoint(const std::string& job_id, int64_t step,
                           const std::string& reason) override;

 private:
  RecordStore* records_;
  CallTable* calls_;
  GroupTable* groups_;
  Loop* loop_ = nullptr;
};

}  // namespace diffmoe::server
