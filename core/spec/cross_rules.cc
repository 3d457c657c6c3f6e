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
    const int64_t batch = spec_.train().global_batch();
    const int64_t unit = spec_.train().unit_samples();
    if (Usable({"parallel.ranks"}) && !IsPowerOfTwo(ranks)) {
      Add("parallel.ranks", absl::StrCat("expected a power of two, got ", ranks));
    }
    if (!Usable({"parallel.ranks", "train.global_batch"})) return;
    if (batch % ranks != 0) {
      Add("train.global_batch",
          absl::StrCat("expected a multiple of parallel.ranks (", ranks, "), got ", batch));
      return;
    }
    if (!Usable({"train.unit_samples"})) return;
    const int64_t per_rank = batch / ranks;
    if (per_rank % unit != 0) {
      Add("train.unit_samples", absl::StrCat("expected a divisor of the images per rank (", batch,
                                             " / ", ranks, " = ", per_rank, "), got ", unit));
    } else if (!IsPowerOfTwo(per_rank / unit)) {
      Add("train.unit_samples",
          absl::StrCat("expected a power of two of units per rank, got ", per_rank,
                       " images per rank / ", unit, " = ", per_rank / unit, " units"));
    }
  }

  void CheckExperts() {
    const v1::ModelSpec& model = spec_.model();
    if (!Usable({"model.family"}) || model.family() != v1::FAMILY_DIFFMOE) return;
    if (Usable({"model.moe_every", "model.depth"}) && model.moe_every() > model.depth()) {
      Add("model.moe_every",
          absl::StrCat("expected at most model.depth (", model.depth(),
                       "), so that there is a MoE block, got ", model.moe_every()));
    }
    if (Usable({"model.experts", "parallel.ranks"}) &&
        model.experts() % spec_.parallel().ranks() != 0) {
      Add("model.experts",
          absl::StrCat("expected a multiple of parallel.ranks (", spec_.parallel().ranks(),
                       "), over which experts are spread, got ", model.experts()));
    }
    if (Usable({"model.capacity", "model.experts"}) && model.capacity() > model.experts()) {
      Add("model.capacity", absl::StrFormat("expected at most model.experts (%d), got %.15g",
                                            model.experts(), model.capacity()));
    }
    CheckTokens();
  }

 private:
  void CheckTokens() {
    const v1::ModelSpec& model = spec_.model();
    if (!Usable({"model.image_size", "model.patch_size", "model.experts", "train.global_batch"})) {
      return;
    }
    const int64_t side = model.image_size() / model.patch_size();
    const int64_t tokens = spec_.train().global_batch() * side * side;
    if (tokens < model.experts()) {
      Add("model.experts",
          absl::StrCat("expected at most the tokens of a step (", spec_.train().global_batch(),
                       " images * ", side * side, " = ", tokens, "), got ", model.experts()));
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
