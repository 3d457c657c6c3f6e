// What a thread of work is doing right now, for those who watch it for hangs: the step, a position
// that grows with every piece of work, and a few words.
//
// Threads: one thread, the working one, makes scopes and sets step and limit; Advance and Read from
// any thread. Nothing here locks or allocates, so Read may be called in a signal handler. Words of
// a moment that passes while it is read may be mixed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace diffmoe {

class Activity {
 public:
  // Longer words are cut.
  static constexpr size_t kMaxWords = 127;

  struct Snapshot {
    int64_t step = 0;                         // finished
    int64_t position = 0;                     // grows with every piece of work
    int64_t limit_ms = 0;                     // longest time without a change of position; 0: none
    bool waits_for_peers = false;             // a peer is to blame for the time that passes
    std::array<char, kMaxWords + 1> doing{};  // zero-terminated
  };

  void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  void set_limit_ms(int64_t limit_ms) { limit_ms_.store(limit_ms, std::memory_order_relaxed); }
  // A piece of work is done.
  void Advance() { position_.fetch_add(1, std::memory_order_relaxed); }
  Snapshot Read() const;

 private:
  friend class ActivityScope;
  static constexpr size_t kLetters = (kMaxWords + 1) / sizeof(uint64_t);
  using Words = std::array<uint64_t, kLetters>;

  Words LoadWords() const;
  void Store(const Words& words, bool waits_for_peers);

  std::atomic<int64_t> step_{0}, position_{0}, limit_ms_{0};
  std::atomic<uint32_t> version_{0};  // odd while the words change
  std::atomic<bool> waits_for_peers_{false};
  std::array<std::atomic<uint64_t>, kLetters> words_{};
};

// Says what the working thread does until the end of the scope, then what it did before. Begin and
// end are pieces of work. Scopes nest.
class ActivityScope {
 public:
  // The words are `first` and `second` joined ("all-to-all ", "dispatch of block 3"). Without
  // activity nothing happens.
  ActivityScope(Activity* activity, std::string_view first, std::string_view second = {},
                bool waits_for_peers = false);
  ~ActivityScope();
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  Activity* const activity_;
  Activity::Words before_{};
  bool waited_before_ = false;
};

}  // namespace diffmoe
