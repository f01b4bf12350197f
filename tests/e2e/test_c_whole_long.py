"""A million steps through the whole C interface; see c_whole.py. Label `long`."""

import c_whole
from harness import main


class CWholeLongTest(c_whole.Whole):
    def test_memory_and_accounts(self):
        self.run_steps(1_000_000, 0, 3000)


if __name__ == "__main__":
    main()
