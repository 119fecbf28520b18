"""What is relied on of fsspec's SFTP filesystem and of paramiko."""

from pathlib import Path

import paramiko
import pytest

from tests.store.protocols.conftest import Place
from tests.support import servers

pytestmark = pytest.mark.skipif(not servers.sshd_installed(), reason="needs openssh-server")


def test_it_has_paramikos_clients(on_sftp: Place) -> None:
    assert isinstance(on_sftp.fs.client, paramiko.SSHClient)
    assert isinstance(on_sftp.fs.ftp, paramiko.SFTPClient)
    assert isinstance(on_sftp.fs.host, str)


def test_a_file_is_read_and_listed(on_sftp: Place, served_folder: Path) -> None:
    (served_folder / "sftp-a").write_bytes(b"0123456789")
    path = f"{on_sftp.root.rstrip('/')}/sftp-a"
    assert on_sftp.protocol.read(on_sftp.fs, path, 10) == b"0123456789"
    assert on_sftp.protocol.read_range(on_sftp.fs, path, 2, 5) == b"234"
    assert on_sftp.protocol.list_names(on_sftp.fs, path[:-2], 100_000) == ["sftp-a"]
    state = on_sftp.protocol.state(on_sftp.fs, path)
    assert (state.size, state.modified) == (10, int((served_folder / "sftp-a").stat().st_mtime))


def test_a_link_is_followed(on_sftp: Place, served_folder: Path) -> None:
    (served_folder / "sftp-b").write_bytes(b"")
    (served_folder / "sftp-link").symlink_to(served_folder / "sftp-b")
    real = on_sftp.protocol.real_path(on_sftp.fs, f"{on_sftp.root.rstrip('/')}/sftp-link")
    assert real == str(served_folder / "sftp-b")


def test_a_rename_replaces_only_where_it_is_to(on_sftp: Place, served_folder: Path) -> None:
    for name in ("one", "two"):
        (served_folder / f"sftp-{name}").write_bytes(name.encode())
    one, two = (f"{on_sftp.root.rstrip('/')}/sftp-{name}" for name in ("one", "two"))
    with pytest.raises(FileExistsError):
        on_sftp.protocol.publish(on_sftp.fs, one, two, True)
    before = on_sftp.protocol.state(on_sftp.fs, two)
    on_sftp.protocol.publish(on_sftp.fs, one, two, False)
    assert (served_folder / "sftp-two").read_bytes() == b"one"
    assert on_sftp.protocol.state(on_sftp.fs, two).version != before.version


def test_a_lost_connection_is_told(sftp_server: servers.SftpServer, on_sftp: Place) -> None:
    assert on_sftp.protocol.is_alive(on_sftp.fs)
    on_sftp.fs.client.get_transport().close()
    assert not on_sftp.protocol.is_alive(on_sftp.fs)
