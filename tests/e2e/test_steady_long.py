"""A million steps; see steady.py. An hour at most, label `long`."""

import steady
from harness import main


class SteadyTest(steady.Steady):
    def test_memory_store_and_counters(self):
        self.run_steps(1_000_000)


if __name__ == "__main__":
    main()
