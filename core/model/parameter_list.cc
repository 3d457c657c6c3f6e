#include "core/model/parameter_list.h"

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

class ListBuilder {
 public:
  explicit ListBuilder(const ModelConfig& model) : model_(model) {}

  // A linear layer with bias: weight [out, in], bias [out].
  void Linear(const std::string& name, int64_t out, int64_t in, Initializer initializer,
              double standard_deviation = 0) {
    ParameterInfo weight = Base(name + ".weight", {out, in});
    weight.initializer = initializer;
    weight.standard_deviation = standard_deviation;
    weight.fan_in = in;
    weight.fan_out = out;
    list_.push_back(weight);
    list_.push_back(Base(name + ".bias", {out}));
  }

  // A linear layer without bias: weight [out, in].
  void Projection(const std::string& name, int64_t out, int64_t in) {
    ParameterInfo weight = Base(name + ".weight", {out, in});
    weight.initializer = Initializer::kXavierUniform;
    weight.fan_in = in;
    weight.fan_out = out;
    list_.push_back(weight);
  }

  void Normal(const std::string& name, std::vector<int64_t> shape, double standard_deviation) {
    ParameterInfo info = Base(name, std::move(shape));
    info.initializer = Initializer::kNormal;
    info.standard_deviation = standard_deviation;
    list_.push_back(info);
  }

  void Embedders() {
    const int64_t width = model_.width, patch = model_.patch_size;
    ParameterInfo patches = Base("x_embedder.proj.weight", {width, model_.channels, patch, patch});
    patches.initializer = Initializer::kXavierUniform;
    patches.fan_in = model_.channels * patch * patch;
    patches.fan_out = width;
    list_.push_back(patches);
    list_.push_back(Base("x_embedder.proj.bias", {width}));
    Linear("t_embedder.mlp.0", width, kTimeFrequencies, Initializer::kNormal, 0.02);
    Linear("t_embedder.mlp.2", width, width, Initializer::kNormal, 0.02);
    Normal("y_embedder.embedding_table.weight", {model_.classes + 1, width}, 0.02);
  }

  void Block(int64_t block) {
    block_ = block;
    const int64_t width = model_.width;
    const std::string prefix = absl::StrCat("blocks.", block, ".");
    Linear(prefix + "attn.qkv", 3 * width, width, Initializer::kXavierUniform);
    Linear(prefix + "attn.proj", width, width, Initializer::kXavierUniform);
    Linear(prefix + "adaLN_modulation.1", 6 * width, width, Initializer::kZero);
    if (model_.IsMoeBlock(block)) {
      MoeLayer(prefix + "mlp.");
    } else {
      FeedForward(prefix + "mlp.", model_.hidden());
    }
    block_ = -1;
  }

  void FinalLayer() {
    const int64_t patch = model_.patch_size;
    Linear("final_layer.adaLN_modulation.1", 2 * model_.width, model_.width, Initializer::kZero);
    Linear("final_layer.linear", patch * patch * model_.out_channels(), model_.width,
           Initializer::kZero);
  }

  std::vector<ParameterInfo> Take() { return std::move(list_); }

 private:
  static constexpr int64_t kTimeFrequencies = 256;

  ParameterInfo Base(std::string name, std::vector<int64_t> shape) const {
    ParameterInfo info;
    info.name = std::move(name);
    info.shape = std::move(shape);
    info.kind = kind_;
    info.block = block_;
    info.expert = expert_;
    return info;
  }

  void GeluLayers(const std::string& prefix, int64_t hidden) {
    Linear(prefix + "fc1", hidden, model_.width, Initializer::kXavierUniform);
    Linear(prefix + "fc2", model_.width, hidden, Initializer::kXavierUniform);
  }

  void SwigluLayers(const std::string& prefix, int64_t hidden) {
    Projection(prefix + "gate_proj", hidden, model_.width);
    Projection(prefix + "up_proj", hidden, model_.width);
    Projection(prefix + "down_proj", model_.width, hidden);
  }

  void FeedForward(const std::string& prefix, int64_t hidden) {
    if (model_.activation == Activation::kSwiglu) {
      SwigluLayers(prefix, hidden);
    } else {
      GeluLayers(prefix, hidden);
    }
  }

  // Uniform within 1 / sqrt(width) for token choice (Kaiming's rule with slope sqrt(5), as in the
  // published code), normal for the others.
  void Gate(const std::string& prefix) {
    if (model_.family != Family::kTokenChoice) {
      Normal(prefix + "gate_weight", {model_.experts, model_.width}, 0.006);
      return;
    }
    ParameterInfo weight = Base(prefix + "gate.weight", {model_.experts, model_.width});
    weight.initializer = Initializer::kXavierUniform;
    weight.fan_in = model_.width;
    weight.fan_out = 5 * model_.width;  // bound sqrt(6 / (fan_in + fan_out)) = 1 / sqrt(width)
    list_.push_back(weight);
  }

  void MoeLayer(const std::string& prefix) {
    Gate(prefix);
    if (model_.family == Family::kDiffMoe) {
      kind_ = ParameterKind::kPredictor;
      Linear(prefix + "capacity_predictor.0", model_.width, model_.width,
             Initializer::kXavierUniform);
      Linear(prefix + "capacity_predictor.2", model_.experts, model_.width,
             Initializer::kXavierUniform);
      kind_ = ParameterKind::kDense;
    }
    if (model_.shared_experts > 0) {
      if (model_.family == Family::kDiffMoe) {
        GeluLayers(prefix + "shared_experts.", model_.shared_hidden());
      } else {
        SwigluLayers(prefix + "shared_experts.", model_.shared_hidden());
      }
    }
    kind_ = ParameterKind::kExpert;
    for (expert_ = 0; expert_ < model_.experts; ++expert_) {
      FeedForward(absl::StrCat(prefix, "experts.", expert_, "."), model_.expert_hidden());
    }
    expert_ = -1;
    kind_ = ParameterKind::kDense;
  }

  const ModelConfig& model_;
  std::vector<ParameterInfo> list_;
  ParameterKind kind_ = ParameterKind::kDense;
  int64_t block_ = -1;
  int64_t expert_ = -1;
};

}  // namespace

int64_t ParameterInfo::elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

std::vector<ParameterInfo> DescribeParameters(const ModelConfig& model) {
  ListBuilder builder(model);
  builder.Embedders();
  for (int64_t block = 0; block < model.depth; ++block) builder.Block(block);
  builder.FinalLayer();
  return builder.Take();
}

}  // namespace diffmoe
