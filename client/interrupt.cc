#include "client/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <utility>

namespace diffmoe {

struct Interrupt::SignalState {
  sigset_t old_mask;
  int signals = -1;
  int stop = -1;
};

Interrupt::Interrupt() : state_(std::make_unique<SignalState>()) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &mask, &state_->old_mask);
  state_->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  state_->stop = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this] { Run(); });
}

Interrupt::~Interrupt() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(state_->stop, &one, sizeof(one));
  thread_.join();
  close(state_->signals);
  close(state_->stop);
  pthread_sigmask(SIG_SETMASK, &state_->old_mask, nullptr);
}

void Interrupt::Run() {
  pollfd descriptors[2] = {{state_->signals, POLLIN, 0}, {state_->stop, POLLIN, 0}};
  while (true) {
    if (poll(descriptors, 2, -1) < 0) continue;
    if (descriptors[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(state_->signals, &info, sizeof(info)) == sizeof(info)) Trigger();
  }
}

bool Interrupt::triggered() const {
  absl::MutexLock lock(&mutex_);
  return triggered_;
}

int64_t Interrupt::AddAction(std::function<void()> action) {
  absl::MutexLock lock(&mutex_);
  if (triggered_) action();
  actions_[++last_id_] = std::move(action);
  return last_id_;
}

void Interrupt::RemoveAction(int64_t id) {
  absl::MutexLock lock(&mutex_);
  actions_.erase(id);
}

bool Interrupt::WaitFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&triggered_), duration);
  return !triggered_;
}

void Interrupt::Trigger() {
  absl::MutexLock lock(&mutex_);
  triggered_ = true;
  for (const auto& [id, action] : actions_) action();
}

}  // namespace diffmoe
