// The pool is global: two ranks over Gloo give the numbers that the published code gives on one
// rank with the same samples.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "core/moe/moe_layer.h"
#include "tests/multiprocess/rank_threads.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

TEST(TwoRankParity, PoolThresholdAndOutputsEqualOneRank) {
  const Fixture fixture("diffmoe_layer_two_ranks");
  ModelConfig model;
  model.image_size = 16;
  model.patch_size = 4;
  model.width = 16;
  model.depth = 1;
  model.heads = 1;
  model.experts = 4;
  model.moe_every = 1;
  for (int world_size : {1, 2, 4}) {
    RunRanks(world_size, [&](Collectives& collectives) {
      const ParameterLayout layout(model, collectives.rank(), world_size);
      Parameters parameters(layout, at::kDouble);
      const std::string prefix = "blocks.0.mlp.";
      for (const ParameterInfo& info : layout.infos()) {
        if (!absl::StartsWith(info.name, prefix) || !parameters.contains(info.name)) continue;
        parameters.at(info.name).copy_(fixture.at(info.name.substr(prefix.size())));
      }
      MoeOptions options;
      options.threshold_starts_at_zero = true;
      MoeLayer layer(model, 0, parameters, options, collectives);
      const int64_t samples = 4 / world_size, first = collectives.rank() * samples;
      for (const char* call : {"1", "2"}) {
        const std::string suffix = std::string("_call") + call;
        const at::Tensor x =
            fixture.at("in.x" + suffix).narrow(0, first, samples).contiguous().view({-1, 16});
        MoeLayer::SavedPtr saved;
        const at::Tensor y = layer.Forward(x, 16, true, &saved, nullptr);
        EXPECT_TRUE(Close(y, fixture.at("out.world1.y" + suffix).narrow(0, first, samples), 1e-10));
        EXPECT_TRUE(Close(layer.threshold(), fixture.at(std::string("out.world1.threshold") + call),
                          1e-12));
      }
    });
  }
}

}  // namespace
}  // namespace diffmoe
