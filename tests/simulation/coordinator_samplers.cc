// The sampler plane.
#include <algorithm>
#include <utility>

#include "tests/simulation/coordinator_process.h"

namespace diffmoe::simulation {

void Coordinator::AcceptSampler(const SamplerConnectionPtr& connection,
                                const worker::v1::GroupId& group) {
  connection->session = next_number_++;
  process_->samplers[connection->session] = connection;
  world_->trace.Line("coordinator", "session ", connection->session, " of ", group.id());
  Post(server::SamplerConnected{connection->session, group}).IgnoreError();
}

void Coordinator::ReceiveSampler(const SamplerConnectionPtr& connection,
                                 const worker::v1::SampleUpdate& update) {
  if (!alive() || !process_->samplers.contains(connection->session)) return;
  server::SamplerUpdated event{connection->session, {}};
  *event.updates.add_updates() = update;
  Post(std::move(event)).IgnoreError();
}

void Coordinator::SamplerBroke(const SamplerConnectionPtr& connection) {
  if (!alive() || process_->samplers.erase(connection->session) == 0) return;
  Post(server::SamplerDisconnected{connection->session}).IgnoreError();
}

void Coordinator::SendToSampler(uint64_t session, const worker::v1::SamplerCommand& command) {
  const auto found = process_->samplers.find(session);
  if (found == process_->samplers.end() || found->second->broken) return;
  const SamplerConnectionPtr connection = found->second;
  connection->last_down_ms =
      std::max(connection->last_down_ms, network_->ArrivalMs(connection->host));
  world_->time.At(connection->last_down_ms, [connection, command] {
    if (!connection->broken) connection->receive(command);
  });
}

void Coordinator::CloseSampler(uint64_t session, const absl::Status& status) {
  const auto found = process_->samplers.find(session);
  if (found == process_->samplers.end()) return;
  const SamplerConnectionPtr connection = found->second;
  SamplerBroke(connection);
  world_->time.At(std::max(connection->last_down_ms, network_->ArrivalMs(connection->host)),
                  [connection, status] {
                    if (std::exchange(connection->broken, true)) return;
                    connection->lost(status);
                  });
}

}  // namespace diffmoe::simulation
