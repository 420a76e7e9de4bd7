"""`tracker copy`: open the log to copy and the one to copy into, make that where it is missing, and let nobody else at it."""

from __future__ import annotations

from tracker import copying, joining
from tracker.config import Config
from tracker.copying import Copied, Progress
from tracker.errors import ConfigInvalid


async def copy(config: Config, to: Config, progress: Progress | None = None) -> Copied:
    """Copy the log of `config` into that of `to`, or the rest of it after a copy that ended early.

    Raises `ConfigInvalid` where both are the same, `LogError`.
    """
    if config.log.path.resolve() == to.log.path.resolve():
        raise ConfigInvalid(f"log.path: {config.path} and {to.path} name the same file: nothing is to be copied")
    async with joining.copied_log(config) as source:
        if not to.log.path.exists():
            await joining.create_log(to)
        with joining.hold_log(to):
            async with joining.taking_log(to) as target:
                return await copying.copy(source, target, progress)
