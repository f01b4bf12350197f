// NameList: names within a sentence, the first few of however many: a note has no room for thousands, and what follows
// them must not be cut off. Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <string>

namespace ikkuna::torch_probe {

class NameList {
 public:
  static constexpr size_t kShown = 8;

  void Add(const std::string& name) {
    if (++count_ <= kShown) names_ += (names_.empty() ? "" : ", ") + name;
  }
  bool empty() const { return count_ == 0; }
  std::string Text() const {
    return count_ <= kShown ? names_ : names_ + " and " + std::to_string(count_ - kShown) + " more";
  }

 private:
  std::string names_;
  size_t count_ = 0;
};

}  // namespace ikkuna::torch_probe
