// Early return on an error Status, as in every Abseil code base.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define DIFFMOE_CONCAT_INNER(a, b) a##b
#define DIFFMOE_CONCAT(a, b) DIFFMOE_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                            \
  do {                                                         \
    absl::Status status_macro_result = (expression);           \
    if (!status_macro_result.ok()) return status_macro_result; \
  } while (false)

// ASSIGN_OR_RETURN(auto value, Function());
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_IMPL(DIFFMOE_CONCAT(status_or_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_IMPL(name, declaration, expression) \
  auto name = (expression);                                  \
  if (!name.ok()) return std::move(name).status();           \
  declaration = std::move(name).value()
