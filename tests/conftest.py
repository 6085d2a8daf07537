import pytest
import torch

# its asserts show their numbers as those of test files do
pytest.register_assert_rewrite("tests.architectures.derivatives")


def _torch_settings() -> tuple:
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )


@pytest.fixture(autouse=True)
def settings_of_torch_stay():
    """No test, and nothing it calls, leaves a global setting of torch changed."""
    before = _torch_settings()
    yield
    assert _torch_settings() == before
