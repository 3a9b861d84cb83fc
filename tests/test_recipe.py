"""Reading recipes: what they mean, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro_est.errors import RecipeError, UsageError
from repro_est.recipe.load import load
from repro_est.recipe.values import (
    InputMode,
    InputReference,
    ModelInput,
    Parameter,
    PathInput,
    Recipe,
    RunInput,
    UrlInput,
)

GOOD = '[estimator]\nentry_script = "train.py"\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print(1)\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1\n")
    return tmp_path


def read(place: Path, text: str, *overrides: str) -> Recipe:
    (place / "job.toml").write_text(text)
    return load(Path("job.toml"), overrides)


def refused(place: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(place, text, *overrides)
    return str(caught.value)


def test_the_smallest_recipe(place: Path) -> None:
    recipe = read(place, GOOD)
    assert recipe.estimator.entry_script == "train.py"
    assert recipe.estimator.source_directory == place
    assert recipe.lock_path == place / "job.lock"


def test_script_params_follow_azure_ml(place: Path) -> None:
    recipe = read(
        place,
        GOOD + '[estimator.script_params]\n"--lr" = 1e-1\n"--verbose" = ""\n"--fast" = true\n"--off" = false\n'
        '"--sizes" = [1, 2.0, "x"]\n"--data" = {input = "d"}\n[inputs.d]\npath = "data"\n',
    )
    assert recipe.estimator.script_params == (
        Parameter("--lr", ("0.1",)),
        Parameter("--verbose", ()),
        Parameter("--fast", ()),
        Parameter("--sizes", ("1", "2.0", "x")),
        Parameter("--data", (InputReference("d"),)),
    )


def test_arguments_keep_empty_strings_and_repeats(place: Path) -> None:
    recipe = read(place, GOOD + 'arguments = ["", "a", "a", 3]\n')
    assert recipe.estimator.arguments == ("", "a", "a", "3")


def test_each_kind_of_input(place: Path) -> None:
    recipe = read(
        place,
        GOOD
        + f'[inputs.a]\npath = "data/a.csv"\nmode = "copy"\n[inputs.b]\nurl = "https://x/y.gz"\nsha256 = "{"A" * 64}"\n'
        '[inputs.c]\npath = "run:abcd/outputs/m"\n[inputs.d]\npath = "model:net:3"\n',
    )
    assert [item.source for item in recipe.inputs] == [
        PathInput(place / "data/a.csv"),
        UrlInput("https://x/y.gz", "a" * 64),
        RunInput("abcd", "outputs/m"),
        ModelInput("net", 3),
    ]
    assert recipe.inputs[0].mode is InputMode.COPY


def test_extends_merges_tables_and_replaces_the_rest(place: Path) -> None:
    (place / "base").mkdir()
    (place / "base" / "base.toml").write_text(
        'tags = {team = "x"}\n[estimator]\nsource_directory = ".."\nentry_script = "train.py"\npip_packages = ["a"]\n'
        '[estimator.script_params]\n"--lr" = 0.1\n"--n" = 1\n'
    )
    recipe = read(place, 'extends = "base/base.toml"\n[estimator]\npip_packages = ["b"]\nscript_params = {"--n" = 2}\n')
    assert recipe.estimator.source_directory == place  # relative to the file that wrote it
    assert recipe.estimator.pip_packages == ("b",)
    assert [param.words for param in recipe.estimator.script_params] == [("0.1",), ("2",)]
    assert recipe.tags == (("team", "x"),)
    assert recipe.files == (place / "job.toml", place / "base/base.toml")


def test_extends_in_a_circle_is_refused(place: Path) -> None:
    (place / "other.toml").write_text('extends = "job.toml"\n')
    assert "goes in a circle" in refused(place, 'extends = "other.toml"\n' + GOOD)


def test_set_overrides_and_renders_from_the_structure(place: Path) -> None:
    text = GOOD + '[estimator.script_params]\n"--v" = true\n"--lr" = 0.5\n"--x" = 1\n'
    recipe = read(
        place, text, "script_params.--lr=0.1", "script_params.--v=false", "salt=7", "outputs.required=['outputs/a']"
    )
    assert recipe.estimator.script_params == (Parameter("--lr", ("0.1",)), Parameter("--x", ("1",)))
    assert (recipe.salt, recipe.outputs.required) == ("7", ("outputs/a",))


def test_set_without_a_value_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        read(place, GOOD, "script_params.--lr")


def test_set_of_extends_is_refused_since_it_would_change_nothing(place: Path) -> None:
    with pytest.raises(UsageError, match="`extends` is read before anything is set"):
        read(place, GOOD, "extends=other.toml")


@pytest.mark.parametrize(
    "pattern", ["outputs", "outputs/", "outputs/*/m.bin", "*.bin", "out*", "outputs/[ab]", "?utputs/x"]
)
def test_every_pattern_that_an_output_can_match_may_be_required(place: Path, pattern: str) -> None:
    assert read(place, GOOD + f"[outputs]\nrequired = ['{pattern}']\n").outputs.required == (pattern,)


def test_set_of_an_unknown_key_says_so(place: Path) -> None:
    assert "--set: estimator.entry_scrpt: unknown key (hint: did you mean `entry_script`?)" in refused(
        place, GOOD, "entry_scrpt=x"
    )


def test_every_mistake_of_a_file_is_named_at_once_with_its_line(place: Path) -> None:
    text = """\
description = 3
tag = {a = "b"}

[estimator]
entry_script = "trian.py"
scrip_params = {}
node_count = 0
pip_packages = [
    "numpy",
    7,
]
max_run_duration_seconds = "1h"
compute_target = "my lab"

[estimator.script_params]
"--api-key" = "abc"
"--data" = {input = "digit"}

[inputs.digits]
path = "dta"

[models.m]
path = "model.bin"

[reproducible]
class = "bytewise"
files = {"w.npy" = {rtol = -1}}
"""
    assert refused(place, text).replace(str(place), "PLACE") == (
        Path(__file__).parent / "golden" / "recipe_errors.txt"
    ).read_text().rstrip("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[estimator\n", "job.toml:1: not valid TOML"),
        ("a = 1\na = 2\n", "job.toml:2: not valid TOML"),
        ("", "job.toml: estimator: missing"),
        ("estimator = 3\n", "estimator: got 3 (integer), expected a table"),
        ("[estimator]\n", "estimator.entry_script: missing, expected a string"),
        ('[estimator]\nentry_script = "../x.py"\n', "outside of the source directory"),
        ('[estimator]\nentry_script = "data"\n', "no such file"),
        ('[estimator]\nentry_script = "nb.ipynb"\n', "no such file"),
        ('[estimator]\nentry_script = "train.py"\nsource_directory = "nope"\n', "no such directory"),
        (GOOD + 'resume_from = "x"\n', "job.toml:3: estimator.resume_from: got 'x', no such file"),
        (GOOD + "user_managed = true\n", "needs custom_docker_image or dockerfile"),
        (
            GOOD + 'custom_docker_image = "a:1"\nuser_managed = true\npip_packages = ["six"]\n',
            "pip_packages: goes without user_managed",
        ),
        (GOOD + 'custom_docker_image = "a:1"\ndockerfile = "train.py"\n', "expected one of the two"),
        (GOOD + 'custom_docker_image = "Not An Image"\n', "expected an image such as"),
        (GOOD + 'custom_docker_image = ""\n', "estimator.custom_docker_image: got '', expected an image such as"),
        (GOOD + 'dockerfile = ""\n', "estimator.dockerfile: got '', expected a Dockerfile"),
        (GOOD + 'custom_docker_image = "me:secret@host/a:1"\n', "docker login"),
        (GOOD + 'custom_docker_image = "a:1"\ncompute_target = "local"\n', "a base image needs a container"),
        (GOOD + 'use_docker = true\ncompute_target = "local"\n', "use_docker = true says otherwise"),
        (GOOD + 'dockerfile = "nope"\n', "no such file"),
        (GOOD + 'image_registry_details = { address = "h:1" }\n', "goes with custom_docker_image"),
        (
            GOOD + 'custom_docker_image = "a:1"\nimage_registry_details = { username = "u" }\n',
            "repro keeps no credentials in files",
        ),
        (GOOD + "vm_size = 3\n", "has no meaning here"),
        (GOOD + "[inputs.x]\n", "expected either `path`, or `url` with `sha256`"),
        (GOOD + '[inputs.x]\nurl = "https://a/b"\n', "needs `sha256`"),
        (GOOD + '[inputs.x]\nurl = "https://me:pw@a/b"\nsha256 = "00"\n', "user name or password"),
        (GOOD + '[inputs.x]\npath = "run:zz"\n', "expected `run:HASH/outputs/...`"),
        (GOOD + '[environment]\nindex_url = "https://me:pw@x/simple"\n', "repro keeps none in files"),
        (GOOD + '[environment]\nplatforms = ["linux64"]\n', "did you mean `linux-64`?"),
        (GOOD + '[environment]\nas_of = "soon"\n', "expected a date"),
        ('[estimator]\nentry_script = ""\n', "job.toml:2: estimator.entry_script: got '', expected a Python file"),
        (
            GOOD + 'pip_packages = ["a b", "=="]\n',
            "job.toml:3: estimator.pip_packages: 'a b': not a requirement (PEP 508)",
        ),
        (
            GOOD + 'pip_packages = ["a b", "=="]\n',
            "job.toml:3: estimator.pip_packages: '==': not a requirement (PEP 508)",
        ),
        (
            GOOD + 'pip_packages = ["a>=1.*"]\n',
            "job.toml:3: estimator.pip_packages: 'a>=1.*': not a requirement (PEP 508)",
        ),
        (GOOD + 'pip_packages = ["-e ."]\n', "job.toml:3: estimator.pip_packages: '-e .': an editable install"),
        (GOOD + '[environment]\npython = "foo"\n', "job.toml:4: environment.python: got 'foo', expected a version"),
        (GOOD + '[environment]\npython = ""\n', "environment.python: got '', expected a version"),
        (GOOD + '[environment]\npython = "3.11.*"\n', "environment.python: got '3.11.*', expected a version"),
        (GOOD + '[environment]\nas_of = "2026-02-30"\n', "environment.as_of: got '2026-02-30', expected a date"),
        (
            GOOD + '[outputs]\nrequired = ["model.bin"]\n',
            "job.toml:4: outputs.required: got 'model.bin', expected a path or glob below `outputs/`",
        ),
        (GOOD + '[outputs]\nrequired = ["/etc/passwd"]\n', "got '/etc/passwd', expected a path or glob below"),
        (GOOD + '[outputs]\nrequired = ["../x"]\n', "got '../x', expected a path or glob below"),
        (GOOD + '[outputs]\nrequired = ["outputs/../x"]\n', "got 'outputs/../x', expected a path or glob below"),
        (GOOD + '[outputs]\nrequired = ["logs/x", "model*"]\n', "got 'model*', expected a path or glob below"),
        (
            GOOD + '[outputs]\nmetrics = "/etc/x"\n',
            "job.toml:4: outputs.metrics: got '/etc/x', expected a file such as",
        ),
        (GOOD + '[outputs]\nmetrics = "outputs/../../x"\n', "got 'outputs/../../x', expected a file such as"),
        (GOOD + '[outputs]\nmetrics = ""\n', "got '', expected a file such as"),
        (GOOD + 'shm_size = "99zz"\n', """job.toml:3: estimator.shm_size: got '99zz', expected a size such as "2g\""""),
        (GOOD + '[docker]\nmemory = "lots"\n', "job.toml:4: docker.memory: got 'lots', expected a size"),
        (GOOD + '[docker]\nmemory = "0"\n', "docker.memory: got '0', expected a size"),
        (GOOD + "[docker]\ncpus = -1\n", "job.toml:4: docker.cpus: got -1, expected more than 0"),
        (GOOD + "[docker]\ncpus = nan\n", "docker.cpus: got nan, expected more than 0"),
        (GOOD + 'secrets = ["A B"]\n', "unknown key (hint: it belongs into []"),
    ],
)
def test_bad_input_gets_a_clear_error(place: Path, text: str, expected: str) -> None:
    if expected.endswith("[]"):
        expected = "unknown key"
    assert expected in refused(place, text)


@pytest.mark.parametrize("more", ['custom_docker_image = "team/base:1"', "use_docker = true", 'dockerfile = "d"'])
def test_a_recipe_that_needs_a_container_runs_in_one(place: Path, more: str) -> None:
    (place / "d").write_text("FROM scratch\n")
    (place / "job.toml").write_text(f"{GOOD}{more}\n")
    assert load(Path("job.toml")).estimator.compute_target == "docker"


def test_a_registry_address_goes_before_the_image(place: Path) -> None:
    more = 'custom_docker_image = "team/base:1"\nimage_registry_details = { address = "host:5000" }\n'
    (place / "job.toml").write_text(GOOD + more)
    image = load(Path("job.toml")).estimator.image
    assert image is not None
    assert image.name == "host:5000/team/base:1"


def test_what_is_not_a_recipe_at_all(place: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe"):
        load(Path("jobb.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        load(Path("data"))
    (place / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin.toml:1: not UTF-8 at byte 6"):
        load(Path("latin.toml"))


def test_a_byte_order_mark_is_fine(place: Path) -> None:
    (place / "bom.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(Path("bom.toml")).estimator.entry_script == "train.py"


def test_a_default_written_out_is_no_feature_of_a_later_version(place: Path) -> None:
    read(
        place, GOOD + 'node_count = 1\nprocess_count_per_node = 1\nconda_packages = []\ndistributed_training = "none"\n'
    )


def test_a_secret_is_asked_for_by_name(place: Path) -> None:
    message = refused(place, GOOD + 'environment_variables = {HF_TOKEN = "x"}\n')
    assert "looks like a secret" in message
    assert "x" not in message.split("looks like")[0].split(":")[-1]
    assert read(place, 'secrets = ["HF_TOKEN"]\n' + GOOD).secrets == ("HF_TOKEN",)
    read(place, GOOD + 'script_params = {"--max-tokens" = 100}\n')
