#include "core/model/fused_ops.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels/attention.h"
#include "core/kernels/gelu.h"
#include "core/kernels/norm_modulate.h"

namespace diffmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

bool Fused(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

struct NormModulateFunction : Function<NormModulateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in,
                            const at::Tensor& shift, const at::Tensor& scale) {
    const at::Tensor x = x_in.contiguous();
    at::Tensor out = at::empty_like(x),
               statistics = at::empty({x.size(0), x.size(1), 2}, x.options());
    NormModulateForward(x, shift, scale, out, statistics);
    context->save_for_backward({x, scale, statistics});
    return out;
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1];
    at::Tensor dx = at::empty_like(x), dshift = at::empty({x.size(0), x.size(2)}, x.options());
    at::Tensor dscale = at::empty_like(dshift);
    NormModulateBackward(grads[0].contiguous(), x, scale, saved[2], dx, dshift, dscale);
    return {dx, dshift, dscale};
  }
};

struct AddGatedFunction : Function<AddGatedFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y_in,
                            const at::Tensor& gate) {
    const at::Tensor y = y_in.contiguous();
    context->save_for_backward({y, gate});
    return at::addcmul(x, y, gate.unsqueeze(1));
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor dy = at::empty_like(grad),
               dgate = at::empty({grad.size(0), grad.size(2)}, grad.options());
    AddGatedBackward(grad, saved[0], saved[1], dy, dgate);
    return {grad, dy, dgate};
  }
};

struct GeluFunction : Function<GeluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in) {
    const at::Tensor x = x_in.contiguous();
    context->save_for_backward({x});
    at::Tensor out = at::empty_like(x);
    GeluTanh(x, out);
    return out;
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor x = context->get_saved_variables()[0];
    at::Tensor dx = at::empty_like(x);
    GeluTanhBackward(grads[0].contiguous(), x, dx);
    return {dx};
  }
};

struct AttentionFunction : Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv_in, int64_t heads) {
    const at::Tensor qkv = qkv_in.contiguous();
    const int64_t batch = qkv.size(0), tokens = qkv.size(1);
    at::Tensor out = at::empty({batch, tokens, qkv.size(2) / 3}, qkv.options());
    at::Tensor softmax = at::empty({batch, heads, 2, tokens}, qkv.options());
    AttentionForward(qkv, heads, out, softmax);
    context->save_for_backward({qkv, out, softmax});
    context->saved_data["heads"] = heads;
    return out;
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    at::Tensor dqkv = at::empty_like(saved[0]);
    AttentionBackward(grads[0].contiguous(), saved[0], saved[1], saved[2],
                      context->saved_data["heads"].toInt(), dqkv);
    return {dqkv, at::Tensor()};
  }
};

}  // namespace

at::Tensor NormModulate(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale) {
  if (Fused(x)) return NormModulateFunction::apply(x, shift, scale);
  const at::Tensor normed = at::layer_norm(x, {x.size(-1)}, {}, {}, 1e-6);
  return at::addcmul(shift.unsqueeze(1), normed, scale.add(1).unsqueeze(1));
}

at::Tensor AddGated(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) {
  if (Fused(x)) return AddGatedFunction::apply(x, y, gate);
  return at::addcmul(x, y, gate.unsqueeze(1));
}

at::Tensor Gelu(const at::Tensor& x) {
  return Fused(x) ? GeluFunction::apply(x) : at::gelu(x, "tanh");
}

at::Tensor SelfAttention(const at::Tensor& qkv, int64_t heads) {
  if (Fused(qkv)) return AttentionFunction::apply(qkv, heads);
  const int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3;
  const at::Tensor parts =
      qkv.view({batch, tokens, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
  const at::Tensor mixed =
      at::scaled_dot_product_attention(parts.select(0, 0), parts.select(0, 1), parts.select(0, 2));
  return mixed.transpose(1, 2).reshape({batch, tokens, width});
}

}  // namespace diffmoe
