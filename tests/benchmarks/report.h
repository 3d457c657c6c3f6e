// Figures beside their targets.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace diffmoe::bench {

using Json = nlohmann::ordered_json;

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<double> at_least, at_most;  // the target, if there is one

  bool met() const { return (!at_least || value >= *at_least) && (!at_most || value <= *at_most); }
};

// {name, value, unit, target, comparison, met}; without target the last three are null.
Json ToJson(const Figure& figure);

// Columns for people: name, value, target, and whether it is met.
std::string Table(const std::vector<Figure>& figures);

}  // namespace diffmoe::bench
