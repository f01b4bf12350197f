// Two threads write one plain variable: the thread sanitizer must end this program.
#include <cstdio>
#include <thread>

int main() {
  long counter = 0;
  auto count = [&counter] {
    for (int i = 0; i < 100000; ++i) counter += i;
  };
  std::thread first(count), second(count);
  first.join();
  second.join();
  std::printf("%ld\n", counter);
  return 0;
}
