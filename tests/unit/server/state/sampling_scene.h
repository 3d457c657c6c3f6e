// A running job with a checkpoint, slots for samplers, and what samplers say.
#pragma once

#include <csignal>
#include <string>

#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {

inline v1::SampleResponse Started() {
  v1::SampleResponse response;
  response.mutable_started();
  return response;
}
inline v1::SampleResponse Image(int index) {
  v1::SampleResponse response;
  response.mutable_image()->set_index(index);
  return response;
}
inline v1::SampleResponse Finished() {
  v1::SampleResponse response;
  response.mutable_finished()->mutable_receipt()->set_seconds(1.5);
  return response;
}

// A job with a checkpoint at step 10 on worker w1, and `free` slots besides.
struct Scene {
  ClusterHarness cluster;
  RunningJob running;
  // One request at a time, so that samplers are busy with one.
  static StateOptions OneByOne() {
    StateOptions options;
    options.max_sampler_requests = 1;
    return options;
  }
  explicit Scene(int free, const StateOptions& options = OneByOne()) : cluster(options) {
    running = StartRunningJob(cluster, 1, 1 + free);
  }
  // The sampler that was told to start last, after it has started.
  worker::v1::StartRank StartSampler() {
    const auto starts = cluster.starts(running.session);
    if (starts.empty()) return {};
    cluster.Started(running.session, starts.back().group().id(), starts.back().group().epoch(), 0);
    return starts.back();
  }
  void KillSampler(const worker::v1::StartRank& start) {
    cluster.Killed(running.session, start.group().id(), start.group().epoch(), 0, SIGKILL);
  }
};

}  // namespace diffmoe::server
