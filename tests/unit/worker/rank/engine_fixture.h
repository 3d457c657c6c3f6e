// The sampling engine over FakeExecutor and FakeRankLink.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/worker/rank/fake_executor.h"
#include "tests/unit/worker/rank/fake_rank_link.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {

struct EngineRun {
  // `rows`: width of calls from the first one on.
  explicit EngineRun(double base_seconds, double row_seconds, SampleEngineOptions options = {})
      : executor(base_seconds, row_seconds), engine(link, executor, [&] {
          options.now = [this] { return executor.now; };
          return std::move(options);
        }()) {}

  static SampleEngineOptions Width(int rows) {
    SampleEngineOptions options;
    options.curve.least_rows = options.curve.most_rows = rows;
    return options;
  }
  void Finish(int64_t most_steps = 1000000) {
    for (int64_t i = 0; i < most_steps && engine.busy(); ++i) engine.Step();
    EXPECT_FALSE(engine.busy());
  }
  template <typename Update>
  std::vector<Update> Updates(const std::string& id) {
    std::vector<Update> out;
    for (const SampleUpdateData& update : link.updates[id]) {
      if (const auto* wanted = std::get_if<Update>(&update)) out.push_back(*wanted);
    }
    return out;
  }
  bool Finished(const std::string& id) { return Updates<SampleFinished>(id).size() == 1; }
  // The error that ended it; OK when there is none.
  absl::Status Error(const std::string& id) {
    const auto errors = Updates<absl::Status>(id);
    EXPECT_LE(errors.size(), 1u);
    return errors.empty() ? absl::OkStatus() : errors[0];
  }
  void Forget() { link.updates.clear(); }

  // The link makes weights for it.
  static TrainingConfig SmallConfig() {
    TrainingConfig config;
    config.model.width = 8;
    config.model.depth = 1;
    config.model.heads = 1;
    return config;
  }

  FakeRankLink link{SmallConfig()};
  FakeExecutor executor;
  SampleEngine engine;
};

}  // namespace diffmoe
