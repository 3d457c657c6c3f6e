#include "tests/multiprocess/training_run.h"

#include <openssl/evp.h>

#include <cmath>
#include <cstring>
#include <mutex>

#include "absl/strings/escaping.h"
#include "core/base/philox.h"
#include "core/train/train_engine.h"
#include "tests/multiprocess/rank_threads.h"

namespace diffmoe {
namespace {

void CopyState(TrainEngine& engine, std::map<std::string, std::vector<float>>& state) {
  for (const StateRun& piece : engine.OwnedState()) {
    std::vector<float>& whole = state[piece.name];
    int64_t elements = 1;
    for (int64_t size : piece.shape) elements *= size;
    whole.resize(static_cast<size_t>(elements), std::nanf(""));
    std::memcpy(whole.data() + piece.first_element, piece.data,
                static_cast<size_t>(piece.elements) * sizeof(float));
  }
}

void Restore(TrainEngine& engine, const TrainingRun& from) {
  for (const StateRun& piece : engine.NeededState()) {
    const std::vector<float>& whole = from.state.at(piece.name);
    std::memcpy(piece.data, whole.data() + piece.first_element,
                static_cast<size_t>(piece.elements) * sizeof(float));
  }
  engine.FinishRestore(from.thresholds, true);
}

}  // namespace

TrainingConfig SmallConfig(Family family) {
  TrainingConfig config;
  config.model.family = family;
  config.model.image_size = 16;
  config.model.channels = 1;
  config.model.patch_size = 4;
  config.model.width = 64;
  config.model.depth = 4;
  config.model.heads = 2;
  config.model.experts = 8;
  if (family == Family::kExpertChoice) config.model.pool = PoolScope::kSample;
  config.global_batch = 16;
  config.unit_samples = 4;
  config.steps = 20;
  config.seed = 7;
  config.optimizer.learning_rate = 1e-3;
  config.optimizer.clip_norm = 1;
  config.optimizer.warmup_steps = 5;
  config.optimizer.final_ratio = 0.1;
  return config;
}

int SyntheticImage(uint64_t index, std::span<float> out) {
  const int label = static_cast<int>(index % 10);
  RandomStream(99, RandomUse::kNoise, index, 0).Normal(out);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = std::tanh(0.2f * out[i] +
                       std::sin(0.1f * static_cast<float>(i) * static_cast<float>(label + 1)));
  }
  return label;
}

std::string TrainingRun::Sha256() const {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(context, EVP_sha256(), nullptr);
  const auto add = [&](const std::string& name, const std::vector<float>& values) {
    EVP_DigestUpdate(context, name.data(), name.size() + 1);
    EVP_DigestUpdate(context, values.data(), values.size() * sizeof(float));
  };
  for (const auto& [name, values] : state) add(name, values);
  for (const std::vector<float>& layer : thresholds) add("threshold", layer);
  std::string digest(32, '\0');
  EVP_DigestFinal_ex(context, reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  EVP_MD_CTX_free(context);
  return absl::BytesToHexString(digest);
}

TrainingRun Train(const TrainingConfig& config, const Layout& layout) {
  return TrainSteps(config, layout, 0, config.steps, nullptr);
}

TrainingRun TrainSteps(TrainingConfig config, const Layout& layout, int64_t first, int64_t end,
                       const TrainingRun* from) {
  config.ranks = layout.ranks;
  config.expert_parallel = layout.expert_parallel;
  TrainingRun run;
  // [step][layer, microbatch, rank] -> bytes
  std::vector<std::map<std::vector<int64_t>, std::string>> masks(static_cast<size_t>(config.steps));
  std::mutex mutex;
  RunRanks(layout.ranks, [&](Collectives& collectives) {
    TrainEngine engine(config, collectives);
    if (from != nullptr) {
      Restore(engine, *from);
    } else {
      engine.Initialize();
    }
    for (int64_t step = first; step < end; ++step) {
      const Batch batch =
          MakeBatch(config, step, collectives.rank(), layout.ranks, 1000, SyntheticImage);
      const StepFigures figures = engine.Step(step, batch, 0);
      std::lock_guard<std::mutex> lock(mutex);
      if (collectives.rank() == 0) {
        run.losses.push_back(figures.loss);
        run.router_losses.push_back(figures.predictor_loss + figures.balance_loss);
        run.grad_norms.push_back(figures.grad_norm);
      }
      for (size_t m = 0; m < engine.selections().size(); ++m) {
        for (size_t layer = 0; layer < engine.selections()[m].size(); ++layer) {
          const at::Tensor& mask = engine.selections()[m][layer];
          masks[static_cast<size_t>(step)]
               [{static_cast<int64_t>(layer), static_cast<int64_t>(m), collectives.rank()}] =
                   std::string(static_cast<const char*>(mask.const_data_ptr()), mask.nbytes());
        }
      }
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (collectives.rank() == 0) run.thresholds = engine.Thresholds();
    CopyState(engine, run.state);
  });
  for (const auto& step : masks) {
    std::string& all = run.selections.emplace_back();
    for (const auto& [place, bytes] : step) all += bytes;
  }
  return run;
}

}  // namespace diffmoe
