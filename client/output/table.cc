#include "client/output/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/output/text.h"

namespace diffmoe {
namespace {

// Characters of UTF-8 text, each taken as one column wide.
size_t Columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

std::string Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths,
                 const std::vector<bool>& right) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - Columns(cells[i]), ' ');
    if (i > 0) line += "  ";
    absl::StrAppend(&line, right[i] ? padding : "", cells[i], right[i] ? "" : padding);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

Table::Table(std::vector<std::string> header) : header_(std::move(header)) {
  for (std::string& cell : header_) {
    right_.push_back(!cell.empty() && cell[0] == '>');
    if (right_.back()) cell.erase(0, 1);
  }
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(header_.size());
  for (std::string& cell : cells) cell = CleanText(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < header_.size(); ++i) {
    size_t width = Columns(header_[i]);
    for (const auto& row : rows_) width = std::max(width, Columns(row[i]));
    widths.push_back(width);
  }
  std::string text = Line(header_, widths, right_);
  for (const auto& row : rows_) text += Line(row, widths, right_);
  return text;
}

std::string KeyValueText(const std::vector<std::pair<std::string, std::string>>& pairs) {
  size_t width = 0;
  for (const auto& [key, value] : pairs) {
    if (!value.empty()) width = std::max(width, key.size());
  }
  std::string text;
  for (const auto& [key, value] : pairs) {
    if (value.empty()) continue;
    absl::StrAppend(&text, key, std::string(width + 2 - key.size(), ' '), CleanText(value), "\n");
  }
  return text;
}

}  // namespace diffmoe
