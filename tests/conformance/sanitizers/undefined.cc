// Overflows a signed integer: the undefined-behaviour sanitizer must end this program.
#include <climits>
#include <cstdio>

int main(int argc, char**) {
  int number = INT_MAX;
  number += argc;
  std::printf("%d\n", number);
  return 0;
}
