// Memory that one rank writes and the other ranks of its host read: a memfd of one header page and
// a fixed number of bytes. The owner fills it and publishes a round; readers wait for that round.
// Who may overwrite when is the business of shared_memory_collectives.cc.
//
// The memfd's pages are allocated at creation and its size is sealed, so that neither lack of
// memory nor another process can turn an access into SIGBUS.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace diffmoe {

// The first page. Everything but the atomics is written before `round` is published.
struct OutboxHeader {
  static constexpr size_t kRanks = 128, kNameBytes = 128;
  std::atomic<uint32_t> round;  // the round whose bytes stand here
  std::atomic<uint32_t> left;   // 1: the owner will publish nothing more
  uint32_t rounds;              // that the owner's part of the collective takes
  char name[kNameBytes];        // of the collective, cut to fit, zero-terminated
  uint64_t bytes_to[kRanks];    // in the whole collective
};

// The writer's side.
class Outbox {
 public:
  // bytes: room behind the header. Throws std::system_error that names what failed.
  Outbox(const std::string& name, size_t bytes);
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  int file() const { return file_; }
  size_t bytes() const { return bytes_; }
  OutboxHeader& header() { return *header_; }
  std::byte* data();

  // Makes what was written visible to readers that wait for `round`, and wakes them.
  void Publish(uint32_t round);
  // Tells readers that no further round will come.
  void Leave();

 private:
  int file_ = -1;
  size_t bytes_;
  OutboxHeader* header_ = nullptr;
};

// The reader's side of another rank's outbox.
class PeerOutbox {
 public:
  // Maps the outbox `name` of `bytes` bytes that process `process` has open as `file`. Throws
  // std::system_error when this process may not, for example because it runs on another host.
  PeerOutbox(pid_t process, int file, const std::string& name, size_t bytes);
  ~PeerOutbox();
  PeerOutbox(PeerOutbox&& other) noexcept;
  PeerOutbox& operator=(PeerOutbox&&) = delete;

  const OutboxHeader& header() const { return *header_; }
  const std::byte* data() const;

  bool Has(uint32_t round) const { return header_->round.load(std::memory_order_acquire) == round; }
  bool left() const { return header_->left.load(std::memory_order_acquire) != 0; }
  // Sleeps until the owner publishes something other than what it showed at the call, or `limit`.
  // May return early.
  void Sleep(uint32_t seen_round, std::chrono::nanoseconds limit) const;

 private:
  const OutboxHeader* header_ = nullptr;
  size_t bytes_;
};

// Notices the end of a process, by pidfd.
class ProcessWatch {
 public:
  // Throws std::system_error.
  explicit ProcessWatch(pid_t process);
  ~ProcessWatch();
  ProcessWatch(ProcessWatch&& other) noexcept;
  ProcessWatch& operator=(ProcessWatch&&) = delete;

  bool ended() const;

 private:
  int file_;
};

}  // namespace diffmoe
