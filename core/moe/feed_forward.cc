#include "core/moe/feed_forward.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/sum.h>

#include "core/kernels/gelu.h"
#include "core/kernels/row_functions.h"

namespace diffmoe {
namespace {

// out = a b, where out may be wider than a and b.
void MatMulInto(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (out.scalar_type() == a.scalar_type()) {
    at::mm_out(out, a, b);
  } else {
    out.copy_(at::mm(a, b));
  }
}

void SumRowsInto(at::Tensor out, const at::Tensor& rows) {
  at::sum_out(out, rows, {0}, /*keepdim=*/false, out.scalar_type());
}

}  // namespace

FeedForward::FeedForward(const Parameters& parameters, const std::string& prefix,
                         Activation activation)
    : activation_(activation) {
  const std::vector<std::string> gelu{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
  const std::vector<std::string> swiglu{"gate_proj.weight", "up_proj.weight", "down_proj.weight"};
  for (const std::string& name : activation == Activation::kGelu ? gelu : swiglu) {
    names_.push_back(prefix + name);
    weights_.push_back(parameters.at(names_.back()).detach());
  }
}

FeedForward::Saved FeedForward::Saved::Rows(int64_t begin, int64_t count) const {
  return {hidden.narrow(0, begin, count), up.defined() ? up.narrow(0, begin, count) : up,
          active.narrow(0, begin, count)};
}

FeedForward::Saved FeedForward::Allocate(const at::Tensor& x) const {
  const auto rows = [&] { return at::empty({x.size(0), weights_[0].size(0)}, x.options()); };
  return {rows(), activation_ == Activation::kSwiglu ? rows() : at::Tensor(), rows()};
}

void FeedForward::Forward(const at::Tensor& x, const Saved& saved, at::Tensor y) const {
  at::Tensor hidden = saved.hidden, active = saved.active;
  if (activation_ == Activation::kGelu) {
    at::addmm_out(hidden, weights_[1], x, weights_[0].t());
    GeluTanh(hidden, active);
    at::addmm_out(y, weights_[3], active, weights_[2].t());
    return;
  }
  at::Tensor up = saved.up;
  at::mm_out(hidden, x, weights_[0].t());
  at::mm_out(up, x, weights_[1].t());
  at::silu_out(active, hidden);
  active.mul_(up);
  at::mm_out(y, active, weights_[2].t());
}

void FeedForward::Pack() {
  packed_.clear();
  const bool gelu = activation_ == Activation::kGelu;
  for (size_t i = 0; i < weights_.size(); i += gelu ? 2 : 1) {
    packed_.emplace_back(weights_[i], gelu ? weights_[i + 1] : at::Tensor());
  }
}

void FeedForward::Infer(const at::Tensor& x, at::Tensor y) const {
  if (packed_.empty()) return Forward(x, Allocate(x), y);
  at::Tensor hidden = packed_[0].Apply(x);
  if (activation_ == Activation::kGelu) {
    GeluTanh(hidden, hidden);
    return packed_[1].Apply(hidden, y);
  }
  SiluInPlace(hidden);
  hidden.mul_(packed_[1].Apply(x));
  packed_[2].Apply(hidden, y);
}

void FeedForward::Backward(const at::Tensor& dy, const at::Tensor& x, const Saved& saved,
                           at::Tensor dx, const std::vector<at::Tensor>& gradients) const {
  if (activation_ == Activation::kGelu) {
    MatMulInto(gradients[2], dy.t(), saved.active);
    SumRowsInto(gradients[3], dy);
    at::Tensor dhidden = at::mm(dy, weights_[2]);
    GeluTanhBackward(dhidden, saved.hidden, dhidden);
    MatMulInto(gradients[0], dhidden.t(), x);
    SumRowsInto(gradients[1], dhidden);
    at::mm_out(dx, dhidden, weights_[0]);
    return;
  }
  MatMulInto(gradients[2], dy.t(), saved.active);
  const at::Tensor dactive = at::mm(dy, weights_[2]);
  const at::Tensor dup = dactive.mul(at::silu(saved.hidden));
  const at::Tensor dhidden = at::silu_backward(dactive.mul_(saved.up), saved.hidden);
  MatMulInto(gradients[0], dhidden.t(), x);
  MatMulInto(gradients[1], dup.t(), x);
  at::mm_out(dx, dhidden, weights_[0]);
  dx.addmm_(dup, weights_[1]);
}

}  // namespace diffmoe
