#include "tests/unit/core/storage/faulty_disk.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

namespace diffmoe::test {
namespace {

using FaultFlag = std::shared_ptr<std::atomic<Fault>>;

class FaultyFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyFile(std::unique_ptr<rocksdb::FSWritableFile> file, FaultFlag fault)
      : FSWritableFileOwnerWrapper(std::move(file)), fault_(std::move(fault)) {}

  using FSWritableFileOwnerWrapper::Append;
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
    if (*fault_ != Fault::kFullOnAppend) return target()->Append(data, options, debug);
    target()
        ->Append(rocksdb::Slice(data.data(), data.size() / 2), options, debug)
        .PermitUncheckedError();
    return rocksdb::IOStatus::NoSpace("injected");
  }
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           const rocksdb::DataVerificationInfo&,
                           rocksdb::IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* debug) override {
    const rocksdb::IOStatus fault = SyncFault();
    return fault.ok() ? target()->Sync(options, debug) : fault;
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* debug) override {
    const rocksdb::IOStatus fault = SyncFault();
    return fault.ok() ? target()->Fsync(options, debug) : fault;
  }

 private:
  rocksdb::IOStatus SyncFault() const {
    switch (*fault_) {
      case Fault::kFullOnAppend:
      case Fault::kFullOnSync:
        return rocksdb::IOStatus::NoSpace("injected");
      case Fault::kErrorOnSync:
        return rocksdb::IOStatus::IOError("injected");
      case Fault::kNone:
        break;
    }
    return rocksdb::IOStatus::OK();
  }
  const FaultFlag fault_;
};

class FaultyFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit FaultyFileSystem(FaultFlag fault)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), fault_(std::move(fault)) {}
  const char* Name() const override { return "FaultyFileSystem"; }
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSWritableFile> real;
    rocksdb::IOStatus status = target()->NewWritableFile(path, options, &real, debug);
    if (status.ok()) *file = std::make_unique<FaultyFile>(std::move(real), fault_);
    return status;
  }

 private:
  const FaultFlag fault_;
};

}  // namespace

FaultyDisk::FaultyDisk()
    : fault_(std::make_shared<std::atomic<Fault>>(Fault::kNone)),
      env_(rocksdb::NewCompositeEnv(std::make_shared<FaultyFileSystem>(fault_))) {}

FaultyDisk::~FaultyDisk() = default;

void FlipByte(const std::string& path, int64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(offset);
  const int byte = file.get();
  file.seekp(offset);
  file.put(static_cast<char>(byte ^ 0x20));
  if (!file.flush()) std::abort();
}

std::string FileWithExtension(const std::string& directory, const std::string& extension) {
  std::string newest;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == extension) newest = std::max(newest, entry.path().string());
  }
  if (newest.empty()) std::abort();
  return newest;
}

}  // namespace diffmoe::test
