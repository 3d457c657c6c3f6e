// Every parameter of the network in canonical order, with the key names of the published DiffMoE
// code. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/spec/training_config.h"

namespace diffmoe {

// Decides who holds a parameter and who adds its gradients.
enum class ParameterKind {
  kDense,      // replicated; gradients are summed over all ranks; counted in the clip norm
  kPredictor,  // replicated and summed too, but outside the clip norm
  kExpert,     // lives on the rank that owns the expert
};

enum class Initializer { kZero, kNormal, kXavierUniform };

struct ParameterInfo {
  std::string name;  // for example "blocks.1.mlp.experts.3.fc1.weight"
  std::vector<int64_t> shape;
  ParameterKind kind = ParameterKind::kDense;
  int64_t block = -1;   // -1 outside the blocks
  int64_t expert = -1;  // index of the expert for kExpert
  Initializer initializer = Initializer::kZero;
  double standard_deviation = 0;    // of kNormal
  int64_t fan_in = 0, fan_out = 0;  // of kXavierUniform

  int64_t elements() const;
};

// Deterministic in `model`. Parameters of one block stand together; the experts of a layer come
// last in their block. Feed-forward layers are fc1, fc2 with biases for GELU and gate_proj,
// up_proj, down_proj without biases for SwiGLU.
std::vector<ParameterInfo> DescribeParameters(const ModelConfig& model);

}  // namespace diffmoe
