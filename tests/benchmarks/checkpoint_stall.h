// What a checkpoint costs the step that waits for it.
#pragma once

#include <cstdint>
#include <vector>

namespace diffmoe {

struct StallFigures {
  int64_t bytes = 0;  // state of one rank of the demo's network
  // Per repetition, in turn: CheckpointWriter::Stage, and one memcpy of as many bytes between two
  // blocks whose pages are there.
  std::vector<double> stage_seconds, memcpy_seconds;
};

StallFigures MeasureStall(int repetitions);

}  // namespace diffmoe
