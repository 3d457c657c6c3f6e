#include "core/storage/commit_chain.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/rocksdb_support.h"

namespace diffmoe::storage {
namespace {

constexpr uint8_t kFormat = 1;
constexpr std::string_view kLinkPrefix("\0chain", 6);
constexpr std::string_view kBaseKey("\0base", 5);

std::string LinkKey(int64_t sequence) {
  std::string key(kLinkPrefix);
  for (int shift = 56; shift >= 0; shift -= 8) {
    key.push_back(static_cast<char>(static_cast<uint64_t>(sequence) >> shift));
  }
  return key;
}

int64_t SequenceOf(rocksdb::Slice link_key) {
  uint64_t sequence = 0;
  for (size_t i = kLinkPrefix.size(); i < link_key.size(); ++i) {
    sequence = sequence << 8 | static_cast<uint8_t>(link_key[i]);
  }
  return static_cast<int64_t>(sequence);
}

bool IsLinkKey(rocksdb::Slice key) {
  return key.size() == kLinkPrefix.size() + 8 &&
         key.starts_with(rocksdb::Slice(kLinkPrefix.data(), kLinkPrefix.size()));
}

std::string LinkValue(const ChainHash& hash) {
  std::string value(1, static_cast<char>(kFormat));
  value.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  return value;
}

absl::StatusOr<ChainHash> ParseLink(rocksdb::Slice value) {
  if (!value.empty() && static_cast<uint8_t>(value[0]) > kFormat) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the record store has format ", static_cast<int>(static_cast<uint8_t>(value[0])),
        ", this program reads up to ", kFormat, "; use a newer version"));
  }
  ChainHash hash;
  if (value.size() != 1 + hash.size()) {
    return absl::DataLossError(
        absl::StrCat("a commit link has ", value.size(), " bytes, expected ", 1 + hash.size()));
  }
  std::memcpy(hash.data(), value.data() + 1, hash.size());
  return hash;
}

class Hasher {
 public:
  Hasher() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
  ~Hasher() { XXH3_freeState(state_); }
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void Bytes(std::string_view bytes) { XXH3_128bits_update(state_, bytes.data(), bytes.size()); }
  void Number(int64_t number) { XXH3_128bits_update(state_, &number, sizeof(number)); }
  void Sized(std::string_view bytes) {
    Number(static_cast<int64_t>(bytes.size()));
    Bytes(bytes);
  }
  ChainHash Digest() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_));
    ChainHash hash;
    std::memcpy(hash.data(), canonical.digest, hash.size());
    return hash;
  }

 private:
  XXH3_state_t* state_;
};

}  // namespace

CommitPoint NextCommit(const CommitPoint& previous, absl::Span<const RecordWrite> writes) {
  const int64_t sequence = previous.sequence + 1;
  Hasher hasher;
  hasher.Bytes({reinterpret_cast<const char*>(previous.hash.data()), previous.hash.size()});
  hasher.Number(sequence);
  for (const RecordWrite& write : writes) {
    hasher.Sized(write.key);
    hasher.Number(write.value.has_value());
    if (write.value.has_value()) hasher.Sized(*write.value);
  }
  return CommitPoint{sequence, hasher.Digest()};
}

rocksdb::Status AddLink(const CommitPoint& point, rocksdb::WriteBatch& batch) {
  rocksdb::Status status = batch.Put(LinkKey(point.sequence), LinkValue(point.hash));
  if (status.ok() && point.sequence > kChainLength)
    status = batch.Delete(LinkKey(point.sequence - kChainLength));
  return status;
}

rocksdb::Status AddBase(const CommitPoint& point, rocksdb::WriteBatch& batch) {
  return batch.Put(rocksdb::Slice(kBaseKey.data(), kBaseKey.size()), LinkKey(point.sequence));
}

absl::StatusOr<CommitPoint> ReadHead(rocksdb::DB& db) {
  std::unique_ptr<rocksdb::Iterator> iterator(db.NewIterator(rocksdb::ReadOptions()));
  iterator->SeekForPrev(std::string(kLinkPrefix) + std::string(9, '\xff'));
  RETURN_IF_ERROR(FromRocksDb(iterator->status(), "read the newest commit"));
  if (!iterator->Valid() || !IsLinkKey(iterator->key())) return CommitPoint{};
  ASSIGN_OR_RETURN(const ChainHash hash, ParseLink(iterator->value()));
  return CommitPoint{SequenceOf(iterator->key()), hash};
}

absl::Status CheckLinks(rocksdb::DB& db, const CommitPoint& head) {
  int64_t first = std::max<int64_t>(1, head.sequence - kChainLength + 1);
  std::string base;
  const rocksdb::Status status =
      db.Get(rocksdb::ReadOptions(), rocksdb::Slice(kBaseKey.data(), kBaseKey.size()), &base);
  if (status.ok() && IsLinkKey(base)) first = std::max(first, SequenceOf(base));
  if (!status.ok() && !status.IsNotFound())
    return FromRocksDb(status, "read the start of the commit chain");

  std::unique_ptr<rocksdb::Iterator> iterator(db.NewIterator(rocksdb::ReadOptions()));
  int64_t expected = first;
  for (iterator->Seek(LinkKey(first)); expected <= head.sequence; iterator->Next(), ++expected) {
    const bool found = iterator->Valid() && IsLinkKey(iterator->key());
    const int64_t got = found ? SequenceOf(iterator->key()) : head.sequence + 1;
    RETURN_IF_ERROR(FromRocksDb(iterator->status(), "read the commit chain"));
    if (got != expected) {
      return absl::DataLossError(absl::StrCat("commits ", expected, " to ", got - 1, " of ",
                                              head.sequence, " are missing"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ChainHash> ReadLink(rocksdb::DB& db, int64_t sequence) {
  std::string value;
  const rocksdb::Status status = db.Get(rocksdb::ReadOptions(), LinkKey(sequence), &value);
  RETURN_IF_ERROR(FromRocksDb(status, absl::StrCat("read the link of commit ", sequence)));
  return ParseLink(value);
}

}  // namespace diffmoe::storage
