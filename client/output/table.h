// Text in aligned columns.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace diffmoe {

// Columns are as wide as their widest cell and two spaces apart; a header that starts with '>'
// aligns its column to the right. Control characters in cells are escaped, so that a name from
// outside can't disturb the terminal.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  // As many cells as the header has.
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  std::string ToString() const;

 private:
  std::vector<bool> right_;
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "key    value" lines; a pair with an empty value is left out.
std::string KeyValueText(const std::vector<std::pair<std::string, std::string>>& pairs);

}  // namespace diffmoe
