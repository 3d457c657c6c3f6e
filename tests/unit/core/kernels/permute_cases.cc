#include "tests/unit/core/kernels/permute_cases.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <cstring>

#include "core/base/philox.h"

namespace diffmoe {
namespace {

at::Tensor Normals(at::IntArrayRef shape, at::ScalarType dtype, uint64_t seed, uint32_t stream) {
  at::Tensor values = at::empty(shape, at::kFloat);
  RandomStream(seed, RandomUse::kNoise, 0, stream)
      .Normal({values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
  return values.to(dtype);
}

}  // namespace

PermuteCase MakePermuteCase(int64_t tokens, int64_t experts, int64_t width, at::ScalarType dtype,
                            uint64_t seed) {
  PermuteCase made;
  made.tokens = Normals({tokens, width}, dtype, seed, 0);
  made.weights = Normals({tokens, experts}, dtype, seed, 1);
  made.index = at::full({tokens, experts}, -1, at::kInt);
  auto* index = made.index.mutable_data_ptr<int32_t>();
  std::vector<int64_t> ids;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t t = 0; t < tokens; ++t) {
      const auto block = RandomStream(seed, RandomUse::kTime, e, static_cast<uint32_t>(t)).Block(0);
      if (block[0] % 2 == 0) continue;
      index[t * experts + e] = static_cast<int32_t>(ids.size());
      ids.push_back(t);
    }
  }
  made.ids = at::empty({static_cast<int64_t>(ids.size())}, at::kLong);
  if (!ids.empty()) {
    std::memcpy(made.ids.mutable_data_ptr<int64_t>(), ids.data(), ids.size() * sizeof(int64_t));
  }
  return made;
}

bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.cpu().contiguous(), y = b.cpu().contiguous();
  return x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace diffmoe
