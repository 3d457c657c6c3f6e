#include "core/kernels/attention.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "core/kernels/tile_product.h"

namespace diffmoe {
namespace {

using kernels::Exp;
using kernels::kLanes;
using kernels::kTileColumns;
using kernels::Load;
using kernels::LoadRow;
using kernels::Product;
using kernels::RoundUp;
using kernels::Store;
using kernels::StoreRow;
using kernels::SumLanes;
using kernels::Vector;

constexpr int64_t kQueries = 64;  // a block of queries

struct Shape {
  int64_t batch, tokens, heads, width;  // width: of a head
  int64_t model_width() const { return heads * width; }
};

// Rows of one head of `from` (rows `stride` apart) -> packed [tokens, padded], zeros behind
// `width`.
template <typename Real>
DIFFMOE_INLINE void Pack(const Real* from, int64_t stride, int64_t tokens, int64_t width,
                         int64_t padded, Real factor, Real* to) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t d = 0; d < padded; d += kLanes<Real>) {
      Store<Real>(to + t * padded + d, LoadRow(from + t * stride, d, width) * factor);
    }
  }
}

// The same, transposed: [width, padded], zeros behind `tokens`.
template <typename Real>
DIFFMOE_INLINE void PackTransposed(const Real* from, int64_t stride, int64_t tokens, int64_t width,
                                   int64_t padded, Real factor, Real* to) {
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t t = tokens; t < padded; ++t) to[d * padded + t] = 0;
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t d = 0; d < width; ++d) to[d * padded + t] = from[t * stride + d] * factor;
  }
}

// The first `width` of each row of `from` [rows, padded], times `factor` -> rows of `to`, `stride`
// apart.
template <typename Real>
DIFFMOE_INLINE void Unpack(const Real* from, int64_t rows, int64_t width, int64_t padded,
                           Real factor, Real* to, int64_t stride) {
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t d = 0; d < width; d += kLanes<Real>) {
      StoreRow<Real>(to + t * stride, Load(from + t * padded + d) * factor, d, width);
    }
  }
}

// Scores stand transposed, key by query: [tokens, kQueries]. So sums over keys run down the rows, a
// lane for each query, and all products find their operands in place.
//
// scores -> exponentials relative to each query's maximum; inverse: 1 / their sum. Both [kQueries].
template <typename Real>
DIFFMOE_INLINE void Softmax(Real* scores, int64_t tokens, int64_t count, Real* maximum,
                            Real* inverse) {
  for (int64_t i = 0; i < count; i += kLanes<Real>) {
    Vector<Real> most = Load(scores + i);
    for (int64_t j = 1; j < tokens; ++j) {
      const Vector<Real> v = Load(scores + j * kQueries + i);
      most = v > most ? v : most;
    }
    Vector<Real> sum{};
    for (int64_t j = 0; j < tokens; ++j) {
      const Vector<Real> e = Exp(Load(scores + j * kQueries + i) - most);
      Store<Real>(scores + j * kQueries + i, e);
      sum += e;
    }
    Store(maximum + i, most);
    Store<Real>(inverse + i, Real{1} / sum);
  }
}

// Scratch memory, handed out piece by piece; sizes are multiples of a vector. Without memory it
// only counts.
template <typename Real>
class Pieces {
 public:
  explicit Pieces(Real* memory) : memory_(memory) {}
  Real* Take(int64_t elements) {
    Real* piece = memory_ == nullptr ? nullptr : memory_ + taken_;
    taken_ += RoundUp(elements, kLanes<Real>);
    return piece;
  }
  int64_t taken() const { return taken_; }

 private:
  Real* memory_;
  int64_t taken_ = 0;
};

template <typename Real>
class HeadForward {
 public:
  // Null scratch: only to ask for its size.
  HeadForward(const Shape& shape, Real* scratch)
      : shape_(shape), wide_(RoundUp(shape.width, kTileColumns<Real>)) {
    Pieces<Real> pieces(scratch);
    keys_ = pieces.Take(shape.tokens * wide_);
    values_ = pieces.Take(shape.tokens * wide_);
    queries_t_ = pieces.Take(shape.width * kQueries);
    scores_ = pieces.Take(shape.tokens * kQueries);
    mixed_ = pieces.Take(kQueries * wide_);
    maximum_ = pieces.Take(kQueries);
    inverse_ = pieces.Take(kQueries);
    scratch_elements_ = pieces.taken();
  }
  int64_t scratch_elements() const { return scratch_elements_; }

  // head: its first query in qkv; out: its first output; softmax: maxima, then inverse sums.
  DIFFMOE_INLINE void Run(const Real* head, Real* out, Real* softmax) {
    const int64_t tokens = shape_.tokens, width = shape_.width, model = shape_.model_width(),
                  stride = 3 * model;
    const Real scale = 1 / std::sqrt(static_cast<Real>(width)), one = 1;
    Pack(head + model, stride, tokens, width, wide_, one, keys_);
    Pack(head + 2 * model, stride, tokens, width, wide_, one, values_);
    for (int64_t first = 0; first < tokens; first += kQueries) {
      const int64_t count = std::min(kQueries, tokens - first);
      PackTransposed(head + first * stride, stride, count, width, kQueries, scale, queries_t_);
      Product(tokens, kQueries, width, keys_, wide_, 1, queries_t_, kQueries, false, scores_,
              kQueries);
      Softmax(scores_, tokens, count, maximum_, inverse_);
      Product(count, wide_, tokens, scores_, 1, kQueries, values_, wide_, false, mixed_, wide_);
      for (int64_t i = 0; i < count; ++i) {
        Unpack(mixed_ + i * wide_, 1, width, wide_, inverse_[i], out + (first + i) * model, 0);
        softmax[first + i] = maximum_[i];
        softmax[tokens + first + i] = inverse_[i];
      }
    }
  }

 private:
  const Shape shape_;
  const int64_t wide_;
  int64_t scratch_elements_;
  Real *keys_, *values_;       // [tokens, wide]
  Real *queries_t_, *scores_;  // [width, kQueries], [tokens, kQueries]
  Real *mixed_, *maximum_, *inverse_;
};

//   P^T = exp(K Q^T - maximum) / sum   dP^T = V dO^T   dS^T = P^T * (dP^T - <dO, O>)
//   dV += P^T dO   dK += dS^T Q   dQ = dS K
template <typename Real>
class HeadBackward {
 public:
  HeadBackward(const Shape& shape, Real* scratch)
      : shape_(shape), wide_(RoundUp(shape.width, kTileColumns<Real>)) {
    Pieces<Real> pieces(scratch);
    for (Real** packed : {&queries_, &keys_, &values_, &grads_, &dkeys_, &dvalues_}) {
      *packed = pieces.Take(shape.tokens * wide_);
    }
    for (Real** transposed : {&queries_t_, &grads_t_}) {
      *transposed = pieces.Take(shape.width * kQueries);
    }
    for (Real** square : {&weights_, &dscores_}) *square = pieces.Take(shape.tokens * kQueries);
    dqueries_ = pieces.Take(kQueries * wide_);
    for (Real** one : {&delta_, &maximum_, &inverse_}) *one = pieces.Take(kQueries);
    scratch_elements_ = pieces.taken();
  }
  int64_t scratch_elements() const { return scratch_elements_; }

  // As HeadForward::Run; dhead: the head's first query in the gradient of qkv.
  DIFFMOE_INLINE void Run(const Real* head, const Real* out, const Real* grad, const Real* softmax,
                          Real* dhead) {
    const int64_t tokens = shape_.tokens, width = shape_.width, model = shape_.model_width(),
                  stride = 3 * model;
    const Real scale = 1 / std::sqrt(static_cast<Real>(width)), one = 1;
    Pack(head, stride, tokens, width, wide_, scale, queries_);
    Pack(head + model, stride, tokens, width, wide_, one, keys_);
    Pack(head + 2 * model, stride, tokens, width, wide_, one, values_);
    Pack(grad, model, tokens, width, wide_, one, grads_);
    for (int64_t first = 0; first < tokens; first += kQueries) {
      const int64_t count = std::min(kQueries, tokens - first);
      PackTransposed(head + first * stride, stride, count, width, kQueries, scale, queries_t_);
      PackTransposed(grad + first * model, model, count, width, kQueries, one, grads_t_);
      Statistics(out + first * model, grads_ + first * wide_, softmax + first, count);
      Product(tokens, kQueries, width, keys_, wide_, 1, queries_t_, kQueries, false, weights_,
              kQueries);
      Product(tokens, kQueries, width, values_, wide_, 1, grads_t_, kQueries, false, dscores_,
              kQueries);
      ScoreGradients(count);
      const bool add = first > 0;
      Product(tokens, wide_, count, weights_, kQueries, 1, grads_ + first * wide_, wide_, add,
              dvalues_, wide_);
      Product(tokens, wide_, count, dscores_, kQueries, 1, queries_ + first * wide_, wide_, add,
              dkeys_, wide_);
      Product(count, wide_, tokens, dscores_, 1, kQueries, keys_, wide_, false, dqueries_, wide_);
      Unpack(dqueries_, count, width, wide_, scale, dhead + first * stride, stride);
    }
    // The queries were scaled, so the keys' gradient is already.
    Unpack(dkeys_, tokens, width, wide_, one, dhead + model, stride);
    Unpack(dvalues_, tokens, width, wide_, one, dhead + 2 * model, stride);
  }

 private:
  // <dO, O> and the softmax of a block of queries, zeros behind them.
  DIFFMOE_INLINE void Statistics(const Real* out, const Real* grads, const Real* softmax,
                                 int64_t count) {
    for (int64_t i = 0; i < kQueries; ++i) {
      Vector<Real> sum{};
      for (int64_t d = 0; i < count && d < shape_.width; d += kLanes<Real>) {
        sum +=
            Load(grads + i * wide_ + d) * LoadRow(out + i * shape_.model_width(), d, shape_.width);
      }
      delta_[i] = SumLanes<Real>(sum);
      maximum_[i] = i < count ? softmax[i] : 0;
      inverse_[i] = i < count ? softmax[shape_.tokens + i] : 0;
    }
  }

  DIFFMOE_INLINE void ScoreGradients(int64_t count) {
    for (int64_t j = 0; j < shape_.tokens; ++j) {
      Real *weights = weights_ + j * kQueries, *dscores = dscores_ + j * kQueries;
      for (int64_t i = 0; i < count; i += kLanes<Real>) {
        const Vector<Real> p = Exp(Load(weights + i) - Load(maximum_ + i)) * Load(inverse_ + i);
        Store<Real>(weights + i, p);
        Store<Real>(dscores + i, p * (Load(dscores + i) - Load(delta_ + i)));
      }
    }
  }

  const Shape shape_;
  const int64_t wide_;
  int64_t scratch_elements_;
  Real *queries_, *keys_, *values_, *grads_, *dkeys_, *dvalues_;  // [tokens, wide]
  Real *queries_t_, *grads_t_;                                    // [width, kQueries]
  Real *weights_, *dscores_;                                      // [tokens, kQueries]
  Real *dqueries_, *delta_, *maximum_, *inverse_;
};

template <typename Real>
DIFFMOE_INLINE void Forward(const Shape& shape, const Real* qkv, Real* out, Real* softmax,
                            Real* scratch) {
  HeadForward<Real> one(shape, scratch);
  const int64_t model = shape.model_width();
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t first = b * shape.tokens * model, head = b * shape.heads + h;
      one.Run(qkv + 3 * first + h * shape.width, out + first + h * shape.width,
              softmax + head * 2 * shape.tokens);
    }
  }
}

template <typename Real>
DIFFMOE_INLINE void Backward(const Shape& shape, const Real* grad, const Real* qkv, const Real* out,
                             const Real* softmax, Real* grad_qkv, Real* scratch) {
  HeadBackward<Real> one(shape, scratch);
  const int64_t model = shape.model_width();
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t first = b * shape.tokens * model, head = b * shape.heads + h,
                    narrow = first + h * shape.width, triple = 3 * first + h * shape.width;
      one.Run(qkv + triple, out + narrow, grad + narrow, softmax + head * 2 * shape.tokens,
              grad_qkv + triple);
    }
  }
}

DIFFMOE_CLONES void RunForward(const Shape& shape, const float* qkv, float* out, float* softmax,
                               float* scratch) {
  Forward(shape, qkv, out, softmax, scratch);
}
DIFFMOE_CLONES void RunForward(const Shape& shape, const double* qkv, double* out, double* softmax,
                               double* scratch) {
  Forward(shape, qkv, out, softmax, scratch);
}
DIFFMOE_CLONES void RunBackward(const Shape& shape, const float* grad, const float* qkv,
                                const float* out, const float* softmax, float* grad_qkv,
                                float* scratch) {
  Backward(shape, grad, qkv, out, softmax, grad_qkv, scratch);
}
DIFFMOE_CLONES void RunBackward(const Shape& shape, const double* grad, const double* qkv,
                                const double* out, const double* softmax, double* grad_qkv,
                                double* scratch) {
  Backward(shape, grad, qkv, out, softmax, grad_qkv, scratch);
}

Shape CheckedShape(const at::Tensor& qkv, int64_t heads, const at::Tensor& out,
                   const at::Tensor& softmax) {
  TORCH_CHECK(
      (qkv.is_cpu() && (qkv.scalar_type() == at::kFloat || qkv.scalar_type() == at::kDouble)),
      "attention: qkv must be fp32 or fp64 on the CPU, got ", qkv.scalar_type(), " on ",
      qkv.device());
  TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (3 * heads) == 0,
              "attention: qkv must be [B, S, 3 D] with D a multiple of ", heads, " heads, got ",
              qkv.sizes());
  const Shape shape{qkv.size(0), qkv.size(1), heads, qkv.size(2) / (3 * heads)};
  const auto check = [&](const at::Tensor& tensor, at::IntArrayRef sizes, const char* name) {
    TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == qkv.scalar_type() &&
                    tensor.is_contiguous(),
                "attention: ", name, " must be a contiguous ", qkv.scalar_type(), " tensor ", sizes,
                ", got ", tensor.scalar_type(), " ", tensor.sizes());
  };
  check(qkv, qkv.sizes(), "qkv");
  check(out, {shape.batch, shape.tokens, shape.model_width()}, "out");
  check(softmax, {shape.batch, heads, 2, shape.tokens}, "softmax");
  return shape;
}

}  // namespace

void AttentionForward(const at::Tensor& qkv, int64_t heads, at::Tensor& out, at::Tensor& softmax) {
  const Shape shape = CheckedShape(qkv, heads, out, softmax);
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention", [&] {
    at::Tensor scratch =
        at::empty({HeadForward<scalar_t>(shape, nullptr).scratch_elements()}, qkv.options());
    RunForward(shape, qkv.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>(),
               softmax.mutable_data_ptr<scalar_t>(), scratch.mutable_data_ptr<scalar_t>());
  });
}

void AttentionBackward(const at::Tensor& grad, const at::Tensor& qkv, const at::Tensor& out,
                       const at::Tensor& softmax, int64_t heads, at::Tensor& grad_qkv) {
  const Shape shape = CheckedShape(qkv, heads, out, softmax);
  CheckedShape(qkv, heads, grad, softmax);
  TORCH_CHECK(grad_qkv.sizes() == qkv.sizes() && grad_qkv.is_contiguous() &&
                  grad_qkv.scalar_type() == qkv.scalar_type(),
              "attention: grad_qkv must be contiguous and like qkv ", qkv.sizes(), ", got ",
              grad_qkv.sizes());
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention_backward", [&] {
    at::Tensor scratch =
        at::empty({HeadBackward<scalar_t>(shape, nullptr).scratch_elements()}, qkv.options());
    RunBackward(shape, grad.const_data_ptr<scalar_t>(), qkv.const_data_ptr<scalar_t>(),
                out.const_data_ptr<scalar_t>(), softmax.const_data_ptr<scalar_t>(),
                grad_qkv.mutable_data_ptr<scalar_t>(), scratch.mutable_data_ptr<scalar_t>());
  });
}

}  // namespace diffmoe
