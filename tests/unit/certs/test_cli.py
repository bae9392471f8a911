"""edge-certs as a user sees it: what it prints, where, and its exit code."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from edge_mqtt.certs.authority import AUTHORITY_DAYS
from edge_mqtt.certs.cli import main
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EDGE_CERTS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "edge-certs"


@pytest.fixture
def made(directory: Path, capsys: Captured) -> Path:
    assert main(["init", "--bridge-host", "localhost", "--bridge-host", "192.0.2.7"]) == 0
    assert main(["issue", "worker", "lab-3"]) == 0
    capsys.readouterr()
    return directory


def refusal(capsys: Captured) -> str:
    """Return the one line on stderr; nothing may be on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edge-certs: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.usefixtures("directory")
def test_init_says_what_it_made_and_what_comes_next(capsys: Captured) -> None:
    assert main(["init", "--dir", "pki", "--bridge-host", "localhost", "--bridge-host", "192.0.2.7"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "the bridge at localhost, 192.0.2.7" in captured.out
    assert "copy pki/bridge" in captured.out
    assert "edge-certs issue worker NAME --dir pki" in captured.out
    assert load_credentials(Path("pki/bridge")).identity == Identity(Role.BRIDGE, "bridge")


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("role", ["worker", "executor", "operator"])
def test_issue_makes_a_folder_to_copy(capsys: Captured, role: str) -> None:
    assert main(["issue", role, "site.7", "--days", "40"]) == 0
    captured = capsys.readouterr()
    folder = Path("edge-certs") / f"{role}s" / "site.7"
    assert f"Made {folder} for {role}:site.7" in captured.out
    assert captured.err == ""
    party = load_credentials(folder)
    assert party.identity == Identity(Role(role), "site.7")
    assert 39 <= (party.not_after - datetime.now(UTC)).days <= 40


def test_the_folder_comes_from_the_environment(
    made: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("EDGE_CERTS_DIR", str(made))
    assert main(["list"]) == 0
    assert "lab-3" in capsys.readouterr().out


def test_a_second_init_is_refused(made: Path, capsys: Captured) -> None:
    before = (made / "ca" / "ca.key").read_bytes()
    assert main(["init", "--bridge-host", "localhost"]) == 2
    assert "has an authority already" in refusal(capsys)
    assert (made / "ca" / "ca.key").read_bytes() == before


def test_a_forced_init_says_where_the_old_authority_went(made: Path, capsys: Captured) -> None:
    before = (made / "ca" / "ca.key").read_bytes()
    assert main(["init", "--bridge-host", "localhost", "--force"]) == 0
    error = capsys.readouterr().err
    assert "every certificate that it issued has stopped working" in error
    aside = Path(error.split("the old authority is now ")[1].split(":")[0])
    assert (aside / "ca.key").read_bytes() == before


def test_an_existing_key_is_refused_and_replaced_with_force(made: Path, capsys: Captured) -> None:
    key = made / "workers" / "lab-3" / "tls.key"
    before = key.read_bytes()
    assert main(["issue", "worker", "lab-3"]) == 2
    assert "replace it with --force" in refusal(capsys)
    assert key.read_bytes() == before
    assert main(["issue", "worker", "lab-3", "--force"]) == 0
    assert "stays valid until" in capsys.readouterr().err
    assert key.read_bytes() != before


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["init"], "at least one --bridge-host"),
        (["init", "--dir", "new", "--bridge-host", "wss://x"], "'wss://x' is not a host"),
        (["issue", "worker"], "Missing argument 'name'"),
        (["issue", "wrker", "x"], "'wrker' is not one of 'bridge', 'executor', 'worker', 'operator'"),
        (["issue", "worker", "../x"], "'../x' is not a valid name"),
        (["issue", "worker", ""], "'' is not a valid name"),
        (["issue", "worker", "x", "--days", "0"], "cannot be valid for 0 days"),
        (["issue", "worker", "x", "--days", "soon"], "--days"),
        (["issue", "worker", "x", "--bridge-host", "h"], "not for worker:x"),
        (["issue", "bridge", "second", "--force"], "at least one --bridge-host"),
        (["issue", "worker", "x", "--dir", "nowhere"], "nowhere has no authority"),
        (["list", "--dir", "nowhere"], "nowhere has no authority"),
        (["list", "--colour"], "--colour"),
        (["show", "nobody"], "no certificate for 'nobody'"),
        (["show", "nobody", "--dir", "nowhere"], "no certificate for 'nobody'"),
    ],
    ids=" ".join,
)
def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: Captured, arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    assert message in refusal(capsys)


@pytest.mark.parametrize("name", ["ca/ca.crt", "ca/ca.key", "ca/issued.json"])
def test_a_damaged_authority_is_one_line_and_exit_code_1(made: Path, capsys: Captured, name: str) -> None:
    (made / name).write_text("nonsense")
    assert main(["issue", "worker", "x"]) == 1
    assert name in refusal(capsys)


@pytest.mark.parametrize("path", ["x" * 300, "./" + "x" * 300, "some.file/below.crt"])
def test_a_path_that_cannot_even_be_looked_at_is_one_line_and_exit_code_1(
    made: Path, capsys: Captured, path: str
) -> None:
    (made.parent / "some.file").touch()
    assert main(["show", path]) == 1
    assert "cannot be read" in refusal(capsys)


def test_a_folder_that_cannot_even_be_looked_at_is_one_line_and_exit_code_1(capsys: Captured) -> None:
    assert main(["show", "lab-3", "--dir", "x" * 300]) == 1
    assert "cannot be read" in refusal(capsys)
    assert main(["issue", "worker", "x", "--dir", "x" * 300]) == 1
    assert "cannot be written" in refusal(capsys)


def test_the_version_is_the_distribution_s(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"airflow-edge-mqtt {version('airflow-edge-mqtt')}\n"


def test_list_has_the_newest_of_everybody_and_how_long_it_lasts(made: Path, capsys: Captured) -> None:
    main(["issue", "worker", "lab-4", "--days", "12"])
    main(["issue", "worker", "lab-3", "--force", "--days", "200"])
    long_name = "w" * 63
    main(["issue", "operator", long_name])
    capsys.readouterr()
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["ROLE", "NAME", "EXPIRES", "FINGERPRINT"]
    assert [line[0] for line in lines[1:]] == ["authority", "bridge", "worker", "worker", "operator"]
    assert [line[1] for line in lines[2:]] == ["bridge", "lab-3", "lab-4", long_name]
    assert lines[3][3:6] == ["(in", "199", "days)"]
    assert lines[4][3:6] == ["(in", "11", "days)"]
    fingerprint = load_credentials(made / "workers" / "lab-3").fingerprint
    assert lines[3][-1] == fingerprint[:16]


def test_list_and_show_say_expired(directory: Path, capsys: Captured) -> None:
    store = Store(directory)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    store.create(hosts=["localhost"], force=False, now=long_ago)
    store.issue(Identity(Role.WORKER, "old"), days=10, force=False, now=long_ago)
    assert main(["list"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "EXPIRED" in line and "old" in line]
    assert main(["show", "old"]) == 1
    captured = capsys.readouterr()
    assert "EXPIRED" in captured.out
    assert "expired on" in captured.err
    assert captured.err.count("\n") == 1


def test_a_certificate_cut_short_by_its_authority_is_said(directory: Path, capsys: Captured) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=AUTHORITY_DAYS - 50)
    Store(directory).create(hosts=["localhost"], force=False, now=long_ago)
    assert main(["issue", "worker", "late"]) == 0
    assert "its authority ends then" in capsys.readouterr().err


def test_show_finds_a_party_by_name_client_id_folder_and_file(made: Path, capsys: Captured) -> None:
    fingerprint = load_credentials(made / "workers" / "lab-3").fingerprint
    folder = made / "workers" / "lab-3"
    for what in ("lab-3", "worker:lab-3", str(folder), f"{folder}/tls.crt"):
        assert main(["show", what]) == 0
        captured = capsys.readouterr()
        assert "worker:lab-3" in captured.out
        assert fingerprint in captured.out
        assert captured.err == ""


def test_show_works_on_a_copied_folder_without_the_authority(
    made: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "edge").mkdir()
    (made / "workers" / "lab-3").rename(tmp_path / "edge" / "certs")
    monkeypatch.chdir(tmp_path / "edge")
    assert main(["show", "certs"]) == 0
    assert "worker:lab-3" in capsys.readouterr().out


def test_show_tells_the_hosts_of_a_bridge_and_what_an_authority_is(made: Path, capsys: Captured) -> None:
    assert main(["show", "bridge"]) == 0
    assert "localhost, 192.0.2.7" in capsys.readouterr().out
    assert main(["show", str(made / "ca")]) == 0
    assert "(an authority)" in capsys.readouterr().out


@pytest.mark.usefixtures("made")
def test_show_shows_every_party_of_a_name(capsys: Captured) -> None:
    main(["issue", "operator", "lab-3"])
    capsys.readouterr()
    assert main(["show", "lab-3"]) == 0
    output = capsys.readouterr().out
    assert "worker:lab-3" in output
    assert "operator:lab-3" in output


@pytest.mark.usefixtures("made")
def test_show_warns_before_the_end_and_still_succeeds(capsys: Captured) -> None:
    main(["issue", "worker", "short", "--days", "20"])
    capsys.readouterr()
    assert main(["show", "short"]) == 0
    assert "expires in 19 days" in capsys.readouterr().err


def test_show_fails_on_a_folder_that_could_not_connect(made: Path, capsys: Captured) -> None:
    (made / "workers" / "lab-3" / "tls.key").unlink()
    assert main(["show", "lab-3"]) == 1
    captured = capsys.readouterr()
    assert "worker:lab-3" in captured.out
    assert "tls.key does not exist" in captured.err


@pytest.mark.usefixtures("made")
def test_show_of_a_missing_path_is_one_line_and_exit_code_1(capsys: Captured) -> None:
    assert main(["show", "./nothing"]) == 1
    assert "nothing does not exist" in refusal(capsys)


def test_the_program_exits_with_its_code_and_no_traceback(directory: Path) -> None:
    program = [sys.executable, "-m", "edge_mqtt.certs.cli", "list"]
    done = subprocess.run(program, cwd=directory.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "edge-certs: edge-certs has no authority: name its folder with --dir (or EDGE_CERTS_DIR), "
        "or make one with 'edge-certs init'\n"
    )
    assert done.stdout == ""
