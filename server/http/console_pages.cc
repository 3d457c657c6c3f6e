#include "server/http/console_pages.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace diffmoe::server {
namespace {

const char* TypeOf(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  return "text/javascript; charset=utf-8";
}

}  // namespace

void AddConsolePages(http::HttpServer* server) {
  for (const ConsoleFile& file : ConsoleFiles()) {
    // A browser asks again each time, so a page never mixes files of two versions.
    const auto handler = [&file](const http::Request&) {
      return http::Reply{.content_type = TypeOf(file.name),
                         .body = std::string(file.content),
                         .headers = {{"Cache-Control", "no-store"}}};
    };
    server->Add({.path = absl::StrCat("/console/", file.name), .handler = handler});
    if (std::string_view(file.name) == "index.html") server->Add({.path = "/", .handler = handler});
  }
}

}  // namespace diffmoe::server
