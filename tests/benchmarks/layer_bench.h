// One MoE layer against its own matrix products.
#pragma once

#include <cstdint>

namespace diffmoe::bench {

struct LayerFigures {
  double layer_seconds = 0;  // forward and backward, one rank
  double gemm_seconds = 0;   // its matrix products alone, at the shapes that occur
  double share() const { return gemm_seconds / layer_seconds; }
};

// A DiffMoE layer of `experts` experts at capacity 1 over 2048 tokens.
LayerFigures MeasureMoeLayer(int64_t width, int64_t experts);

}  // namespace diffmoe::bench
