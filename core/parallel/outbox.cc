#include "core/parallel/outbox.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <new>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

constexpr size_t kHeaderBytes = 4096;
static_assert(sizeof(OutboxHeader) <= kHeaderBytes);
static_assert(std::atomic<uint32_t>::is_always_lock_free &&
              sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

[[noreturn]] void Throw(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

void* Map(int file, size_t bytes, int protection, const std::string& name) {
  void* memory =
      mmap(nullptr, kHeaderBytes + bytes, protection, MAP_SHARED | MAP_POPULATE, file, 0);
  if (memory == MAP_FAILED) {
    Throw(errno, absl::StrCat("mapping ", kHeaderBytes + bytes, " bytes of outbox ", name));
  }
  return memory;
}

size_t PhysicalMemory() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void Wake(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

Outbox::Outbox(const std::string& name, size_t bytes) : bytes_(bytes) {
  file_ = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file_ < 0) Throw(errno, absl::StrCat("creating outbox ", name));
  try {
    // Allocates the pages, so that a lack of memory is seen here. More than the machine has is
    // refused first: the kernel would kill processes before it says no.
    const int error = bytes > PhysicalMemory()
                          ? ENOMEM
                          : posix_fallocate(file_, 0, static_cast<off_t>(kHeaderBytes + bytes));
    if (error != 0) {
      Throw(error, absl::StrCat("allocating ", kHeaderBytes + bytes,
                                " bytes of shared memory for outbox ", name));
    }
    if (fcntl(file_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      Throw(errno, absl::StrCat("sealing the size of outbox ", name));
    }
    header_ = new (Map(file_, bytes, PROT_READ | PROT_WRITE, name)) OutboxHeader{};
  } catch (...) {
    close(file_);
    throw;
  }
}

Outbox::~Outbox() {
  Leave();
  munmap(header_, kHeaderBytes + bytes_);
  close(file_);
}

std::byte* Outbox::data() { return reinterpret_cast<std::byte*>(header_) + kHeaderBytes; }

void Outbox::Publish(uint32_t round) {
  header_->round.store(round, std::memory_order_release);
  Wake(header_->round);
}

void Outbox::Leave() {
  header_->left.store(1, std::memory_order_release);
  Wake(header_->round);
}

PeerOutbox::PeerOutbox(pid_t process, int file, const std::string& name, size_t bytes)
    : bytes_(bytes) {
  // The link's text names the memfd. Names are random: a process of another host or of another
  // namespace that happens to have the same id can't be mistaken for the peer.
  const std::string path = absl::StrCat("/proc/", process, "/fd/", file);
  std::array<char, 256> target{};
  if (readlink(path.c_str(), target.data(), target.size() - 1) < 0) {
    Throw(errno, absl::StrCat("looking for outbox ", name, " at ", path));
  }
  if (!absl::StartsWith(target.data(), absl::StrCat("/memfd:", name, " "))) {
    Throw(ENOENT, absl::StrCat("looking for outbox ", name, " at ", path, ", which is ",
                               std::string(target.data())));
  }
  const int opened = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (opened < 0) Throw(errno, absl::StrCat("opening outbox ", name, " at ", path));
  try {
    header_ = static_cast<const OutboxHeader*>(Map(opened, bytes, PROT_READ, name));
  } catch (...) {
    close(opened);
    throw;
  }
  close(opened);
}

PeerOutbox::~PeerOutbox() {
  if (header_ != nullptr) munmap(const_cast<OutboxHeader*>(header_), kHeaderBytes + bytes_);
}

PeerOutbox::PeerOutbox(PeerOutbox&& other) noexcept
    : header_(std::exchange(other.header_, nullptr)), bytes_(other.bytes_) {}

const std::byte* PeerOutbox::data() const {
  return reinterpret_cast<const std::byte*>(header_) + kHeaderBytes;
}

void PeerOutbox::Sleep(uint32_t seen_round, std::chrono::nanoseconds limit) const {
  const timespec time{limit.count() / 1'000'000'000, limit.count() % 1'000'000'000};
  syscall(SYS_futex, &header_->round, FUTEX_WAIT, seen_round, &time, nullptr, 0);
}

ProcessWatch::ProcessWatch(pid_t process)
    : file_(static_cast<int>(syscall(SYS_pidfd_open, process, 0))) {
  if (file_ < 0) Throw(errno, absl::StrCat("watching process ", process));
}

ProcessWatch::~ProcessWatch() {
  if (file_ >= 0) close(file_);
}

ProcessWatch::ProcessWatch(ProcessWatch&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

bool ProcessWatch::ended() const {
  pollfd state{file_, POLLIN, 0};
  return poll(&state, 1, 0) > 0;
}

}  // namespace diffmoe
