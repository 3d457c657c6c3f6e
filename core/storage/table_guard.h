// Tables that RocksDB can't be allowed to open. It reads the properties of a table before it looks
// at their checksum, and one damaged bit there (the type of the block, which says "hash index"
// then) ends the process by an assertion. Stateless.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace diffmoe::storage {

// Paths of such tables in a database's directory. Every other damage is left to RocksDB, which
// names the file. Reads about a kilobyte a table.
std::vector<std::string> UnopenableTables(const std::string& directory);

// DATA_LOSS that names the first of them; OK when there is none.
absl::Status CheckTablesOpenable(const std::string& directory);

// Moves them from `directory` to `target`, which is made when it is needed.
absl::Status SetUnopenableAside(const std::string& directory, const std::string& target);

}  // namespace diffmoe::storage
