"""What the tests on other Pythons take from the machine they run on."""

from __future__ import annotations

import pytest

from tests.matrix.machine import mirror_among, pip_environment


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        (
            ["http://one/debian-security/ main", "http://one/debian/ main", "http://two/debian main"],
            "http://one/debian/",
        ),
        (
            ["https://other/linux/debian stable", "https://node/node_20.x main", "file:/srv/debian main"],
            "file:/srv/debian",
        ),
        (["https://other/ubuntu main", "", "nonsense"], None),
        ([], None),
    ],
)
def test_debian_s_archive_is_found_among_what_apt_lists(targets: list[str], mirror: str | None) -> None:
    assert mirror_among(targets) == mirror


def test_pip_is_told_what_is_said_about_the_network_and_no_folder_of_this_machine() -> None:
    settings = [
        ":env:.default-timeout='180'",
        ":env:.find-links='/opt/wheels'",
        "global.cert='/etc/ssl/certs/ca-certificates.crt'",
        "global.constraint='/etc/constraints.txt'",
        "global.default-timeout='15'",
        "global.extra-index-url='file:///opt/simple https://user:secret@index/simple'",
        "global.index-url='https://index/a=b'",
        "install.no-binary=':all:'",
        "nonsense",
    ]
    assert pip_environment(settings) == {
        "PIP_DEFAULT_TIMEOUT": "180",
        "PIP_EXTRA_INDEX_URL": "https://user:secret@index/simple",
        "PIP_INDEX_URL": "https://index/a=b",
    }


def test_of_folders_alone_pip_is_told_nothing() -> None:
    assert pip_environment(["global.extra-index-url='file:///opt/simple'"]) == {}
