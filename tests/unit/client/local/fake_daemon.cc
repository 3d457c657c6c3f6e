// Plays diffmoe-coordinator or diffmoe-worker for tests of `diffmoe up`: appends its command line
// to DIR/starts, then does what DIR/behaviour says, where DIR is its data directory.
//   run      writes its ready file and waits for SIGTERM
//   refuse   says why on standard error and exits with code 6
//   stubborn as run, but ignores SIGTERM
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "core/base/atomic_file.h"
#include "nlohmann/json.hpp"

namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

int Run(const std::vector<std::string>& arguments) {
  const bool coordinator = arguments[0].ends_with("diffmoe-coordinator");
  std::string dir, listen;
  for (size_t i = 1; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == "--data-dir" || arguments[i] == "--dir") dir = arguments[i + 1];
    if (arguments[i] == "--listen") listen = arguments[i + 1];
  }
  {
    std::ofstream starts(dir + "/starts", std::ios::app);
    for (const std::string& argument : arguments) starts << argument << " ";
    starts << std::endl;
  }
  const std::string behaviour = ReadAll(dir + "/behaviour");
  if (behaviour == "refuse") {
    std::cerr << "port " << listen << " is in use" << std::endl;
    return 6;
  }
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  // Port 0 becomes a port that looks drawn.
  const std::string address = listen.ends_with(":0") ? "127.0.0.1:4242" : listen;
  nlohmann::json info = {{"pid", getpid()}, {"metrics_address", "127.0.0.1:4243"}};
  if (coordinator) {
    info["grpc_address"] = address;
  } else {
    info["worker_id"] = "w-1";
  }
  const std::string file = dir + (coordinator ? "/coordinator.json" : "/worker.json");
  if (!diffmoe::WriteFileAtomically(file, info.dump()).ok()) return 1;
  if (behaviour == "stubborn") {
    while (true) pause();
  }
  int signal = 0;
  sigwait(&mask, &signal);
  std::ofstream(dir + "/stopped") << "yes";
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return Run(std::vector<std::string>(argv, argv + argc)); }
