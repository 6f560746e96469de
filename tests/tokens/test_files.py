"""Key files that change while the gateway runs."""

import logging
import os
from pathlib import Path

import pytest

from tests.tokens.minting import EC, ED, RSA, SECRET, jwk, jwks, pem
from trio_gateway.tokens import InvalidKey, KeyFiles


class Clock:
    """Seconds as the test counts them."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def algorithms(files: KeyFiles) -> list[str]:
    return [key.algorithm for key in files.current()]


def replace(path: Path, data: bytes) -> None:
    """Put a new file in the place of the old one, as a rotation does."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)


def test_a_changed_file_is_read_again_once_a_second(tmp_path: Path) -> None:
    """Not sooner, whatever the load."""
    path, clock = tmp_path / "keys.json", Clock()
    path.write_bytes(jwks(jwk(EC, kid="old")))
    files = KeyFiles([str(path)], clock=clock)
    assert ["ES256"] == algorithms(files)
    replace(path, jwks(jwk(EC, kid="old"), jwk(ED, kid="new")))
    clock.now += 0.9
    assert ["ES256"] == algorithms(files)
    clock.now += 0.1
    assert ["ES256", "EdDSA"] == algorithms(files)
    assert files.current() is files.current()


def test_several_files_are_one_set(tmp_path: Path) -> None:
    """The old key and the new one, each in its file; one goes when it is taken out of its file."""
    paths = [tmp_path / "old.pem", tmp_path / "new.pem"]
    for path, key in zip(paths, (RSA, EC), strict=True):
        path.write_bytes(pem(key))
    clock = Clock()
    files = KeyFiles(map(str, paths), clock=clock)
    assert ["RS256", "ES256"] == algorithms(files)
    replace(paths[0], pem(ED))
    clock.now += 1
    assert ["EdDSA", "ES256"] == algorithms(files)


@pytest.mark.parametrize("spoiled", [None, b"", b"half a ke", b'{"keys": [', pem(RSA)[:-40]])
def test_a_spoiled_file_leaves_the_keys_that_it_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoiled: bytes | None
) -> None:
    """It says so once, names the file and nothing of what is in it, and heals by itself."""
    path, clock = tmp_path / "key", Clock()
    path.write_text(SECRET)
    files = KeyFiles([str(path)], clock=clock)
    if spoiled is None:
        path.unlink()
    else:
        replace(path, spoiled)
    with caplog.at_level(logging.INFO, "trio_gateway"):
        for _ in range(3):
            clock.now += 1
            assert ["HS256"] == algorithms(files)
        (record,) = caplog.records
        assert str(path) in record.getMessage()
        assert "half" not in record.getMessage()
        replace(path, pem(EC))
        clock.now += 1
        assert ["ES256"] == algorithms(files)
    assert f"{path} was read again: 1 keys" == caplog.records[-1].getMessage()


@pytest.mark.parametrize("name", ["nothing", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """At the start there is nothing to fall back on."""
    with pytest.raises(InvalidKey, match="cannot read"):
        KeyFiles([str(tmp_path / name)])


def test_a_file_beyond_all_keys_is_refused(tmp_path: Path) -> None:
    """A path to something else, most likely; it is not read to its end."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InvalidKey, match="a key is smaller"):
        KeyFiles([str(path)])
