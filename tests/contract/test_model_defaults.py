"""A model's files may set the parameters that the worker fills in, within a request's bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Sampling
from protocol.model_states import ModelDefaults
from service.config.sampling_defaults import SamplingDefaults
from service.schema.models import DefaultParameters
from worker.folder.generation_config import TYPES


def accepts(type: Any, value: object) -> bool:
    try:
        msgspec.convert(value, type)
    except msgspec.ValidationError:
        return False
    return True


def test_the_same_parameters_are_known_everywhere() -> None:
    names = set(ModelDefaults.__struct_fields__)
    assert names == set(TYPES)
    for struct in (Sampling, SamplingDefaults, DefaultParameters):
        assert names <= set(struct.__struct_fields__)
    assert set(SamplingDefaults.__struct_fields__) == set(DefaultParameters.__struct_fields__)


@pytest.mark.parametrize("name", TYPES)
@given(value=st.floats(-5, 5) | st.integers(-5, 2**21) | st.booleans() | st.text(max_size=2))
def test_a_value_is_bad_in_a_file_where_it_is_bad_in_a_request(name: str, value: object) -> None:
    in_configuration = accepts(SamplingDefaults, {name: value})
    assert accepts(TYPES[name], value) is in_configuration


@pytest.mark.parametrize("name", ModelDefaults.__struct_fields__)
def test_openais_defaults_are_listed_as_they_apply(name: str) -> None:
    assert getattr(DefaultParameters(), name) == getattr(Sampling(seed=0), name)
