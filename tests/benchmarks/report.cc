#include "tests/benchmarks/report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace diffmoe::bench {

Json ToJson(const Figure& figure) {
  Json out{{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit},
           {"target", nullptr},   {"comparison", nullptr}, {"met", nullptr}};
  if (figure.at_least || figure.at_most) {
    out["target"] = figure.at_least ? *figure.at_least : *figure.at_most;
    out["comparison"] = figure.at_least ? ">=" : "<=";
    out["met"] = figure.met();
  }
  return out;
}

std::string Table(const std::vector<Figure>& figures) {
  size_t width = 0;
  for (const Figure& figure : figures) width = std::max(width, figure.name.size());
  std::string out;
  for (const Figure& figure : figures) {
    absl::StrAppendFormat(&out, "%-*s %10.4g %-9s", static_cast<int>(width), figure.name,
                          figure.value, figure.unit);
    if (figure.at_least) absl::StrAppendFormat(&out, " >= %-8.4g", *figure.at_least);
    if (figure.at_most) absl::StrAppendFormat(&out, " <= %-8.4g", *figure.at_most);
    if (figure.at_least || figure.at_most) absl::StrAppend(&out, figure.met() ? " ok" : " MISSED");
    absl::StrAppend(&out, "\n");
  }
  return out;
}

}  // namespace diffmoe::bench
