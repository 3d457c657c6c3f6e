// The files of the web console (server/console), part of the program, as routes of an HTTP server.
#pragma once

#include <span>
#include <string_view>

#include "core/http/http_server.h"

namespace diffmoe::server {

struct ConsoleFile {
  const char* name;  // "app.js"
  std::string_view content;
};

// index.html is among them.
std::span<const ConsoleFile> ConsoleFiles();

// "/" is index.html, "/console/NAME" each file.
void AddConsolePages(http::HttpServer* server);

}  // namespace diffmoe::server
