"""A hundred thousand steps; a million are in test_steady_long.py."""

import steady
from harness import main


class SteadyTest(steady.Steady):
    def test_memory_store_and_counters(self):
        self.run_steps(100_000)


if __name__ == "__main__":
    main()
