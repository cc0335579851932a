"""Model roots: what is below them, as it is written and as it is."""

from pathlib import Path

import pytest

from servable.errors import PermissionDenied
from servable.sources.model_roots import check_base_path, leads_out

ROOTS = ("/models", "/srv/more/", "s3://bucket/models", "gs://all")


@pytest.mark.parametrize(
    ("base_path", "is_allowed"),
    [
        ("/models", True),
        ("/models/m", True),
        ("/models//m/", True),
        ("/srv/more/m", True),
        ("/modelsx/m", False),
        ("/", False),
        ("/etc", False),
        ("/models/../etc", False),
        ("/models/m/..", False),
        ("s3://bucket/models/m", True),
        ("s3://bucket/models", True),
        ("s3://bucket/models-of-others/m", False),
        ("s3://bucket/models/../others", False),
        ("s3://other/models/m", False),
        ("S3://bucket/models/m", False),
        ("gs://all/m", True),
        ("gs://all-others/m", False),
        ("http://169.254.169.254/latest", False),
        ("file:///models/m", False),
        ("models:/m", False),
        ("sqlite:////models/x.db", False),
    ],
)
def test_which_base_paths_are_allowed(base_path: str, is_allowed: bool) -> None:
    if is_allowed:
        check_base_path(base_path, ROOTS)
    else:
        with pytest.raises(PermissionDenied, match="--model_roots"):
            check_base_path(base_path, ROOTS)


def test_without_roots_models_may_be_anywhere(tmp_path: Path) -> None:
    check_base_path("/etc/../etc", ())

    assert not leads_out(str(tmp_path), ())


@pytest.mark.parametrize(
    ("link", "does_lead_out"),
    [
        pytest.param("inside/1", False, id="to a version beside it"),
        pytest.param("../elsewhere", True, id="to what is beside the root"),
        pytest.param("/etc", True, id="to an absolute path"),
        pytest.param("gone", False, id="to nothing"),
        pytest.param("loop", False, id="to itself"),
    ],
)
def test_links_are_followed(link: str, does_lead_out: bool, tmp_path: Path) -> None:
    (tmp_path / "root" / "inside" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "loop").symlink_to(link)

    found = leads_out(str(tmp_path / "root" / "loop"), (str(tmp_path / "root"),))

    assert found is does_lead_out


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real" / "1").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")

    assert not leads_out(str(tmp_path / "link" / "1"), (str(tmp_path / "link"),))


@pytest.mark.parametrize(
    ("link", "target", "does_lead_out"),
    [
        pytest.param("1/saved_model.pb", "../2/file", False, id="a file beside it"),
        pytest.param("1/saved_model.pb", "../../file", True, id="a file elsewhere"),
        pytest.param("1/a/shadow", "/etc/shadow", True, id="deep inside"),
        pytest.param("1/saved_model.pb", "../../gone", True, id="to what is not there"),
        pytest.param("1/variables", "../2", False, id="a directory beside it"),
        pytest.param("1/variables", "../3", True, id="by way of one beside it"),
        pytest.param(
            "1/loop", "..", True, id="to all versions, one of which leads out"
        ),
        pytest.param("1/loop", ".", False, id="in a circle"),
    ],
)
def test_links_inside_a_version_are_followed(
    link: str, target: str, does_lead_out: bool, tmp_path: Path
) -> None:
    for directory in ("root/1/a", "root/2", "root/3"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "root" / "2" / "file").touch()
    (tmp_path / "root" / "3" / "file").symlink_to("../../file")
    (tmp_path / "root" / link).symlink_to(target)

    found = leads_out(str(tmp_path / "root" / "1"), (str(tmp_path / "root"),))

    assert found is does_lead_out
