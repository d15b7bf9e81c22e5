"""`pytc view`: what the command does with its flags."""

import logging
import threading

from pytc.checks import require
from pytc.view.command import ViewConfig
from pytc.view.sources import find_sources

LOGGER = logging.getLogger(__name__)
NEEDS = "looking at volumes needs the extra `view`: pip install -e '.[view]' in a clone"


def view(config: ViewConfig) -> None:
    """Show what the flags name until Ctrl-C, or print a link.

    Raises:
        ValueError: a file is missing, the extra is not installed, or the port is taken.
    """
    sources = find_sources(config)
    if sources.fragments is None:
        require(config.threshold is None, "--threshold with a merge tree", config.threshold)
    require_neuroglancer()
    if config.link is not None:
        from pytc.view.link import link

        print(link(sources, config))
        return

    from pytc.view.layers import Look
    from pytc.view.live import LiveViewer

    look = Look(config.position, config.select)
    try:
        shown = LiveViewer(
            sources,
            threshold=config.threshold,
            numbers=config.numbers,
            look=look,
            port=config.port,
        )
    except OSError as error:
        raise ValueError(f"expected a free port, got {config.port}: {error}") from error
    print(shown.url, flush=True)
    LOGGER.info("open it in a browser on this machine; Ctrl-C ends the viewer")
    try:
        wait_for_the_end()
    finally:
        shown.close()


def wait_for_the_end() -> None:
    """Until Ctrl-C; the server answers in threads of its own."""
    threading.Event().wait()


def require_neuroglancer() -> None:
    """ValueError, with the way out, unless neuroglancer is installed."""
    try:
        import neuroglancer  # noqa: F401
    except ImportError as error:
        raise ValueError(NEEDS) from error
