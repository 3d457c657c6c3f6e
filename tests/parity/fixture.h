// Golden numbers as tensors, and a comparison that reports the worst element.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <string>

#include "core/data/safetensors.h"

namespace diffmoe {

class Fixture {
 public:
  // Opens tests/parity/fixtures/NAME.safetensors; aborts the test program when it can't be read.
  explicit Fixture(const std::string& name);
  bool contains(const std::string& key) const { return reader_->Find(key) != nullptr; }
  // With the file's dtype and shape.
  at::Tensor at(const std::string& key) const;
  double scalar(const std::string& key) const;
  const SafetensorsReader& reader() const { return *reader_; }

 private:
  std::unique_ptr<SafetensorsReader> reader_;
};

// |got - want| <= absolute + relative * |want| everywhere.
::testing::AssertionResult Close(const at::Tensor& got, const at::Tensor& want, double absolute,
                                 double relative = 0);

}  // namespace diffmoe
