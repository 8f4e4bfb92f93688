"""What a server knows of its models once they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.server import Server
from service.settings import Settings
from tests.recurrent import char_case, series_case, whole_case, write_repository


async def arithmetic_of(repository: Path, **changes: Any) -> dict[str, str]:
    settings = Settings.model_validate(
        {"models": repository, "port": 0, "metrics_port": None, "max_sessions": 8, **changes}
    )
    server = Server(settings)
    await server.start()
    try:
        return {served.name: served.arithmetic for served in server.engine.registry.all()}
    finally:
        await server.stop()


async def test_what_bits_depend_on_is_known_of_all_models_with_states(tmp_path: Path) -> None:
    write_repository(tmp_path, char_case(), series_case(), whole_case())
    found = await arithmetic_of(tmp_path)
    assert len(found["letters"]) == len(found["prices"]) == 32
    assert found["letters"] != found["prices"]
    assert not found["whole"], "it has no sessions"
    assert await arithmetic_of(tmp_path, shards=2, max_batch=32, chunk_steps=2) == found
    others = await arithmetic_of(tmp_path, precision="int8", shards=1)
    assert others["letters"] != found["letters"]
