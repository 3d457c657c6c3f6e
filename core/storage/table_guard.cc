#include "core/storage/table_guard.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/log.h"

namespace diffmoe::storage {
namespace {

// The block-based table format of RocksDB 5 to 7: block ... footer, where the footer is a checksum
// type, the handles of the metaindex and the index, padding, a version and a magic number.
constexpr int64_t kFooterBytes = 53;
constexpr uint64_t kMagic = 0x88e241b785f4cff7u;
constexpr uint32_t kHashIndexBit = 0x80000000u;
constexpr uint64_t kMaxMetaindexBytes = 1 << 20;
constexpr std::string_view kPropertiesKey = "rocksdb.properties";

struct Handle {
  uint64_t offset = 0, bytes = 0;
};

// Takes a number off the front.
std::optional<uint64_t> TakeVarint(std::string_view* text) {
  uint64_t number = 0;
  for (int shift = 0; shift < 64 && !text->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(text->front());
    text->remove_prefix(1);
    number |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return number;
  }
  return std::nullopt;
}

std::optional<Handle> TakeHandle(std::string_view text) {
  const std::optional<uint64_t> offset = TakeVarint(&text);
  const std::optional<uint64_t> bytes = offset ? TakeVarint(&text) : std::nullopt;
  if (!bytes) return std::nullopt;
  return Handle{*offset, *bytes};
}

std::optional<std::string> ReadAt(std::ifstream& file, uint64_t offset, uint64_t bytes) {
  std::string text(bytes, '\0');
  file.clear();
  file.seekg(static_cast<std::streamoff>(offset));
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes))) return std::nullopt;
  return text;
}

// The entries of the metaindex hold their keys whole, in order.
std::optional<Handle> FindProperties(std::string_view block) {
  while (!block.empty()) {
    const std::optional<uint64_t> shared = TakeVarint(&block);
    const std::optional<uint64_t> own = shared ? TakeVarint(&block) : std::nullopt;
    const std::optional<uint64_t> value = own ? TakeVarint(&block) : std::nullopt;
    if (!value || *shared != 0 || *own > block.size() || *value > block.size() - *own) break;
    if (block.substr(0, *own) == kPropertiesKey) return TakeHandle(block.substr(*own, *value));
    block.remove_prefix(*own + *value);
  }
  return std::nullopt;
}

bool IsUnopenable(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error || size < kFooterBytes) return false;
  std::ifstream file(path, std::ios::binary);
  const auto footer = ReadAt(file, static_cast<uint64_t>(size - kFooterBytes), kFooterBytes);
  uint64_t magic = 0;
  if (!footer) return false;
  std::memcpy(&magic, footer->data() + kFooterBytes - sizeof(magic), sizeof(magic));
  const std::optional<Handle> metaindex = TakeHandle(std::string_view(*footer).substr(1));
  if (magic != kMagic || !metaindex || metaindex->bytes > kMaxMetaindexBytes) return false;
  const auto block = ReadAt(file, metaindex->offset, metaindex->bytes);
  const std::optional<Handle> properties = block ? FindProperties(*block) : std::nullopt;
  if (!properties || properties->bytes < sizeof(uint32_t)) return false;
  const auto tail =
      ReadAt(file, properties->offset + properties->bytes - sizeof(uint32_t), sizeof(uint32_t));
  uint32_t type_and_restarts = 0;
  if (!tail) return false;
  std::memcpy(&type_and_restarts, tail->data(), sizeof(type_and_restarts));
  return (type_and_restarts & kHashIndexBit) != 0;
}

}  // namespace

std::vector<std::string> UnopenableTables(const std::string& directory) {
  std::vector<std::string> tables;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".sst" && IsUnopenable(entry.path())) {
      tables.push_back(entry.path().string());
    }
  }
  std::sort(tables.begin(), tables.end());
  return tables;
}

absl::Status CheckTablesOpenable(const std::string& directory) {
  const std::vector<std::string> tables = UnopenableTables(directory);
  if (tables.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("file ", tables.front(), " is damaged: its properties block is not one"));
}

absl::Status SetUnopenableAside(const std::string& directory, const std::string& target) {
  for (const std::string& table : UnopenableTables(directory)) {
    std::error_code error;
    std::filesystem::create_directories(target, error);
    const std::string to =
        absl::StrCat(target, "/", std::filesystem::path(table).filename().string());
    if (!error) std::filesystem::rename(table, to, error);
    if (error) return FileError(error.value(), "move", table);
    LogError("storage", "a damaged table was set aside", {{"file", table}, {"to", to}});
  }
  return absl::OkStatus();
}

}  // namespace diffmoe::storage
