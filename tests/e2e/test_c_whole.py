"""Twenty thousand steps through the whole C interface; see c_whole.py."""

import c_whole
from harness import main


class CWholeTest(c_whole.Whole):
    def test_memory_and_accounts(self):
        self.run_steps(20_000, 200, 240)


if __name__ == "__main__":
    main()
