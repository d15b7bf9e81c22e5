"""Volumes by URL: read as those on this machine are, and written to S3."""

import pickle

import numpy as np
import pytest
import test_standards
from servers import BUCKET, s3_server, static_server
from small_volumes import AFFINITY_ATTRIBUTES, pixels, written
from test_volume import every_format  # noqa: F401  (a fixture)

from pytc.commands import EvaluateConfig, InferConfig
from pytc.io import remote
from pytc.io.remote import RemoteFolder, parse_folder
from pytc.io.results import image_name, results_folder, write_source
from pytc.io.volume import create_volume, open_volume

CHUNKED = ["v.zarr", "v3.zarr", "store.zarr/group/v", "n5", "precomputed"]


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def servers_are_asked_once(monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", {"max_retries": 1, "max_delay": "10ms"})


@pytest.mark.parametrize("name", CHUNKED)
def test_every_chunked_format_is_read_from_a_web_server(every_format, name):  # noqa: F811
    path, array = every_format[name]
    local = open_volume(path)
    folder = path.partition(name if name != "n5" else "v.n5")[0]
    with static_server(folder) as url:
        for begin in ("", "precomputed://") if name == "precomputed" else ("",):
            volume = open_volume(f"{begin}{url}/{path.removeprefix(folder)}")
            assert (volume.axes, volume.voxel_size) == (local.axes, local.voxel_size)
            assert (volume.axes_from, volume.attributes) == (local.axes_from, local.attributes)
            np.testing.assert_array_equal(volume[2:5, ::3, 50:60], array[2:5, ::3, 50:60])
            again = pickle.loads(pickle.dumps(volume))
            np.testing.assert_array_equal(again[5, 3, 4], array[5, 3, 4])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("inside", ["", "/0", ":0"])
def test_an_ome_zarr_group_is_read_from_a_web_server(tmp_path, version, inside):
    test_standards.ome_zarr(tmp_path / "a b.zarr", version)
    with static_server(tmp_path) as url:
        volume = open_volume(f"{url}/a%20b.zarr{inside}")
        assert (volume.axes, volume.voxel_size) == ("zyx", (40.0, 4.0, 4.0))
        assert (volume.axes_from, volume.voxel_size_from) == ("OME-Zarr", "OME-Zarr")
        np.testing.assert_array_equal(volume[...], test_standards.VOXELS)


def test_what_bioformats2raw_writes_is_read_from_a_web_server(tmp_path):
    test_standards.ome_zarr(tmp_path / "v.zarr/0", 2)
    (tmp_path / "v.zarr/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "v.zarr/.zattrs").write_text('{"bioformats2raw.layout": 3}')
    with static_server(tmp_path) as url:
        assert open_volume(f"{url}/v.zarr").voxel_size == (40.0, 4.0, 4.0)
        test_standards.ome_zarr(tmp_path / "v.zarr/1", 2)
        with pytest.raises(ValueError, match="expected a Zarr, N5 or precomputed array"):
            open_volume(f"{url}/v.zarr")


@pytest.mark.parametrize("name", ["a.zarr", "b.zarr:group/affinities", "x/v3.zarr/affinities"])
def test_what_is_written_to_s3_is_read_from_it(bucket, name):
    array = pixels((3, 6, 7, 8), "float16")
    options = {"voxel_size": (30, 8, 8.5), "attributes": AFFINITY_ATTRIBUTES}
    made = written(f"{bucket}/{name}", array, **options)
    volume = open_volume(f"{bucket}/{name}")
    assert (volume.axes, volume.voxel_size) == ("czyx", (30.0, 8.0, 8.5))
    assert volume.attributes == made.attributes and len(volume.offsets) == 3
    np.testing.assert_array_equal(volume[...], array)
    with pytest.raises(ValueError, match="exists"):
        written(f"{bucket}/{name}", array, **options)
    smaller = array[:, :2]
    written(f"{bucket}/{name}", smaller, overwrite=True, **options)
    np.testing.assert_array_equal(open_volume(f"{bucket}/{name}")[...], smaller)
    again = open_volume(f"{bucket}/{name}", writable=True)
    again[0] = 1
    assert (open_volume(f"{bucket}/{name}")[0] == 1).all()


def test_overwriting_in_a_bucket_takes_nothing_else_with_it(bucket):
    kept = written(f"{bucket}/both.zarr/kept", pixels((4, 5, 6), "uint8"))
    written(f"{bucket}/both.zarr/other", pixels((4, 5, 6), "uint8"))
    create_volume(f"{bucket}/both.zarr/other", (2, 2, 2), "uint8", overwrite=True)
    np.testing.assert_array_equal(open_volume(kept.path)[...], pixels((4, 5, 6), "uint8"))
    with pytest.raises(ValueError, match="exists"):
        create_volume(f"{bucket}/both.zarr", (2, 2, 2), "uint8", overwrite=True)
    with pytest.raises(ValueError, match="none of which is an array"):
        create_volume(f"{bucket}/both.zarr/kept/inside", (2, 2, 2), "uint8")


def test_wrong_urls_are_refused_in_words(tmp_path, bucket):
    written(tmp_path / "v.zarr", pixels((4, 5, 6), "uint8"))
    with static_server(tmp_path) as url:
        for path, message in {
            f"{url}/none.zarr": "expected a Zarr, N5 or precomputed array in .*none there",
            f"{url}/v.h5": "by URL; other files are read when they are on this machine",
            f"{url}/v.zarr?token=1": "without [?]",
            f"{bucket}/none.zarr": "expected a Zarr, N5 or precomputed array in .*none there",
            "ftp://host/v.zarr": "s3://, gs://, http://, https://, file://, got 'ftp://host/v",
            "s3://": "a URL with a bucket or a host",
            "s3://B/v.zarr": "expected to reach s3://B/v.zarr, got Invalid S3 bucket name",
            "http://127.0.0.1:1/v.zarr": "expected to reach http://127.0.0.1:1/v.zarr, got",
        }.items():
            with pytest.raises(ValueError, match=message):
                open_volume(path)
        for path, message in {
            f"{url}/new.zarr": "s3:// or gs:// to write to, got .*only read",
            f"{url}/new.h5": "s3:// or gs:// to write to, got .*only read",
            f"{bucket}/new.h5:raw": "a URL with .zarr in it",
            f"{bucket}/new": "a URL with .zarr in it",
        }.items():
            with pytest.raises(ValueError, match=message):
                create_volume(path, (4, 5, 6), "uint8")


def test_a_file_url_is_the_path(tmp_path):
    array = pixels((4, 5, 6), "uint8")
    for name in ("a b.zarr", "v.h5:raw"):
        url = f"file://{tmp_path}/{name}".replace(" ", "%20")
        written(url, array)
        volume = open_volume(url)
        assert volume.path == f"{tmp_path}/{name}"
        np.testing.assert_array_equal(volume[...], array)
        np.testing.assert_array_equal(open_volume(f"{tmp_path}/{name}")[...], array)


def test_credentials_and_endpoint_are_those_of_the_environment(monkeypatch, tmp_path):
    folder = parse_folder(f"s3://{BUCKET}/a//b/")
    assert folder == RemoteFolder(f"s3://{BUCKET}", ("a", "b"))
    names = [*remote.AWS_SETTINGS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"]
    for name in [*names, "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def described():
        store = folder.key_value_store()
        assert (store["driver"], store["bucket"], store["path"]) == ("s3", BUCKET, "a/b/")
        return store["aws_credentials"]["type"], store.get("endpoint"), store.get("aws_region")

    assert described() == ("anonymous", None, None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert described() == ("anonymous", "http://minio:9000", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert described() == ("default", "http://minio:9000", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    assert described()[0] == "environment"
    google = parse_folder("gs://bucket/a").key_value_store()
    assert (google["driver"], google["bucket"], google["path"]) == ("gcs", "bucket", "a/")


def test_results_of_a_url_are_named_and_found_again(tmp_path):
    image = "s3://bucket/some/v.zarr/raw"
    assert image_name(image) == "v_raw"
    assert image_name("https://host/precomputed/em") == "em"
    write_source(results_folder(tmp_path, "v_raw", image), {"image": image, "target": "affinity"})
    assert results_folder(tmp_path, "v_raw", image) == tmp_path / "v_raw"
    assert results_folder(tmp_path, "v_raw", "s3://other/v.zarr/raw") == tmp_path / "v_raw-2"


@pytest.mark.parametrize("command", [InferConfig, EvaluateConfig])
def test_results_are_written_on_this_machine(command):
    with pytest.raises(ValueError, match="--output on this machine"):
        command(output="s3://bucket/results")
