import pytest

pytest.register_assert_rewrite("tests.nights")  # it is no test, and what its assertions find is to be seen all the same
