#include "core/base/activity.h"

#include <algorithm>
#include <cstring>

namespace diffmoe {
namespace {

constexpr int kReadAttempts = 100;

}  // namespace

Activity::Words Activity::LoadWords() const {
  Words words{};
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const uint32_t before = version_.load(std::memory_order_acquire);
    for (size_t i = 0; i < kLetters; ++i) words[i] = words_[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (before % 2 == 0 && version_.load(std::memory_order_relaxed) == before) break;
  }
  return words;
}

void Activity::Store(const Words& words, bool waits_for_peers) {
  const uint32_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  for (size_t i = 0; i < kLetters; ++i) words_[i].store(words[i], std::memory_order_relaxed);
  waits_for_peers_.store(waits_for_peers, std::memory_order_relaxed);
  version_.store(version + 2, std::memory_order_release);
  Advance();
}

Activity::Snapshot Activity::Read() const {
  Snapshot out;
  out.step = step_.load(std::memory_order_relaxed);
  out.position = position_.load(std::memory_order_relaxed);
  out.limit_ms = limit_ms_.load(std::memory_order_relaxed);
  out.waits_for_peers = waits_for_peers_.load(std::memory_order_relaxed);
  const Words words = LoadWords();
  static_assert(sizeof(out.doing) == sizeof(words));
  std::memcpy(out.doing.data(), words.data(), sizeof(words));
  out.doing.back() = '\0';
  return out;
}

ActivityScope::ActivityScope(Activity* activity, std::string_view first, std::string_view second,
                             bool waits_for_peers)
    : activity_(activity) {
  if (activity_ == nullptr) return;
  before_ = activity_->LoadWords();
  waited_before_ = activity_->waits_for_peers_.load(std::memory_order_relaxed);
  Activity::Words words{};
  char* const text = reinterpret_cast<char*>(words.data());
  const size_t head = std::min(first.size(), Activity::kMaxWords);
  std::memcpy(text, first.data(), head);
  std::memcpy(text + head, second.data(), std::min(second.size(), Activity::kMaxWords - head));
  activity_->Store(words, waits_for_peers);
}

ActivityScope::~ActivityScope() {
  if (activity_ != nullptr) activity_->Store(before_, waited_before_);
}

}  // namespace diffmoe
