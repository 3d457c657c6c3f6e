#include "core/spec/cross_rules.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace diffmoe {
namespace {

bool IsPowerOfTwo(int64_t value) { return value > 0 && std::has_single_bit(uint64_t(value)); }

class CrossChecker {
 public:
  CrossChecker(const v1::TrainingSpec& spec, const std::set<std::string>& bad,
               std::vector<v1::FieldViolation>* violations)
      : spec_(spec), bad_(bad), violations_(*violations) {}

  void CheckShapes() {
    const v1::ModelSpec& model = spec_.model();
    if (Usable({"model.image_size", "model.patch_size"}) &&
        model.image_size() % model.patch_size() != 0) {
      Add("model.image_size", absl::StrCat("expected a multiple of model.patch_size (",
                                           model.patch_size(), "), got ", model.image_size()));
    }
    if (Usable({"model.width"}) && model.width() % 4 != 0) {
      Add("model.width", absl::StrCat("expected a multiple of 4 (sine and cosine of two positions)"
                                      ", got ",
                                      model.width()));
    }
    if (Usable({"model.width", "model.heads"}) && model.width() % model.heads() != 0) {
      Add("model.heads", absl::StrCat("expected a divisor of model.width (", model.width(),
                                      "), got ", model.heads()));
    }
  }

  // Gradients are added in a fixed binary tree over units, of which each rank holds a complete
  // subtree.
  void CheckBatch() {
    const int64_t ranks = spec_.parallel().ranks();
    const int64_t accumulation = spec_.train().accumulation();
    const int64_t batch = spec_.train().global_batch();
    const int64_t unit = spec_.train().unit_samples();
    if (Usable({"parallel.ranks"}) && !IsPowerOfTwo(ranks)) {
      Add("parallel.ranks", absl::StrCat("expected a power of two, got ", ranks));
    }
    CheckMinRanks();
    if (!Usable({"parallel.ranks", "train.accumulation", "train.global_batch"})) return;
    if (batch % (accumulation * ranks) != 0) {
      Add("train.global_batch",
          absl::StrCat("expected a multiple of ",
                       accumulation == 1 ? absl::StrCat("parallel.ranks (", ranks)
                                         : absl::StrCat("train.accumulation * parallel.ranks (",
                                                        accumulation, " * ", ranks),
                       "), got ", batch));
      return;
    }
    if (!Usable({"train.unit_samples"})) return;
    const int64_t per_rank = batch / accumulation / ranks;
    const std::string images =
        accumulation == 1 ? "images per rank" : "images per rank and microbatch";
    if (per_rank % unit != 0) {
      const std::string division = accumulation == 1
                                       ? absl::StrCat(batch, " / ", ranks)
                                       : absl::StrCat(batch, " / ", accumulation, " / ", ranks);
      Add("train.unit_samples", absl::StrCat("expected a divisor of the ", images, " (", division,
                                             " = ", per_rank, "), got ", unit));
    } else if (!IsPowerOfTwo(per_rank / unit)) {
      Add("train.unit_samples",
          absl::StrCat("expected a power of two of units per rank, got ", per_rank, " ", images,
                       " / ", unit, " = ", per_rank / unit, " units"));
    }
  }

  void CheckExperts() {
    const v1::ModelSpec& model = spec_.model();
    if (!Usable({"model.family"}) || model.family() == v1::FAMILY_DENSE) return;
    if (Usable({"model.moe_every", "model.depth"}) && model.moe_every() > model.depth()) {
      Add("model.moe_every",
          absl::StrCat("expected at most model.depth (", model.depth(),
                       "), so that there is a MoE block, got ", model.moe_every()));
    }
    CheckExpertParallel();
    CheckExpertWidths();
    if (model.family() == v1::FAMILY_TOKEN_CHOICE) {
      if (Usable({"model.top_k", "model.experts"}) && model.top_k() > model.experts()) {
        Add("model.top_k", absl::StrCat("expected at most model.experts (", model.experts(),
                                        "), got ", model.top_k()));
      }
      return;
    }
    if (Usable({"model.capacity", "model.experts"}) && model.capacity() > model.experts()) {
      Add("model.capacity", absl::StrFormat("expected at most model.experts (%d), got %.15g",
                                            model.experts(), model.capacity()));
    }
    CheckTokens();
  }

 private:
  // Every power of two below a valid number of ranks is valid as well.
  void CheckMinRanks() {
    const v1::ParallelSpec& parallel = spec_.parallel();
    if (!parallel.has_min_ranks() || !Usable({"parallel.ranks", "parallel.min_ranks"})) return;
    const int min_ranks = parallel.min_ranks();
    if (min_ranks == parallel.ranks()) return;
    if (!IsPowerOfTwo(min_ranks) || min_ranks > parallel.ranks()) {
      Add("parallel.min_ranks", absl::StrCat("expected a power of two of at most parallel.ranks (",
                                             parallel.ranks(), "), got ", min_ranks));
    } else if (spec_.model().pool() == v1::POOL_RANK) {
      Add("parallel.min_ranks",
          absl::StrCat("expected parallel.ranks (", parallel.ranks(),
                       "): with model.pool rank the result depends on the number of ranks, got ",
                       min_ranks));
    }
  }

  void CheckExpertParallel() {
    const v1::ParallelSpec& parallel = spec_.parallel();
    if (!Usable({"parallel.ranks", "parallel.expert_parallel"})) return;
    if (parallel.ranks() % parallel.expert_parallel() != 0) {
      Add("parallel.expert_parallel",
          absl::StrCat("expected a divisor of parallel.ranks (", parallel.ranks(), "), got ",
                       parallel.expert_parallel()));
    } else if (Usable({"model.experts"}) &&
               spec_.model().experts() % parallel.expert_parallel() != 0) {
      Add("model.experts",
          absl::StrCat("expected a multiple of parallel.expert_parallel (",
                       parallel.expert_parallel(), "), over which experts are split, got ",
                       spec_.model().experts()));
    }
  }

  void CheckExpertWidths() {
    const v1::ModelSpec& model = spec_.model();
    if (Usable({"model.width", "model.mlp_ratio", "model.expert_width_ratio"}) &&
        model.width() * model.mlp_ratio() * model.expert_width_ratio() < 1) {
      Add("model.expert_width_ratio",
          absl::StrFormat("expected an expert of hidden width 1 at least, got %d (width) * %.15g "
                          "(mlp_ratio) * %.15g",
                          model.width(), model.mlp_ratio(), model.expert_width_ratio()));
    }
    if (Usable({"model.shared_experts"}) && model.family() == v1::FAMILY_DIFFMOE &&
        model.shared_experts() > 1) {
      Add("model.shared_experts", absl::StrCat("expected at most 1 for model.family diffmoe, got ",
                                               model.shared_experts()));
    }
  }

  // The tokens among which an expert chooses must be enough for all experts.
  void CheckTokens() {
    const v1::ModelSpec& model = spec_.model();
    if (!Usable({"model.image_size", "model.patch_size", "model.experts", "model.pool",
                 "train.global_batch", "train.accumulation", "parallel.ranks"})) {
      return;
    }
    const int64_t side = model.image_size() / model.patch_size();
    const int64_t microbatch = spec_.train().global_batch() / spec_.train().accumulation();
    const int64_t images = model.pool() == v1::POOL_SAMPLE ? 1
                           : model.pool() == v1::POOL_RANK ? microbatch / spec_.parallel().ranks()
                                                           : microbatch;
    const int64_t tokens = images * side * side;
    if (tokens < model.experts()) {
      const char* pool = model.pool() == v1::POOL_SAMPLE          ? "a sample"
                         : model.pool() == v1::POOL_RANK          ? "a rank"
                         : images == spec_.train().global_batch() ? "a step"
                                                                  : "a microbatch";
      Add("model.experts", absl::StrCat("expected at most the tokens of ", pool, " (", images,
                                        images == 1 ? " image * " : " images * ", side * side,
                                        " = ", tokens, "), got ", model.experts()));
      return;
    }
    if (!Usable({"model.capacity"})) return;
    const double per_expert = model.capacity() * static_cast<double>(tokens) / model.experts();
    if (std::floor(per_expert) < 1) {
      Add("model.capacity",
          absl::StrFormat("expected at least experts / tokens (%.6g), so that an expert takes at "
                          "least one token, got %.15g",
                          static_cast<double>(model.experts()) / static_cast<double>(tokens),
                          model.capacity()));
    }
  }

  // True when every one of the fields is valid by itself.
  bool Usable(std::initializer_list<absl::string_view> fields) const {
    for (absl::string_view field : fields) {
      const std::string section(field.substr(0, field.find('.')));
      if (bad_.contains(section) || bad_.contains(std::string(field))) return false;
    }
    return true;
  }

  void Add(absl::string_view field, const std::string& description) {
    v1::FieldViolation& violation = violations_.emplace_back();
    violation.set_field(std::string(field));
    violation.set_description(description);
  }

  const v1::TrainingSpec& spec_;
  const std::set<std::string>& bad_;
  std::vector<v1::FieldViolation>& violations_;
};

}  // namespace

void CheckCrossRules(const v1::TrainingSpec& complete, const std::set<std::string>& bad,
                     std::vector<v1::FieldViolation>* violations) {
  CrossChecker checker(complete, bad, violations);
  checker.CheckShapes();
  checker.CheckBatch();
  checker.CheckExperts();
}

}  // namespace diffmoe
