// The pool is global: several ranks over Gloo give the numbers that the published code gives on one
// rank with the same samples. With `pool: rank` two ranks give what the published code gives on
// two.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "core/moe/moe_layer.h"
#include "tests/multiprocess/rank_threads.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

void CheckAgainst(const std::string& world, PoolScope pool, int world_size) {
  const Fixture fixture("diffmoe_layer_two_ranks");
  ModelConfig model;
  model.image_size = 16;
  model.patch_size = 4;
  model.width = 16;
  model.depth = 1;
  model.heads = 1;
  model.experts = 4;
  model.pool = pool;
  model.moe_every = 1;
  RunRanks(world_size, [&](Collectives& collectives) {
    const ParameterLayout layout(model, collectives.rank(), world_size);
    Parameters parameters(layout, at::kDouble);
    const std::string prefix = "blocks.0.mlp.";
    for (const ParameterInfo& info : layout.infos()) {
      if (!absl::StartsWith(info.name, prefix) || !parameters.contains(info.name)) continue;
      parameters.at(info.name).copy_(fixture.at(info.name.substr(prefix.size())));
    }
    MoeOptions options;
    options.threshold_init = ThresholdInit::kZero;
    MoeLayer layer(model, 0, parameters, parameters, options, collectives);
    const int64_t samples = 4 / world_size, first = collectives.rank() * samples;
    for (const std::string call : {"1", "2"}) {
      const at::Tensor x =
          fixture.at("in.x_call" + call).narrow(0, first, samples).contiguous().view({-1, 16});
      const auto want = [&](const std::string& name) {
        return fixture.at("out." + world + "." + name + "_call" + call).narrow(0, first, samples);
      };
      MoeLayer::SavedPtr saved;
      const at::Tensor y = layer.Forward(x, 16, true, &saved, nullptr);
      layer.UpdateThreshold(MoeLayer::Quantiles(*saved));
      EXPECT_TRUE(Close(y, want("y"), 1e-10));
      EXPECT_TRUE(Close(MoeLayer::Mask(*saved), want("mask"), 0));
      EXPECT_TRUE(
          Close(layer.threshold(), fixture.at("out." + world + ".threshold" + call), 1e-12));
    }
  });
}

TEST(TwoRankParity, GlobalPoolEqualsOneRank) {
  for (int world_size : {1, 2, 4}) CheckAgainst("world1", PoolScope::kGlobal, world_size);
}

TEST(TwoRankParity, PoolPerRankEqualsThePublishedCodeOnTwoRanks) {
  CheckAgainst("world2", PoolScope::kRank, 2);
}

}  // namespace
}  // namespace diffmoe
