#include "daemon/ticker.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <utility>

namespace ikkuna {

Ticker::Ticker(std::string name, std::chrono::milliseconds every, std::function<void()> call)
    : name_(std::move(name)), every_(every), call_(std::move(call)), thread_([this] { Run(); }) {}

Ticker::~Ticker() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wakes_.notify_one();
  thread_.join();
}

void Ticker::Run() {
  ::pthread_setname_np(::pthread_self(), name_.c_str());
  constexpr auto kTellEvery = std::chrono::minutes(1);
  auto tell_due = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!wakes_.wait_for(lock, every_, [this] { return ending_; })) {
    lock.unlock();
    try {
      call_();
    } catch (const std::exception& error) {
      if (const auto now = std::chrono::steady_clock::now(); now >= tell_due) {
        tell_due = now + kTellEvery;
        spdlog::error("{} failed: {}", name_, error.what());
      }
    }
    lock.lock();
  }
}

}  // namespace ikkuna
