#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

namespace diffmoe::test {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "test support: " << what << std::endl;
  std::abort();
}

}  // namespace

TempDir::TempDir() {
  std::error_code error;
  std::string pattern = std::filesystem::temp_directory_path(error).string() + "/dm-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) Die("cannot make a directory like " + pattern);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) std::cerr << "test support: " << path_ << " stays: " << error.message() << std::endl;
}

void WriteFile(const std::string& path, const std::string& contents) {
  std::ofstream file(path, std::ios::binary);
  file << contents;
  file.close();
  if (!file) Die("cannot write " + path);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Die("cannot read " + path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace diffmoe::test
