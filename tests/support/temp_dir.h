// A fresh directory that goes away with its owner.
#pragma once

#include <string>

namespace diffmoe::test {

// Not thread-safe. The directory lies below the system's folder for temporary files and has a short
// path, so that unix sockets fit into it (their names hold 107 bytes).
class TempDir {
 public:
  // Aborts when no directory can be made.
  TempDir();
  // Removes the directory with all it holds.
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  // path() + "/" + name.
  std::string Sub(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Whole-file helpers; both abort on failure.
void WriteFile(const std::string& path, const std::string& contents);
std::string ReadFile(const std::string& path);

}  // namespace diffmoe::test
