"""The rank layout: how a recipe says it, what is hashed of it, and which rank is where."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from repro_est.errors import RecipeError
from repro_est.layout import Backend, Binding, Layout, Rank
from repro_est.recipe.jsonschema import json_schema
from repro_est.recipe.load import load

counts = st.integers(1, 40)
layouts = st.builds(
    Layout,
    node_count=counts,
    process_count_per_node=counts,
    backend=st.sampled_from(Backend),
    gpus_per_process=st.integers(1, 8),
    gpu_binding=st.sampled_from(Binding),
    parameter_servers=st.integers(0, 3),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    return tmp_path


def text_of(keys: str) -> str:
    return f'[estimator]\nentry_script = "train.py"\n{keys}\n'


def layout(keys: str, *overrides: str) -> Layout:
    Path("job.toml").write_text(text_of(keys))
    return load(Path("job.toml"), overrides).estimator.layout


def refused(keys: str) -> str:
    with pytest.raises(RecipeError) as caught:
        layout(keys)
    return str(caught.value)


@given(layouts)
def test_ranks_are_node_contiguous(layout: Layout) -> None:
    ranks = layout.ranks()
    assert [rank.rank for rank in ranks] == list(range(layout.world_size))
    assert ranks == tuple(rank for node in range(layout.node_count) for rank in layout.ranks_of(node))
    assert all(rank.local_rank + rank.node_rank * layout.process_count_per_node == rank.rank for rank in ranks)
    assert layout.rank(layout.world_size - 1) == ranks[-1]


@given(layouts, st.booleans())
def test_a_layout_reads_back_from_its_document(layout: Layout, use_gpu: bool) -> None:
    assert Layout.from_document(layout.document(use_gpu=use_gpu), use_gpu=use_gpu) == layout


@given(layouts)
def test_only_fields_off_their_default_are_in_the_document(layout: Layout) -> None:
    document = layout.document(use_gpu=True)
    assert (document == {}) == (layout == Layout(gpus_per_process=1))
    assert all(type(value) in (int, str) for value in document.values()), "plain JSON"


def test_one_plain_process_has_no_document() -> None:
    assert Layout().document(use_gpu=False) == Layout(gpus_per_process=1).document(use_gpu=True) == {}
    assert Layout().is_single
    assert not Layout(backend=Backend.MPI).is_single


def test_the_last_ranks_are_parameter_servers() -> None:
    four = Layout(node_count=2, process_count_per_node=2, backend=Backend.TENSORFLOW, parameter_servers=1)
    assert [four.task(rank) for rank in four.ranks()] == [("worker", 0), ("worker", 1), ("worker", 2), ("ps", 0)]


def test_an_unknown_field_or_backend_of_a_document_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        Layout.from_document({"backend": "smoke"}, use_gpu=False)
    with pytest.raises(TypeError):
        Layout.from_document({"nodes": 3}, use_gpu=False)


MPI, TORCH, TENSORFLOW = Backend.MPI, Backend.TORCH, Backend.TENSORFLOW


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", Layout()),
        ("node_count = 3\nprocess_count_per_node = 2", Layout(3, 2)),
        ('node_count = 3\ndistributed_training = "mpi"', Layout(3, 1, MPI)),
        ('distributed_training = {type = "mpi", process_count_per_node = 2, node_count = 3}', Layout(3, 2, MPI)),
        ('node_count = 2\ndistributed_training = {type = "mpi", process_count_per_node = 2}', Layout(2, 2, MPI)),
        ('distributed_training = {type = "torch", process_count = 4}', Layout(1, 4, TORCH)),
        ('node_count = 2\ndistributed_training = {type = "torch", process_count = 4}', Layout(2, 2, TORCH)),
        ('node_count = 2\ndistributed_training = {type = "torch"}', Layout(2, 1, TORCH)),
        ('distributed_training = {type = "torch", communication_backend = "Gloo"}', Layout(1, 1, TORCH)),
        ('node_count = 2\ndistributed_training = "tensorflow"', Layout(2, 1, TENSORFLOW)),
        (
            'distributed_training = {type = "tensorflow", worker_count = 3, parameter_server_count = 1}',
            Layout(4, 1, TENSORFLOW, parameter_servers=1),
        ),
        (
            "process_count_per_node = 2\n"
            'distributed_training = {type = "tensorflow", worker_count = 3, parameter_server_count = 1}',
            Layout(2, 2, TENSORFLOW, parameter_servers=1),
        ),
        (
            'node_count = 3\ndistributed_training = {type = "tensorflow", parameter_server_count = 1}',
            Layout(3, 1, TENSORFLOW, parameter_servers=1),
        ),
        ('distributed_backend = "mpi"', Layout(1, 1, MPI)),
        ('node_count = 2\ndistributed_backend = "gloo"', Layout(2, 1, TORCH)),
        ('distributed_training = "torch"\ndistributed_backend = "gloo"', Layout(1, 1, TORCH)),
        ('distributed_backend = "ps"', Layout(2, 1, TENSORFLOW, parameter_servers=1)),
        ('node_count = 5\ndistributed_backend = "ps"', Layout(5, 1, TENSORFLOW, parameter_servers=1)),
        ("use_gpu = true", Layout(gpus_per_process=1)),
        ("use_gpu = true\ngpus_per_process = 2", Layout(gpus_per_process=2)),
        ('use_gpu = true\ngpu_binding = "rank"', Layout(gpus_per_process=1, gpu_binding=Binding.RANK)),
        ('use_gpu = true\ndistributed_backend = "nccl"', Layout(1, 1, TORCH, 1)),
    ],
)
def test_a_recipe_says_its_layout_in_any_of_these_ways(place: Path, keys: str, expected: Layout) -> None:
    assert layout(keys) == expected
    jsonschema.validate(tomli.loads(text_of(keys)), json_schema())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("node_count = 0", "job.toml:3: estimator.node_count: got 0, expected 1 to 10,000"),
        ("process_count_per_node = 0", "process_count_per_node: got 0, expected 1 to 1,024"),
        ("node_count = true", "node_count: got true (boolean), expected an integer"),
        ("distributed_training = 3", "expected a backend, or a table with its type"),
        ('distributed_training = "MpiConfiguration"', "did you mean `mpi`?"),
        ('distributed_training = {type = "pytorch"}', "did you mean `torch`?"),
        ("distributed_training = {node_count = 2}", "got a table without `type`"),
        (
            'distributed_training = {type = "mpi", worker_count = 2}',
            'job.toml:3: estimator.distributed_training.worker_count: unknown key of type "mpi"',
        ),
        ('distributed_training = {type = "mpi", process_count_per_nod = 2}', "did you mean `process_count_per_node`?"),
        ('distributed_training = {type = "mpi", node_count = "2"}', "got '2', expected an integer of at least 1"),
        ('distributed_training = {type = "torch", communication_backend = "mpi"}', 'expected "nccl" or "gloo"'),
        ('distributed_training = {type = "torch", communication_backend = "nccl"}', "expected use_gpu = true"),
        ('node_count = 2\ndistributed_training = {type = "mpi", node_count = 3}', "got 3, and node_count = 2 says"),
        (
            'node_count = 3\ndistributed_training = {type = "torch", process_count = 4}',
            "got 4 processes, expected a multiple of 3 nodes",
        ),
        (
            "node_count = 2\nprocess_count_per_node = 1\n"
            'distributed_training = {type = "tensorflow", worker_count = 2, parameter_server_count = 1}',
            "got 3 processes, expected 2 nodes x 1 = 2",
        ),
        ('distributed_training = {type = "tensorflow", worker_count = 2}', "needs parameter_server_count beside it"),
        (
            'node_count = 2\ndistributed_training = {type = "tensorflow", parameter_server_count = 2}',
            "got 2 of 2 processes, expected at least one worker",
        ),
        (
            'distributed_training = "mpi"\ndistributed_backend = "gloo"',
            'distributed_backend: got "gloo", and distributed_training = "mpi" says otherwise',
        ),
        ('distributed_backend = "nccl"', 'got "nccl", expected use_gpu = true'),
        ('distributed_backend = "smoke"', 'expected "none" or "mpi" or "gloo" or "nccl" or "ps"'),
        ("gpus_per_process = 2", "expected use_gpu = true beside it"),
        ("use_gpu = true\ngpus_per_process = 0", "gpus_per_process: got 0, expected 1 to 1,024"),
        ('gpu_binding = "rank"', "expected use_gpu = true beside it"),
        ("retries = 11", "retries: got 11, expected 0 to 10"),
        ("heartbeat_seconds = 0", "heartbeat_seconds: got 0, expected more than 0"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused_with_its_reason(place: Path, keys: str, expected: str) -> None:
    assert expected in refused(keys)


def test_the_backend_can_be_set_on_the_command_line(place: Path) -> None:
    assert layout("", "distributed_training=mpi", "node_count=2") == Layout(2, 1, MPI)
    assert layout("", 'distributed_training={type="mpi", process_count_per_node=2}') == Layout(1, 2, MPI)
    assert layout('distributed_training = {type = "mpi"}', "distributed_training.type=torch") == Layout(1, 1, TORCH)


def test_retries_and_heartbeat_are_read(place: Path) -> None:
    Path("job.toml").write_text(text_of("retries = 2\nheartbeat_seconds = 1.5"))
    estimator = load(Path("job.toml")).estimator
    assert (estimator.retries, estimator.heartbeat_seconds) == (2, 1.5)


def test_any_target_name_may_stand_in_a_recipe(place: Path) -> None:
    Path("job.toml").write_text(text_of('compute_target = "lab-2.gpu"'))
    assert load(Path("job.toml")).estimator.compute_target == "lab-2.gpu"
    assert 'expected "local", "docker" or the name of a target' in refused('compute_target = "-x"')


def test_a_rank_knows_its_place() -> None:
    assert Layout(2, 3).rank(4) == Rank(4, 1, 1)
    assert str(Layout(3, 2, MPI)) == "3 x 2 mpi"
