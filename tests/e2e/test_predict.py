"""Labels from a real server: as a stream, and of whole sequences; in Python and by command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.e2e.process import ServerProcess, running
from tests.recurrent import LABELS, label_case, whole_case, write_repository

NAMES = ["oneill", "novak", "papadopoulos", "janssen"]


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = write_repository(
        tmp_path_factory.mktemp("models"), whole_case("lstm"), label_case("gru", name="so-far")
    )
    with running(root, "--drain-timeout-s=30") as server:
        yield server


async def test_labels_of_whole_sequences_and_so_far(labeller: ServerProcess) -> None:
    loaded = labeller.wait_for("serving", 1)
    assert loaded["models"] == ["so-far/1", "whole/1"]
    with cellar.connect(labeller.address) as client:
        assert [model.streamable for model in client.models()] == [True, False]
        found = client.predict("whole", NAMES, probabilities=True, top_k=2)
        assert set(found.labels) <= set(LABELS)
        for name, prediction in zip(NAMES, found.predictions, strict=True):
            assert prediction.position == len(name)
            assert prediction.probabilities is not None
            assert prediction.probabilities.sum() == pytest.approx(1)
            assert prediction.top[0].symbol == prediction.label
            assert prediction.top[0].probability == prediction.probabilities.max()
        with pytest.raises(cellar.NotStreamableError, match=r"ModelService\.Predict"):
            client.session("whole")
        with pytest.raises(cellar.NotStreamableError), client.stream("whole") as stream:
            stream.open(2)
        with pytest.raises(cellar.BadInputError, match="step 1: 'É'") as caught:
            client.predict("whole", ["ab", "aÉ"])
        assert (caught.value.row, caught.value.field) == (1, "inputs.text")

        every = client.predict("so-far", NAMES, every_step=True, raw=True, argmax=True)
        with client.stream("so-far", raw=True, argmax=True) as stream:
            channels = stream.open(len(NAMES))
            last = stream.step(channels, NAMES).predictions
        assert last.labels == every.last.symbols
        np.testing.assert_array_equal(last.raw, every.last.raw)
        with client.session("so-far") as session:
            steps = session.steps(NAMES[2], raw=True)
            np.testing.assert_array_equal(steps.raw, every[2].raw)
    async with cellar.aio.connect(labeller.address) as aclient:
        again = await aclient.predict("whole", NAMES, probabilities=True)
        np.testing.assert_array_equal(
            again.predictions.probabilities, found.predictions.probabilities
        )


def test_the_command_shows_labels(
    labeller: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", labeller.address]
    assert main(["predict", "whole", *NAMES, "--top-k", "2", *server]) == 0
    out = capsys.readouterr().out
    assert "label" in out
    assert all(name in out for name in NAMES)
    assert main(["models", *server]) == 0
    out = capsys.readouterr().out
    assert "5 labels" in out
    assert "no sessions" in out
    assert main(["models", "--json", *server]) == 0
    facts = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert facts["whole"]["labels"] == list(LABELS)
    assert facts["whole"]["streamable"] is False
    assert main(["step", "whole", "a", *server]) == 1
    assert "NOT_STREAMABLE" in capsys.readouterr().err
    assert main(["generate", "so-far", "a", *server]) == 1
    assert "BAD_INPUT" in capsys.readouterr().err


def test_sigterm_lets_predictions_finish(labeller: ServerProcess) -> None:
    """The last test of the module: it ends the server."""
    texts = [name * 40 for name in NAMES] * 20
    with (
        cellar.connect(labeller.address, retry=cellar.RetryPolicy(attempts=1)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        whole = client.predict("whole", texts).labels
        before = labeller.metric('cellar_steps_total{model="whole/1"}')
        calls = [pool.submit(client.predict, "whole", texts) for _ in range(8)]
        labeller.wait_for_metric('cellar_steps_total{model="whole/1"}', before + 1)
        labeller.terminate()
        assert labeller.wait() == 0
        failures = [call.exception() for call in calls]
        late = (cellar.DrainingError, cellar.ConnectionLostError)  # they came after the signal
        assert all(isinstance(failure, late) for failure in failures if failure is not None)
        finished = [call for call, failure in zip(calls, failures, strict=True) if failure is None]
        assert finished
        assert all(call.result().labels == whole for call in finished)
        assert "Traceback" not in labeller.errors()
