"""What holds for all tests.

They write data and runs below their own folders: $PYTC_DATA is read by `public_data` alone.
"""

import os
import signal

import public_data  # noqa: F401  (which notes where $PYTC_DATA is)
import pytest

os.environ.pop("PYTC_DATA", None)
os.environ.pop("PYTC_RUNS", None)
# A shell that starts the tests in the background has Ctrl-C ignored; programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """Skip what carries the marker gpu where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use")


@pytest.fixture
def one_thread():
    """More threads only wait for each other on images this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def registry():
    """Networks that a test registers are unknown before and after it.

    Those of pytc stay: a module registers them when it is imported, and that happens once.
    """
    from small_networks import forget_plugins

    forget_plugins()
    yield
    forget_plugins()


@pytest.fixture(autouse=True, scope="session")
def messages_are_shown():
    """As in every command: what the library says is on standard output."""
    from pytc.messages import show_messages

    show_messages()


@pytest.fixture(autouse=True, scope="session")
def networks_are_built_on_the_cpu():
    """Where a test names no device: its images are on the CPU, on machines with a GPU too."""

    def default_device():
        import torch

        return torch.get_default_device()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytc.models.default_device", default_device)
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which one run of 8 steps is finished; each module of tests has its own."""
    from tiny_runs import tiny

    from pytc.training.loop import train

    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(tiny())
    return folder


@pytest.fixture
def finished(workplace, monkeypatch):
    """The folder of that run; the test runs in `workplace`."""
    monkeypatch.chdir(workplace)
    return workplace / "runs" / "tiny"
