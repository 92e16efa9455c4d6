import pytest

from grm.config import SyntheticConfig
from grm.data.synthetic import synthetic_sequence


@pytest.fixture(scope="session")
def articulated():
    """Twelve sequences whose target has limbs."""
    return [synthetic_sequence(SyntheticConfig(articulated=1), seed) for seed in range(12)]
