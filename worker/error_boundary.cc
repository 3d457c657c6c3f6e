#include "worker/error_boundary.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"

namespace diffmoe {
namespace {

// c10 errors carry a stack trace after the first line.
std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

absl::Status OutOfMemory(const std::string& detail) {
  return absl::ResourceExhaustedError(
      absl::StrCat("out of host memory: lower train.global_batch or the size of the model",
                   detail.empty() ? "" : absl::StrCat(" (", detail, ")")));
}

}  // namespace

absl::Status CatchErrors(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const CollectiveError& error) {
    return absl::UnavailableError(FirstLine(error.what()));
  } catch (const NonFiniteScoreError& error) {
    return absl::OutOfRangeError(FirstLine(error.what()));
  } catch (const std::bad_alloc&) {
    return OutOfMemory("");
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemory(FirstLine(error.what()));
  } catch (const c10::Error& error) {
    // The CPU allocator has no type of its own for it.
    const std::string text = FirstLine(error.what());
    if (absl::StrContains(text, "can't allocate memory")) return OutOfMemory(text);
    return absl::InternalError(text);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again ||
        error.code() == std::errc::not_enough_memory) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no further thread or memory: ", FirstLine(error.what())));
    }
    return absl::InternalError(FirstLine(error.what()));
  } catch (const std::exception& error) {
    return absl::InternalError(FirstLine(error.what()));
  }
}

}  // namespace diffmoe
