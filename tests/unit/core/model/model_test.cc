#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>

#include "core/model/parameters.h"

namespace diffmoe {
namespace {

ModelConfig SizeS(Family family, int64_t experts) {
  ModelConfig model;
  model.family = family;
  model.image_size = 32;
  model.channels = 4;
  model.patch_size = 2;
  model.width = 384;
  model.depth = 12;
  model.heads = 6;
  model.classes = 1000;
  model.experts = experts;
  model.learn_sigma = true;
  return model;
}

TEST(ParameterLayout, EveryElementHasOneOwner) {
  ModelConfig model = SizeS(Family::kDiffMoe, 8);
  model.width = 64;
  model.depth = 2;
  for (const int ranks : {1, 2, 4}) {
    int64_t experts = 0, slices = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const ParameterLayout layout(model, rank, ranks);
      experts += static_cast<int64_t>(layout.experts().size());
      slices += layout.slice_elements();
      EXPECT_EQ(layout.slice_elements() % ParameterLayout::kChunk, 0);
      EXPECT_EQ(layout.dense().front().offset, 0);
      EXPECT_EQ(layout.dense().back().offset, ParameterLayout(model, 0, 1).dense().back().offset);
    }
    EXPECT_EQ(experts, 8 * 4) << ranks;
    EXPECT_EQ(slices, ParameterLayout(model, 0, ranks).dense_elements());
  }
  EXPECT_THROW(ParameterLayout(model, 0, 3), std::invalid_argument);
}

}  // namespace
}  // namespace diffmoe
