"""Settings from Python, the command line or a run folder: checked, and explained when wrong."""

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from training.errors import NAMED, ConfigError, shortened
from training.families.char.settings import CharConfig
from training.families.classify.settings import ClassifyConfig
from training.families.series.settings import SeriesConfig
from training.settings import Further, flag_of

AnyConfig = CharConfig | SeriesConfig | ClassifyConfig
_READER: TypeAdapter[AnyConfig] = TypeAdapter(Annotated[AnyConfig, Field(discriminator="task")])


def parse_config(settings: dict[str, Any]) -> AnyConfig:
    """Check settings; ``task`` chooses between the kinds.

    Raises:
        ConfigError: a setting is wrong; the message names each one.
    """
    try:
        return _READER.validate_python(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def parse_further(settings: dict[str, Any]) -> Further | None:
    """Check how much further a run is to train; None where nothing says so.

    Raises:
        ConfigError: a setting is wrong, or there are several.
    """
    if not settings:
        return None
    try:
        return Further.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def read_config(text: str, *, where: str) -> AnyConfig:
    """Read the settings of an earlier run from JSON.

    Raises:
        ConfigError: it is not what a run writes.
    """
    try:
        return _READER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error


def write_config(config: AnyConfig) -> str:
    """The settings as JSON that `read_config` reads."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part not in ("char", "series", "classify")]
        message = problem["msg"].removeprefix("Value error, ")
        if not path:
            lines.append(message)
            continue
        field = flag_of(path[0]).removeprefix("--")
        lines.append(f"{field}: {message} (it is {shortened(repr(problem['input']), most=80)})")
    shown = lines[:NAMED]
    if len(lines) > NAMED:
        shown.append(f"and {len(lines) - NAMED:,} more of the kind")
    return "; ".join(shown)
