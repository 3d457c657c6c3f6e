#include "core/storage/space_probe.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/storage/rocksdb_support.h"
#include "rocksdb/env.h"

namespace diffmoe::storage {

absl::Status ProbeSpace(const std::string& directory, int64_t bytes, rocksdb::Env* env) {
  if (env == nullptr) env = rocksdb::Env::Default();
  const std::string path = directory + "/space-probe";
  const std::string block(size_t{1} << 16, '\0');
  std::unique_ptr<rocksdb::WritableFile> file;
  rocksdb::Status status = env->NewWritableFile(path, &file, rocksdb::EnvOptions());
  for (int64_t left = bytes; status.ok() && left > 0; left -= static_cast<int64_t>(block.size())) {
    status = file->Append(rocksdb::Slice(block.data(), std::min<size_t>(block.size(), left)));
  }
  if (status.ok()) status = file->Sync();
  if (file != nullptr) file->Close().PermitUncheckedError();
  file.reset();
  env->DeleteFile(path).PermitUncheckedError();
  return FromRocksDb(status, absl::StrCat("write ", bytes, " bytes to ", directory));
}

}  // namespace diffmoe::storage
