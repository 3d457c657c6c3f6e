#include "worker/error_boundary.h"

#include <exception>
#include <new>
#include <string>

#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"

namespace diffmoe {
namespace {

// c10 errors carry a stack trace after the first line.
std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

absl::Status CatchErrors(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const CollectiveError& error) {
    return absl::UnavailableError(FirstLine(error.what()));
  } catch (const NonFiniteScoreError& error) {
    return absl::InternalError(FirstLine(error.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "out of host memory: lower train.global_batch or the size of the model");
  } catch (const std::exception& error) {
    return absl::InternalError(FirstLine(error.what()));
  }
}

}  // namespace diffmoe
