#include "core/storage/high_water_mark.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/status_macros.h"

namespace diffmoe::storage {
namespace {

constexpr char kMagic[8] = {'D', 'M', 'O', 'E', 'M', 'A', 'R', 'K'};
constexpr uint32_t kFormat = 1;
// Slots lie in different blocks of the disk, so that a torn write can't touch both.
constexpr size_t kSlotDistance = 4096;

struct Slot {
  char magic[8];
  uint32_t format;
  uint32_t reserved;
  uint64_t generation;
  int64_t sequence;
  ChainHash hash;
  uint64_t checksum;  // of everything before
};
static_assert(sizeof(Slot) == 56);

uint64_t SlotChecksum(const Slot& slot) { return XXH3_64bits(&slot, offsetof(Slot, checksum)); }

Slot MakeSlot(uint64_t generation, const CommitPoint& point) {
  Slot slot{};
  std::memcpy(slot.magic, kMagic, sizeof(kMagic));
  slot.format = kFormat;
  slot.generation = generation;
  slot.sequence = point.sequence;
  slot.hash = point.hash;
  slot.checksum = SlotChecksum(slot);
  return slot;
}

bool IsWhole(const Slot& slot) {
  return std::memcmp(slot.magic, kMagic, sizeof(kMagic)) == 0 &&
         slot.checksum == SlotChecksum(slot);
}

}  // namespace

absl::StatusOr<HighWaterMark> HighWaterMark::Open(const std::string& path) {
  HighWaterMark mark(path);
  mark.fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (mark.fd_ < 0) {
    if (errno == ENOENT) return mark;
    return FileError(errno, "open", path);
  }
  for (int i = 0; i < 2; ++i) {
    Slot slot{};
    const ssize_t got = pread(mark.fd_, &slot, sizeof(slot), static_cast<off_t>(i * kSlotDistance));
    if (got < 0) return FileError(errno, "read", path);
    if (got != sizeof(slot) || !IsWhole(slot)) continue;
    if (slot.format > kFormat) {
      return absl::FailedPreconditionError(absl::StrCat(path, " has format ", slot.format,
                                                        ", this program reads up to ", kFormat,
                                                        "; use a newer version"));
    }
    if (mark.point_.has_value() && slot.generation < mark.generation_) continue;
    mark.generation_ = slot.generation;
    mark.point_ = CommitPoint{slot.sequence, slot.hash};
  }
  if (!mark.point_.has_value()) {
    return absl::DataLossError(absl::StrCat("the high-water mark ", path, " is damaged"));
  }
  return mark;
}

absl::StatusOr<HighWaterMark> HighWaterMark::Recreate(const std::string& path,
                                                      const CommitPoint& point) {
  HighWaterMark mark(path);
  RETURN_IF_ERROR(mark.Create(point));
  return mark;
}

absl::Status HighWaterMark::Create(const CommitPoint& point) {
  std::string bytes(2 * kSlotDistance, '\0');
  const Slot slot = MakeSlot(2, point);
  std::memcpy(bytes.data(), &slot, sizeof(slot));
  RETURN_IF_ERROR(WriteFileAtomically(path_, bytes));
  fd_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) return FileError(errno, "open", path_);
  generation_ = 2;
  point_ = point;
  return absl::OkStatus();
}

absl::Status HighWaterMark::Set(const CommitPoint& point) {
  if (fd_ < 0) return Create(point);
  const Slot slot = MakeSlot(generation_ + 1, point);
  const off_t offset = static_cast<off_t>((slot.generation & 1) * kSlotDistance);
  const ssize_t written = pwrite(fd_, &slot, sizeof(slot), offset);
  if (written != sizeof(slot)) return FileError(written < 0 ? errno : EIO, "write", path_);
  KillPoint("mark.written");
  if (fdatasync(fd_) != 0) return FileError(errno, "sync", path_);
  KillPoint("mark.synced");
  generation_ = slot.generation;
  point_ = point;
  return absl::OkStatus();
}

HighWaterMark::HighWaterMark(HighWaterMark&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      generation_(other.generation_),
      point_(other.point_) {}

HighWaterMark& HighWaterMark::operator=(HighWaterMark&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(generation_, other.generation_);
  std::swap(point_, other.point_);
  return *this;
}

HighWaterMark::~HighWaterMark() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace diffmoe::storage
