"""What options demand of each other, and what becomes of the files they name."""

import logging
from pathlib import Path

import pytest

from servable.apis import config_pb2
from servable.cli.flags import FLAGS, parse
from servable.config import memory
from servable.config.model_server_config import ModelConfig
from servable.config.platform_config import TensorFlowConfig
from servable.config.server_options import ServerOptions
from servable.config.session_config import SessionFlags, read_session_config
from servable.errors import InvalidArgument, NotFound, ServingError, Unimplemented


def options(*arguments: str) -> ServerOptions:
    parsed = parse(arguments, FLAGS)
    assert not parsed.unknown
    assert not parsed.malformed
    return ServerOptions.from_flags(parsed.values, parsed.given)


def tensorflow(*arguments: str) -> TensorFlowConfig:
    config = options(*arguments).read_tensorflow()
    assert config is not None
    return config


@pytest.mark.parametrize(
    ("environment", "flags", "expected"),
    [
        pytest.param({}, [], 0.0, id="not by default"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "::1"}, [], 5.0, id="in a pod"),
        pytest.param(
            {"KUBERNETES_SERVICE_HOST": "::1"},
            ["--lame_duck_seconds=0"],
            0.0,
            id="not in a pod that does not want it",
        ),
        pytest.param({}, ["--lame_duck_seconds=2.5"], 2.5, id="as long as asked"),
    ],
)
def test_a_pod_of_kubernetes_is_a_lame_duck_by_itself(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    flags: list[str],
    expected: float,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert options(*flags).lame_duck_s == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "--port=0 --model_base_path=/m",
            "At least one of server_options.grpc_port or "
            "server_options.grpc_socket_path must be set.",
            id="nothing to listen on",
        ),
        pytest.param(
            "--model_base_path=/m --use_alts_credentials --ssl_config_file=/s",
            "Either use_alts_credentials must be false or ssl_config_file must be "
            "empty.",
            id="ALTS and TLS",
        ),
        pytest.param(
            "",
            "Both server_options.model_base_path and server_options.model_config_file "
            "are empty!",
            id="nothing to serve",
        ),
        pytest.param(
            "--model_base_path=/m --batching_parameters_file=/b",
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true.",
            id="batching parameters without batching",
        ),
        pytest.param(
            "--model_base_path=/m --tensorflow_session_parallelism=1 "
            "--tensorflow_intra_op_parallelism=1 --tensorflow_inter_op_parallelism=1",
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot "
            "configure all.",
            id="every parallelism",
        ),
        pytest.param(
            "--model_base_path=/m --port=9000 --rest_api_port=9000",
            "server_options.http_port cannot be same as grpc_port. Please use a "
            "different port for HTTP/REST API. Skipped exporting HTTP/REST API.",
            id="one port for both",
        ),
        pytest.param(
            "--model_base_path=/m --port=70000",
            "Failed to BuildAndStart gRPC server",
            id="no such gRPC port",
        ),
        pytest.param(
            "--model_base_path=/m --rest_api_port=-1",
            "Failed to start HTTP Server at localhost:-1: there is no such port",
            id="no such REST port",
        ),
        pytest.param(
            "--model_base_path=/m --io_threads=-1",
            "io_threads must be non-negative; was -1",
            id="fewer threads than none",
        ),
        pytest.param(
            "--model_base_path=/m --max_body_bytes=0",
            "max_body_bytes must be positive; was 0",
            id="room for no request",
        ),
        pytest.param(
            "--model_base_path=/m --model_cache_max_bytes=-1",
            "model_cache_max_bytes must be non-negative; was -1",
            id="a cache smaller than nothing",
        ),
        pytest.param(
            "--model_base_path=/m --model_roots=/models,models",
            "model_roots must be absolute paths or URIs; got models",
            id="a root that is relative",
        ),
        pytest.param(
            "--model_base_path=/m --request_log_roots=/var/log,log",
            "request_log_roots must be absolute paths; got log",
            id="a place for logs that is relative",
        ),
        pytest.param(
            "--model_base_path=/m --forbid_ops=files,everything",
            "forbid_ops must be some of files, network, python, print, abort, "
            "checkpoint, assets; got everything",
            id="an effect that there is not",
        ),
    ],
)
def test_what_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        options(*line.split()).check()

    assert error.value.message == message


def test_alts_is_refused_rather_than_ignored() -> None:
    with pytest.raises(Unimplemented):
        options("--model_base_path=/m", "--use_alts_credentials").check()


@pytest.mark.parametrize(
    "line",
    [
        "--model_base_path=/m",
        "--port=0 --grpc_socket_path=s --model_config_file=/c",
        "--model_base_path=/m --tensorflow_session_parallelism=1 "
        "--tensorflow_intra_op_parallelism=1",
    ],
)
def test_what_is_not(line: str) -> None:
    options(*line.split()).check()


def test_ports_of_0_on_the_command_line_are_not_opened() -> None:
    got = options("--port=0", "--rest_api_port=0")

    assert got.grpc_port is None
    assert got.rest_port is None


def test_units() -> None:
    got = options(
        "--load_retry_interval_micros=1500000",
        "--model_config_file_poll_wait_seconds=-1",
        "--file_system_poll_wait_seconds=0",
        "--saved_model_tags=serve,gpu",
        "--num_request_iterations_for_warmup=0",
    )

    assert got.load_retry_interval_s == 1.5
    assert got.model_config_file_poll_wait_s is None
    assert got.file_system_poll_wait_s == 0
    assert got.saved_model_tags == ("serve", "gpu")
    assert got.num_request_iterations_for_warmup == 1
    assert options("--saved_model_tags=").saved_model_tags == ("serve",)


def test_the_config_file_comes_before_the_base_path(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(
        "model_config_list { config { name: 'a' base_path: '/a' "
        "model_platform: 'tensorflow' } }"
    )

    by_flags = options("--model_name=m", "--model_base_path=/m")
    by_file = options("--model_base_path=/m", f"--model_config_file={path}")

    assert by_flags.read_models(["tensorflow"]).models == (ModelConfig("m", "/m"),)
    assert by_file.read_models(["tensorflow"]).models == (ModelConfig("a", "/a"),)


@pytest.mark.parametrize(
    ("flags", "intra", "inter"),
    [
        pytest.param(SessionFlags(), 5, 6, id="the file's values stay"),
        pytest.param(SessionFlags(session_parallelism=2), 2, 2, id="one for both"),
        pytest.param(SessionFlags(intra_op_parallelism=1), 1, 6, id="one of them"),
        pytest.param(SessionFlags(inter_op_parallelism=0), 5, 0, id="an explicit 0"),
        pytest.param(
            SessionFlags(session_parallelism=2, inter_op_parallelism=1),
            2,
            1,
            id="the particular one wins",
        ),
    ],
)
def test_flags_change_what_they_name_in_the_session_file(
    flags: SessionFlags, intra: int, inter: int, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_text(
        "intra_op_parallelism_threads: 5 inter_op_parallelism_threads: 6 "
        "allow_soft_placement: true gpu_options { allow_growth: true }"
    )

    config = config_pb2.ConfigProto.FromString(
        read_session_config(
            SessionFlags(
                session_config_file=str(path),
                session_parallelism=flags.session_parallelism,
                intra_op_parallelism=flags.intra_op_parallelism,
                inter_op_parallelism=flags.inter_op_parallelism,
                per_process_gpu_memory_fraction=0.5,
                mixed_precision="bfloat16",
            )
        )
    )

    assert config.intra_op_parallelism_threads == intra
    assert config.inter_op_parallelism_threads == inter
    assert config.allow_soft_placement
    assert config.gpu_options.allow_growth
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5
    rewriting = config.graph_options.rewrite_options
    assert rewriting.auto_mixed_precision_onednn_bfloat16 == 1


def test_more_threads_than_a_field_can_say_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        read_session_config(SessionFlags(session_parallelism=2**31))


def test_a_platform_file_replaces_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("""
        platform_configs { key: "tensorflow" value { source_adapter_config {
          [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
            legacy_config {
              saved_model_tags: "a"
              session_config { intra_op_parallelism_threads: 3 }
              model_warmup_options { num_request_iterations { value: 2 } }
              batching_parameters { max_batch_size { value: 7 } }
            } } } } }
    """)

    got = tensorflow(f"--platform_config_file={path}", "--saved_model_tags=b")

    assert got.saved_model_tags == ("a",)
    assert not got.enable_model_warmup
    assert got.num_request_iterations_for_warmup == 2
    assert got.batching is not None
    assert got.batching.max_batch_size == 7
    session = config_pb2.ConfigProto.FromString(got.session_config)
    assert session.intra_op_parallelism_threads == 3


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        pytest.param(["--num_tflite_pools=3"], 0, id="none without the flag"),
        pytest.param(
            ["--prefer_tflite_model", "--num_tflite_pools=3"], 3, id="pools of one"
        ),
        pytest.param(
            [
                "--prefer_tflite_model",
                "--num_tflite_pools=0",
                "--num_tflite_interpreters_per_pool=2",
            ],
            2,
            id="one pool at least",
        ),
    ],
)
def test_tflite_interpreters_are_counted(
    flags: list[str], number: int, tmp_path: Path
) -> None:
    path = tmp_path / "p"
    fields = " ".join(
        flag.removeprefix("--").replace("=", ": ")
        if "=" in flag
        else f"{flag.removeprefix('--')}: true"
        for flag in flags
    )
    adapter = "tensorflow.serving.SavedModelBundleSourceAdapterConfig"
    path.write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config { '
        f"[type.googleapis.com/{adapter}] {{ legacy_config {{ {fields} }} }} }} }} }}"
    )

    assert tensorflow(*flags).num_tflite_interpreters == number
    by_file = tensorflow(f"--platform_config_file={path}")
    assert by_file.num_tflite_interpreters == number


def test_a_platform_file_says_how_sessions_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p"
    path.write_text("""
        platform_configs { key: "tensorflow" value { source_adapter_config {
          [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
            legacy_config {
              session_target: "local"
              session_run_load_threadpool_index { value: 1 }
              experimental_transient_ram_bytes_during_load: 5
              enable_session_metadata: true
              mixed_precision: "bfloat16"
              wrap_session_with_no_threading_params: true
              model_warmup_options {
                enable_all_batch_sizes_warmup: true model_version: 3
              }
            } } } } }
    """)

    with caplog.at_level(logging.WARNING):
        got = tensorflow(f"--platform_config_file={path}")

    assert got.session_target == "local"
    run_options = config_pb2.RunOptions.FromString(got.load_run_options)
    assert run_options.inter_op_thread_pool == 1
    assert got.transient_ram_bytes == 5
    assert got.enable_session_metadata
    assert got.enable_all_batch_sizes_warmup
    session = config_pb2.ConfigProto.FromString(got.session_config)
    rewriting = session.graph_options.rewrite_options
    assert rewriting.auto_mixed_precision_onednn_bfloat16 == 1
    assert [record.message.split(" has ")[0] for record in caplog.records] == [
        "SessionBundleConfig.wrap_session_with_no_threading_params",
        "ModelWarmupOptions.model_version",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param('platform_configs { key: "x" }', NotFound, id="another platform"),
        pytest.param(
            'platform_configs { key: "tensorflow" }', InvalidArgument, id="none in it"
        ),
        pytest.param("what", InvalidArgument, id="no such message"),
    ],
)
def test_platform_files_that_are_refused(
    text: str, error: type[ServingError], tmp_path: Path
) -> None:
    path = tmp_path / "p"
    path.write_text(text)

    with pytest.raises(error):
        options(f"--platform_config_file={path}").read_tensorflow()


def test_no_thread_pool_factory_is_known(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text(
        "thread_pool_factory_config { [type.googleapis.com/tensorflow.ConfigProto] {} }"
    )

    with pytest.raises(NotFound, match=r"tensorflow\.ConfigProto"):
        options(f"--thread_pool_factory_config_file={path}").read_tensorflow()


def test_batching_comes_from_its_file_or_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_text("max_batch_size { value: 3 }")

    without = tensorflow("--model_base_path=/m")
    default = tensorflow("--enable_batching")
    given = tensorflow("--enable_batching", f"--batching_parameters_file={path}")

    assert without.batching is None
    assert default.batching is not None
    assert default.batching.max_batch_size == 1000
    assert given.batching is not None
    assert given.batching.max_batch_size == 3


def test_the_engine_gets_the_texts_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("server_key: 'k' server_cert: 'c' custom_ca: 'a'")

    engine = options(
        f"--ssl_config_file={path}", "--port=9", "--rest_api_timeout_in_ms=7"
    ).engine_options()

    assert (engine.grpc_server_key, engine.grpc_server_cert) == ("k", "c")
    assert engine.grpc_custom_ca == "a"
    assert not engine.grpc_client_verify
    assert engine.grpc_host == "0.0.0.0"  # noqa: S104 - the default of the flags
    assert engine.grpc_port == 9
    assert engine.rest_timeout_ms == 7
    assert "'k'" not in repr(engine)


def test_tls_without_a_key_is_refused_rather_than_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("\n")

    with pytest.raises(InvalidArgument):
        options(f"--ssl_config_file={path}").engine_options()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param(
            "prometheus_config { enable: true }",
            "/monitoring/prometheus/metrics",
            id="the default path",
        ),
        pytest.param(
            "prometheus_config { enable: true path: '/x' }", "/x", id="a path"
        ),
        pytest.param("prometheus_config { path: '/x' }", "", id="not enabled"),
    ],
)
def test_where_the_metrics_page_is(text: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_text(text)
    flag = f"--monitoring_config_file={file}"

    assert options(flag, "--rest_api_port=9").engine_options().prometheus_path == path
    assert options(flag).engine_options().prometheus_path == ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param([], 64 << 20, id="a quarter of the memory there is"),
        pytest.param(["--max_in_flight_bytes=5"], 5, id="what somebody has said"),
    ],
)
def test_the_engine_is_told_how_much_may_be_in_flight(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: int
) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 256 << 20)

    assert options(*flags).engine_options().max_in_flight_bytes == expected
