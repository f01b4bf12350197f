// Reads one element past the end of a heap array: the address sanitizer must end this program.
#include <cstdio>
#include <memory>

int main(int argc, char**) {
  auto numbers = std::make_unique<int[]>(4);
  numbers[0] = argc;
  std::printf("%d\n", numbers[static_cast<size_t>(3 + argc)]);
  return 0;
}
