"""What int8 costs: measured without data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.errors import ModelError
from models.repository import ModelRepository
from service.quality import divergence, int8_nats
from tests.recurrent import series_case

ZOO = Path(__file__).parents[3] / "models" / "zoo"


def test_divergence_is_that_of_the_formula() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    expected = (p * np.log(p / q)).sum()
    found = divergence(np.log(p).astype(np.float32)[None], np.log(q).astype(np.float32)[None] + 3)
    assert found == pytest.approx(expected, abs=1e-6)
    assert divergence(np.log(p)[None].astype(np.float32), np.log(p)[None].astype(np.float32)) == 0


def test_the_zoo_loses_a_thousandth_of_a_nat_at_most() -> None:
    model = ModelRepository(ZOO).load("stdlib-text")
    nats = int8_nats(model)
    assert 0 < nats < 1e-3
    assert nats == int8_nats(model)


def test_only_character_models_have_it() -> None:
    model = series_case().model
    with pytest.raises(ModelError, match="character models alone"):
        int8_nats(model)
    manifest = model.manifest.model_copy(update={"task": "foreign"})
    with pytest.raises(ModelError, match="character models alone"):
        int8_nats(replace(model, manifest=manifest))
