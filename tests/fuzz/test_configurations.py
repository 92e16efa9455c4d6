"""Configurations with any value anywhere: refused in a line for each fault, or of a model that can be planned."""

import torch
from hypothesis import strategies as st

from grm.config import Config, load_config
from grm.errors import ConfigError
from grm.model import GRM

from .effort import fuzzed


def keys_of(section, prefix=""):
    """Every key of a configuration, dotted."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config.__mro__[1]):
            yield from keys_of(inner, f"{prefix}{name}.")
        yield f"{prefix}{name}"


KEYS = sorted(keys_of(Config))
VALUES = st.one_of(
    st.sampled_from(
        ".nan .inf -.inf 0 -1 1e-300 1e300 1e9 99999999999999999999 010 1:30 true null ~ '' [] {} [1] [1,2] [.nan,0,0]"
        " [1,2,3,4] {a: 1} {1: S} {2: A} 2021-01-01 !!python/object:os.system &a [*a] <<: [[[[]]]] x"
        " 16 17 64 128 1000 100000 0.5 0.999 [0.1,0.9] [5,1] [1e9,1e9] cuda fused separate sa tsa ranked".split()
    ),
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=True).map(repr),
    st.text(max_size=8),
)


@fuzzed(60, 1000, overrides=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def check_any_value_anywhere(overrides):
    try:
        config = load_config("grm_tiny", [f"{key}={value}" for key, value in overrides])
    except ConfigError as error:
        assert str(error)
        return
    assert load_config("grm_tiny", [f"{key}={value}" for key, value in overrides]) == config
    with torch.device("meta"):
        model = GRM(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) < 10**11
