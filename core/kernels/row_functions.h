// Elementwise and row functions of the router at inference on the CPU. An element's bits depend on
// its own value (softmax: on its own row) alone, whatever the number of rows and the width, which a
// library's vectorised loop with a scalar tail does not promise. fp32, contiguous.
#pragma once

#include <ATen/core/Tensor.h>

namespace diffmoe {

// x: any shape; in place.
void SigmoidInPlace(at::Tensor& x);
void SiluInPlace(at::Tensor& x);
// x: [n, E], softmax of each row in place.
void SoftmaxRowsInPlace(at::Tensor& x);

}  // namespace diffmoe
