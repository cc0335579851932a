"""
The flags, as one table, and the rules by which a command line is read.

The names, types, defaults and reading rules are those of TensorFlow Serving;
what is ours is marked as such.  Nothing here prints, logs, or opens a file:
parse() says what it found, and the executables decide what to do about it.
"""

import enum
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

FlagValue: TypeAlias = bool | int | float | str


class FlagType(enum.Enum):
    """What a value must look like, and the word for it in the usage text."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT = "float"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class Flag:
    """
    One flag.

    inert says why the flag has no effect here, and is empty where it has one;
    behaves_as is then the value that the server behaves as, if there is one.
    is_ours marks what TensorFlow Serving does not know.
    """

    name: str
    type: FlagType
    default: FlagValue
    help: str
    inert: str = ""
    behaves_as: FlagValue | None = None
    is_ours: bool = False

    def parse(self, text: str) -> FlagValue:
        """
        Return the value that *text* stands for.

        Raises:
            ValueError: The text is not of the flag's type, or out of its range.
        """
        return _PARSERS[self.type](text)


@dataclass(frozen=True, slots=True)
class ParsedFlags:
    """
    What a command line says.

    values has every flag of the table, given or not; given names those that were.
    unknown keeps the arguments that mean nothing, in order; malformed holds the
    name and text of each value that could not be read.
    """

    values: Mapping[str, FlagValue]
    given: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()
    wants_help: bool = False
    positional: tuple[str, ...] = field(default=())

    def without_effect(self, flags: Iterable[Flag]) -> Iterator[Flag]:
        """Yield the flags of *flags* that were given in vain."""
        for flag in flags:
            if (
                flag.inert
                and flag.name in self.given
                and self.values[flag.name] != flag.behaves_as
            ):
                yield flag


def parse(arguments: Sequence[str], flags: Sequence[Flag]) -> ParsedFlags:
    """
    Read the *arguments* that follow the program's name.

    `--name=value` sets a flag, the last one wins; a bool also by `--name` alone.
    `--name value` works too, unless the value itself begins with two dashes.
    `--` ends the flags: it and what follows are unknown arguments.
    """
    by_name = {flag.name: flag for flag in flags}
    values: dict[str, FlagValue] = {flag.name: flag.default for flag in flags}
    given: set[str] = set()
    unknown: list[str] = []
    malformed: list[tuple[str, str]] = []
    wants_help = False

    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if argument == "--":
            unknown += [argument, *reversed(rest)]
            break
        if argument == "--help":
            wants_help = True
            continue
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = by_name.get(name) if argument.startswith("--") else None
        if flag is None:
            unknown.append(argument)
            continue
        if not equals:
            if flag.type is FlagType.BOOL:
                text = "true"
            elif rest and not rest[-1].startswith("--"):
                text = rest.pop()
            else:
                unknown.append(argument)
                continue
        try:
            values[name] = flag.parse(text)
        except ValueError:
            malformed.append((name, text))
        else:
            given.add(name)

    return ParsedFlags(
        values=values,
        given=frozenset(given),
        unknown=tuple(unknown),
        malformed=tuple(malformed),
        wants_help=wants_help,
        positional=tuple(u for u in unknown if not u.startswith("-")),
    )


def usage(program: str, flags: Iterable[Flag]) -> str:
    """Return the text that lists the *flags*, their defaults, types and meaning."""
    lines = [f"usage: {program}", "Flags:"]
    lines += [
        f"\t--{flag.name + '=' + _shown(flag.default):<48}\t{flag.type.value}\t"
        f"{flag.help}{' No effect: ' + flag.inert + '.' if flag.inert else ''}"
        for flag in flags
    ]
    return "\n".join(lines) + "\n"


def _shown(value: FlagValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


_INTEGER: Final = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")
_FLOAT: Final = re.compile(
    r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
)
_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}


def _bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _integer(text: str, bits: int) -> int:
    # A number of digits that Python itself refuses to read is out of range anyway.
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    value = int(text)
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(text)
    return value


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    return float(text)


_PARSERS: Final[Mapping[FlagType, Callable[[str], FlagValue]]] = {
    FlagType.BOOL: _bool,
    FlagType.INT32: lambda text: _integer(text, 32),
    FlagType.INT64: lambda text: _integer(text, 64),
    FlagType.FLOAT: _float,
    FlagType.STRING: str,
}

_CORES: Final = len(os.sched_getaffinity(0))


FLAGS: Final[tuple[Flag, ...]] = (
    Flag("port", FlagType.INT32, 8500, "TCP port of the gRPC API; 0 leaves TCP out."),
    Flag(
        "grpc_socket_path",
        FlagType.STRING,
        "",
        "Unix socket on which the gRPC API listens too.",
    ),
    Flag(
        "rest_api_port",
        FlagType.INT32,
        0,
        "TCP port of the REST API, other than --port; 0 leaves REST out.",
    ),
    Flag(
        "rest_api_num_threads",
        FlagType.INT32,
        4 * _CORES,
        "Threads of the REST API.",
        inert="both APIs share the threads of --io_threads",
    ),
    Flag(
        "rest_api_timeout_in_ms",
        FlagType.INT32,
        30_000,
        "How long a REST request may run.",
    ),
    Flag(
        "rest_api_enable_cors_support",
        FlagType.BOOL,
        default=False,
        help="Answer REST requests with the headers that let other sites' pages read "
        "them.",
    ),
    Flag(
        "enable_batching",
        FlagType.BOOL,
        default=False,
        help="Run requests that wait together as one batch.",
    ),
    Flag(
        "allow_version_labels_for_unavailable_models",
        FlagType.BOOL,
        default=False,
        help="Accept new labels on versions that are not available yet.",
    ),
    Flag(
        "batching_parameters_file",
        FlagType.STRING,
        "",
        "Text file with a BatchingParameters message; needs --enable_batching.",
    ),
    Flag(
        "enable_per_model_batching_parameters",
        FlagType.BOOL,
        default=False,
        help="With --enable_batching, batch a version as batching_params.pbtxt in its "
        "directory says, and not at all without one.",
    ),
    Flag(
        "batching_policy",
        FlagType.STRING,
        "fixed",
        "Who finds the size of batches: fixed keeps to the batching parameters, "
        "adaptive learns from what runs, other names are installed policies.",
        is_ours=True,
    ),
    Flag(
        "batching_options_file",
        FlagType.STRING,
        "",
        "TOML file with what batching can do beside TensorFlow Serving's parameters, "
        "for all models and for each.",
        is_ours=True,
    ),
    Flag(
        "model_config_file",
        FlagType.STRING,
        "",
        "Text file with a ModelServerConfig message: the models to serve.  With it "
        "--model_name and --model_base_path are ignored.",
    ),
    Flag(
        "model_config_file_poll_wait_seconds",
        FlagType.INT32,
        0,
        "Seconds between two readings of --model_config_file; 0 or less: it is read "
        "once.",
    ),
    Flag("model_name", FlagType.STRING, "default", "Name of the one model served."),
    Flag(
        "model_base_path",
        FlagType.STRING,
        "",
        "Absolute path of the one model served, with its versions below.",
    ),
    Flag(
        "model_platform",
        FlagType.STRING,
        "tensorflow",
        "Platform of the one model served: what kind of model it is.",
        is_ours=True,
    ),
    Flag(
        "num_load_threads",
        FlagType.INT32,
        0,
        "Versions that may be loaded at one time; 0 means one.",
    ),
    Flag(
        "num_unload_threads",
        FlagType.INT32,
        0,
        "Versions that may be unloaded at one time; 0 means one.",
    ),
    Flag(
        "max_num_load_retries",
        FlagType.INT32,
        5,
        "How often a failed load is tried again.",
    ),
    Flag(
        "load_retry_interval_micros",
        FlagType.INT64,
        60_000_000,
        "Microseconds between two attempts to load; negative: none.",
    ),
    Flag(
        "load_timeout_seconds",
        FlagType.FLOAT,
        1800.0,
        "Seconds that an attempt to load may take, warm-up included; it then fails.",
        is_ours=True,
    ),
    Flag(
        "canary_load",
        FlagType.BOOL,
        default=False,
        help="Have a process of its own load each new version first, so that one that "
        "crashes what loads it does not end the server.",
        is_ours=True,
    ),
    Flag(
        "file_system_poll_wait_seconds",
        FlagType.INT32,
        1,
        "Seconds between two looks for versions; 0: look once; negative: never.",
    ),
    Flag(
        "flush_filesystem_caches",
        FlagType.BOOL,
        default=True,
        help="Drop what file systems keep in memory after loading.",
        inert="no file system here keeps anything",
    ),
    Flag(
        "tensorflow_session_parallelism",
        FlagType.INT64,
        0,
        "Threads for running an operation and threads for running several; 0: "
        "TensorFlow chooses.",
    ),
    Flag(
        "tensorflow_session_config_file",
        FlagType.STRING,
        "",
        "Text file with TensorFlow's ConfigProto message.",
    ),
    Flag(
        "tensorflow_intra_op_parallelism",
        FlagType.INT64,
        0,
        "Threads for running one operation; 0: TensorFlow chooses.",
    ),
    Flag(
        "tensorflow_inter_op_parallelism",
        FlagType.INT64,
        0,
        "Operations that may run at one time; 0: TensorFlow chooses.",
    ),
    Flag(
        "use_alts_credentials",
        FlagType.BOOL,
        default=False,
        help="Use Google's ALTS.  Not supported: the server does not start with it.",
    ),
    Flag(
        "ssl_config_file",
        FlagType.STRING,
        "",
        "Text file with an SSLConfig message: TLS for the gRPC API.",
    ),
    Flag(
        "platform_config_file",
        FlagType.STRING,
        "",
        "Text file with a PlatformConfigMap message; it replaces what the flags say "
        "about TensorFlow.",
    ),
    Flag(
        "per_process_gpu_memory_fraction",
        FlagType.FLOAT,
        0.0,
        "Share of a GPU's memory that TensorFlow may take; 0: it chooses.",
    ),
    Flag(
        "saved_model_tags",
        FlagType.STRING,
        "serve",
        "Comma-separated tags of the graph to load from a SavedModel.",
    ),
    Flag(
        "grpc_channel_arguments",
        FlagType.STRING,
        "",
        "Comma-separated name=value settings of the gRPC library; those without an "
        "equivalent here are told of once.",
    ),
    Flag(
        "grpc_max_threads",
        FlagType.INT32,
        4 * _CORES,
        "Most threads of the gRPC API.",
        inert="both APIs share the threads of --io_threads",
    ),
    Flag(
        "enable_model_warmup",
        FlagType.BOOL,
        default=True,
        help="Replay a version's recorded requests before it becomes available.",
    ),
    Flag(
        "num_request_iterations_for_warmup",
        FlagType.INT32,
        0,
        "How often each recorded request is replayed; 0 means once.",
    ),
    Flag(
        "version",
        FlagType.BOOL,
        default=False,
        help="Print the versions of the server and of TensorFlow, and exit.",
    ),
    Flag(
        "monitoring_config_file",
        FlagType.STRING,
        "",
        "Text file with a MonitoringConfig message; needs --rest_api_port.",
    ),
    Flag(
        "remove_unused_fields_from_bundle_metagraph",
        FlagType.BOOL,
        default=True,
        help="Keep only the signatures of a loaded graph's description.",
        inert="only the signatures are ever kept",
        behaves_as=True,
    ),
    Flag(
        "prefer_tflite_model",
        FlagType.BOOL,
        default=False,
        help="Serve model.tflite where a version has one.",
    ),
    Flag(
        "num_tflite_pools",
        FlagType.INT32,
        _CORES,
        "Interpreters for a TensorFlow Lite model.",
    ),
    Flag(
        "num_tflite_interpreters_per_pool",
        FlagType.INT32,
        1,
        "Interpreters in each of --num_tflite_pools.",
    ),
    Flag(
        "enable_signature_method_name_check",
        FlagType.BOOL,
        default=False,
        help="Refuse requests to signatures whose method_name is that of another API.",
    ),
    Flag(
        "xla_cpu_compilation_enabled",
        FlagType.BOOL,
        default=False,
        help="Let TensorFlow compile graphs for the CPU.",
        inert="graphs that ask to be compiled always are",
        behaves_as=True,
    ),
    Flag(
        "xla_gpu_compilation_enabled",
        FlagType.BOOL,
        default=False,
        help="Let TensorFlow compile graphs for the GPU.",
        inert="graphs that ask to be compiled always are",
        behaves_as=True,
    ),
    Flag(
        "enable_profiler",
        FlagType.BOOL,
        default=True,
        help="Offer TensorFlow's profiler over gRPC, to those who may administrate.",
    ),
    Flag(
        "thread_pool_factory_config_file",
        FlagType.STRING,
        "",
        "Text file with a ThreadPoolFactoryConfig message; no factory is known.",
    ),
    Flag(
        "mixed_precision",
        FlagType.STRING,
        "",
        '"bfloat16" lets TensorFlow compute in that type where it sees fit.',
    ),
    Flag(
        "skip_initialize_tpu",
        FlagType.BOOL,
        default=False,
        help="Leave TPUs alone.",
        inert="TPUs are never initialized",
        behaves_as=True,
    ),
    Flag(
        "enable_grpc_healthcheck_service",
        FlagType.BOOL,
        default=False,
        help="Offer the standard gRPC health service.",
    ),
    Flag(
        "enable_serialization_as_tensor_content",
        FlagType.BOOL,
        default=False,
        help="Return the outputs of Predict over gRPC as tensor_content.",
    ),
    Flag(
        "allow_python_models",
        FlagType.BOOL,
        default=False,
        help="Run Python code that models bring along: the platform python, and a "
        "transform.py beside a SavedModel.",
        is_ours=True,
    ),
    Flag(
        "allow_native_models",
        FlagType.BOOL,
        default=False,
        help="Run models that are libraries in this process: the platform native.",
        is_ours=True,
    ),
    Flag(
        "python_run_limit_seconds",
        FlagType.FLOAT,
        60.0,
        "Seconds that a run may take in a model's own process; the process of one that "
        "takes longer is ended and started again.",
        is_ours=True,
    ),
    Flag(
        "python_memory_limit_bytes",
        FlagType.INT64,
        0,
        "How much memory the process of a model that runs in one of its own may have "
        "for data; a request for which it does not suffice fails alone. 0: no limit.",
        is_ours=True,
    ),
    Flag(
        "wait_for_models",
        FlagType.BOOL,
        default=True,
        help="Open the ports only when every model has a version available.  Without "
        "it they open at once, and a model is answered for as soon as it is loaded.",
        is_ours=True,
    ),
    Flag(
        "allow_remote_administration",
        FlagType.BOOL,
        default=False,
        help="Let peers beyond loopback and Unix sockets reload the configuration, "
        "take profiles and run sessions.",
        is_ours=True,
    ),
    Flag(
        "auth_tokens_file",
        FlagType.STRING,
        "",
        "Text file with a servable.AuthTokens message: every request but probes has "
        "to show one of its bearer tokens, and may do what that is for.",
        is_ours=True,
    ),
    Flag(
        "auth_tokens_poll_wait_seconds",
        FlagType.INT32,
        10,
        "Seconds between two readings of the file of tokens; 0 or less: it is read "
        "once.",
        is_ours=True,
    ),
    Flag(
        "model_options",
        FlagType.STRING,
        "",
        "How versions follow each other in models whose configuration has no field "
        "'servable': a servable.ModelOptions message as text, such as "
        "'canary { percent: 10 }'.",
        is_ours=True,
    ),
    Flag(
        "max_model_memory_bytes",
        FlagType.INT64,
        0,
        "Most memory that all loaded versions may need together, by their estimates; "
        "0: no limit, but in a container with one a version that does not fit beside "
        "the one before is refused.",
        is_ours=True,
    ),
    Flag(
        "shutdown_grace_seconds",
        FlagType.FLOAT,
        25.0,
        "Seconds that requests may take to finish after SIGTERM or SIGINT.",
        is_ours=True,
    ),
    Flag(
        "lame_duck_seconds",
        FlagType.FLOAT,
        -1.0,
        "Seconds of these in which requests are still taken after the signal, while "
        "readiness fails and clients go elsewhere; negative: 5 in a Kubernetes pod, 0 "
        "anywhere else.",
        is_ours=True,
    ),
    Flag(
        "supervise",
        FlagType.BOOL,
        default=False,
        help="Serve in a child process, and start it again should it die; who connects "
        "meanwhile waits.",
        is_ours=True,
    ),
    Flag(
        "io_threads",
        FlagType.INT32,
        0,
        "Threads that read and write requests; 0: one for each core.",
        is_ours=True,
    ),
    Flag(
        "compute_threads",
        FlagType.INT32,
        0,
        "Requests that may run at one time; 0: four for each core, and about one for"
        " each core of models whose graphs wait for nothing.",
        is_ours=True,
    ),
    Flag(
        "max_message_bytes",
        FlagType.INT64,
        (1 << 31) - 1,
        "Largest gRPC request.",
        is_ours=True,
    ),
    Flag(
        "max_body_bytes",
        FlagType.INT64,
        1 << 30,
        "Largest REST request, before and after decompression.",
        is_ours=True,
    ),
    Flag(
        "max_in_flight_bytes",
        FlagType.INT64,
        0,
        "Bytes that all requests in flight may hold together; a request beyond is "
        "refused, unless it is alone. 0: a quarter of the memory of the machine or the "
        "container, at most 2 GiB.",
        is_ours=True,
    ),
    Flag(
        "max_concurrent_requests",
        FlagType.INT32,
        16_384,
        "Requests to models that are answered at one time; 0: no limit.",
        is_ours=True,
    ),
    Flag(
        "max_queued_requests",
        FlagType.INT32,
        4096,
        "Requests that may wait for a compute thread, for each model; 0: no limit.",
        is_ours=True,
    ),
    Flag(
        "max_examples",
        FlagType.INT32,
        65_536,
        "Examples of one request to Classify, Regress or MultiInference; 0: no limit.",
        is_ours=True,
    ),
    Flag(
        "max_expanded_bytes",
        FlagType.INT64,
        64 << 20,
        "Bytes that a tensor may take however small its request is; larger requests"
        " may have tensors of four times their size, of 4 GiB at most.",
        is_ours=True,
    ),
    Flag(
        "max_inflated_bytes",
        FlagType.INT64,
        100 << 20,
        "Bytes that the compressed body of a REST request may become.",
        is_ours=True,
    ),
    Flag(
        "max_inflation_ratio",
        FlagType.INT32,
        200,
        "How many times its size the compressed body of a REST request may become;"
        " a mebibyte may come of any.",
        is_ours=True,
    ),
    Flag(
        "max_request_line_bytes",
        FlagType.INT32,
        8 << 10,
        "Longest request line of a REST request.",
        is_ours=True,
    ),
    Flag(
        "max_header_bytes",
        FlagType.INT32,
        16 << 10,
        "Bytes of all header fields of a request, or of the metadata of a gRPC call.",
        is_ours=True,
    ),
    Flag(
        "max_header_fields",
        FlagType.INT32,
        100,
        "Header fields of a REST request.",
        is_ours=True,
    ),
    Flag(
        "max_body_chunks",
        FlagType.INT32,
        65_536,
        "Chunks in which the body of a REST request may come.",
        is_ours=True,
    ),
    Flag(
        "max_connections",
        FlagType.INT32,
        16_384,
        "Connections of both ports together, and never more than file descriptors "
        "allow; 0: no limit.",
        is_ours=True,
    ),
    Flag(
        "max_connections_per_peer",
        FlagType.INT32,
        0,
        "Connections from one address; 0: half of max_connections.",
        is_ours=True,
    ),
    Flag(
        "grpc_default_timeout_ms",
        FlagType.INT64,
        0,
        "Milliseconds for gRPC requests to models that bring no deadline; 0: they may "
        "take as long as they like.",
        is_ours=True,
    ),
    Flag(
        "abandoned_run_seconds",
        FlagType.FLOAT,
        5.0,
        "Seconds that a run may go on after nobody waits for it any more; one that "
        "takes longer is stuck. A model whose stuck runs hold half of the threads is "
        "not run, and a server all of whose threads they hold is not healthy.",
        is_ours=True,
    ),
    Flag(
        "load_op_library",
        FlagType.STRING,
        "",
        "Libraries of operations that models need beside TensorFlow's own: paths of "
        "files, or of directories with them, with commas between.",
        is_ours=True,
    ),
    Flag(
        "request_log_file_bytes",
        FlagType.INT64,
        256 << 20,
        "A file of logged requests that has as many bytes is finished, and the next "
        "one begun; logging_config says what is logged.",
        is_ours=True,
    ),
    Flag(
        "request_log_file_seconds",
        FlagType.INT64,
        3600,
        "A file of logged requests that is as old is finished.",
        is_ours=True,
    ),
    Flag(
        "request_log_max_files",
        FlagType.INT64,
        0,
        "Finished files of logged requests that are kept for each filename_prefix: "
        "the oldest are removed when one more is finished. 0 keeps all.",
        is_ours=True,
    ),
    Flag(
        "request_log_roots",
        FlagType.STRING,
        "",
        "Directories, with commas between, that all logged requests must be below; "
        "empty: anywhere.",
        is_ours=True,
    ),
    Flag(
        "request_log_queue_bytes",
        FlagType.INT64,
        64 << 20,
        "Bytes of logged requests that may wait to be written; what is beyond is "
        "dropped and counted.",
        is_ours=True,
    ),
    Flag(
        "enable_session_service",
        FlagType.BOOL,
        default=False,
        help="Offer SessionService.SessionRun, which runs any part of a graph, to "
        "those who may administrate.",
        is_ours=True,
    ),
    Flag(
        "rest_api_ssl_config_file",
        FlagType.STRING,
        "",
        "Text file with an SSLConfig message: TLS for the REST API.",
        is_ours=True,
    ),
    Flag(
        "ssl_config_poll_wait_seconds",
        FlagType.INT32,
        60,
        "Seconds between two readings of the SSLConfig files, whose certificates hold "
        "for new connections; 0 or less: they are read once.",
        is_ours=True,
    ),
    Flag(
        "rest_api_extensions",
        FlagType.BOOL,
        default=False,
        help="Offer over REST what TensorFlow Serving refuses or ignores: the list of "
        "models, reloads, multi_inference, output_filter, signatures without inputs, "
        "half, bfloat16, uint16 and complex values.",
        is_ours=True,
    ),
    Flag(
        "rest_compression_min_bytes",
        FlagType.INT64,
        16 << 10,
        "Smallest answer that REST clients get compressed if they accept gzip; 0: "
        "none is.",
        is_ours=True,
    ),
    Flag(
        "metrics_path",
        FlagType.STRING,
        "/metrics",
        "Where the REST API shows the metrics; empty: nowhere.",
        is_ours=True,
    ),
    Flag(
        "model_cache_dir",
        FlagType.STRING,
        "",
        "Where versions from object stores, databases and registries are kept; several "
        "servers may share it. Empty: servable/models in the user's cache directory.",
        is_ours=True,
    ),
    Flag(
        "model_cache_max_bytes",
        FlagType.INT64,
        0,
        "How much the model cache may take; 0: half of the file system that it is on.",
        is_ours=True,
    ),
    Flag(
        "forbid_ops",
        FlagType.STRING,
        "",
        "What operations of SavedModels must not be able to do, with commas between: "
        "files, network, python, print, abort, checkpoint, assets; a version with such "
        "an operation is not loaded.",
        is_ours=True,
    ),
    Flag(
        "model_roots",
        FlagType.STRING,
        "",
        "Directories and URLs, with commas between, that all models must be below; "
        "empty: anywhere.",
        is_ours=True,
    ),
    Flag(
        "rollout_state_file",
        FlagType.STRING,
        "",
        "Where promotions and rollbacks of canaries and shadows are kept for the next "
        "start; several servers may share it. Empty: servable/rollouts.json in the "
        "user's state directory.",
        is_ours=True,
    ),
    Flag(
        "log_format",
        FlagType.STRING,
        "text",
        '"text", or "json" for one object a line.',
        is_ours=True,
    ),
    Flag(
        "log_level",
        FlagType.STRING,
        "info",
        '"debug", "info", "warning" or "error".',
        is_ours=True,
    ),
)
