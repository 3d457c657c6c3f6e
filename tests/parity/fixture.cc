#include "tests/parity/fixture.h"

#include <ATen/ops/empty.h>

#include <cstdio>
#include <cstdlib>

namespace diffmoe {

Fixture::Fixture(const std::string& name) {
  auto reader = SafetensorsReader::Open(std::string(DIFFMOE_SOURCE_DIR) +
                                        "/tests/parity/fixtures/" + name + ".safetensors");
  if (!reader.ok()) {
    std::fprintf(stderr, "%s\n", std::string(reader.status().message()).c_str());
    std::abort();
  }
  reader_ = *std::move(reader);
}

at::Tensor Fixture::at(const std::string& key) const {
  const SafetensorsInfo* info = reader_->Find(key);
  if (info == nullptr) {
    std::fprintf(stderr, "no tensor %s in the fixture\n", key.c_str());
    std::abort();
  }
  const at::ScalarType dtype = info->dtype == "F64"   ? at::kDouble
                               : info->dtype == "F32" ? at::kFloat
                                                      : at::kLong;
  at::Tensor out = at::empty(info->shape, at::TensorOptions().dtype(dtype));
  const absl::Status status =
      reader_->ReadInto(*info, absl::MakeSpan(static_cast<char*>(out.data_ptr()), out.nbytes()));
  if (!status.ok()) std::abort();
  return out;
}

double Fixture::scalar(const std::string& key) const {
  return at(key).to(at::kDouble).flatten()[0].item<double>();
}

::testing::AssertionResult Close(const at::Tensor& got, const at::Tensor& want, double absolute,
                                 double relative) {
  if (got.numel() != want.numel()) {
    return ::testing::AssertionFailure() << got.numel() << " elements, expected " << want.numel();
  }
  const at::Tensor g = got.to(at::kDouble).contiguous().view({-1}),
                   w = want.to(at::kDouble).contiguous().view({-1});
  double worst = -1;
  int64_t where = 0;
  for (int64_t i = 0; i < g.numel(); ++i) {
    const double a = g.data_ptr<double>()[i], b = w.data_ptr<double>()[i];
    const double excess = std::abs(a - b) - absolute - relative * std::abs(b);
    if (!(excess <= worst)) worst = excess, where = i;
  }
  if (g.numel() == 0 || worst <= 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "element " << where << ": got " << g.data_ptr<double>()[where] << ", expected "
         << w.data_ptr<double>()[where];
}

}  // namespace diffmoe
