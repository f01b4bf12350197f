// MemoryBudget: how many bytes the graphs of all producers may hold beyond a message's own call: copies of payloads
// that wait for work, inputs that wait for other ranks. What finds no room is refused, and the refusal counted.
//
// Owner: the daemon, one for all graphs. Thread rule: every method from any thread; a Reservation by one at a time.
// Lifetime: a reservation may outlive the budget.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

namespace ikkuna::graph {

class MemoryBudget {
 private:
  struct State;

 public:
  // Room for some bytes, given back when it ends.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept;
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }

    uint64_t bytes() const { return bytes_; }
    void Release();

   private:
    friend class MemoryBudget;
    Reservation(std::shared_ptr<State> state, uint64_t bytes);
    std::shared_ptr<State> state_;
    uint64_t bytes_ = 0;
  };

  explicit MemoryBudget(uint64_t bytes_max);

  // Nothing: there is no room now; counted. Never waits.
  std::optional<Reservation> Reserve(uint64_t bytes);

  uint64_t bytes_max() const;
  uint64_t used() const;
  uint64_t peak() const;
  uint64_t refused() const;  // calls of Reserve

 private:
  std::shared_ptr<State> state_;
};

}  // namespace ikkuna::graph
