"""
The boundary between the Python control plane and the Rust request path.

Everything Python may ask of the engine is here; everything else in Rust is
private.  All methods may be called from any thread and release the GIL while
they wait.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypedDict, final

class EngineError(Exception):
    """What the engine refuses or fails at, with a canonical status code."""

    code: int  # canonical code, as in google.rpc.Code; 3 is INVALID_ARGUMENT
    message: str

class ServerOptions(Protocol):
    """What the engine reads once, when it is made; any object with these attributes."""

    grpc_host: str  # address to bind, "0.0.0.0"
    grpc_port: int | None  # None: no TCP listener; 0: any free port
    grpc_socket_path: str  # "": no Unix socket
    # Descriptors of sockets that are bound already, to listen on; None: bind them.
    grpc_listener: int | None
    grpc_socket_listener: int | None
    rest_listener: int | None
    grpc_server_key: str  # PEM texts; "" and "": no TLS
    grpc_server_cert: str
    grpc_custom_ca: str  # PEM text of the client roots, ""
    grpc_client_verify: bool  # a client must show a certificate of custom_ca
    rest_port: int | None  # None: no REST; 0: any free port
    rest_timeout_ms: int  # <= 0: none
    rest_enable_cors: bool
    rest_server_key: str  # as for gRPC
    rest_server_cert: str
    rest_custom_ca: str
    rest_client_verify: bool
    rest_api_extensions: bool  # answer what TensorFlow Serving refuses, too
    rest_compression_min_bytes: int  # of answers to who accepts gzip; 0: never
    io_threads: int  # 0: one for each core this process may use
    compute_threads: int  # most runs at one time
    num_batch_threads: int  # most batches with fixed parameters at one time
    batch_thread_name: str
    enable_signature_method_name_check: bool
    enable_serialization_as_tensor_content: bool
    enable_grpc_healthcheck_service: bool
    enable_profiler: bool  # once set_profiler was called
    enable_session_service: bool
    grpc_channel_arguments: Mapping[str, int]  # names of gRPC's C core
    # Reload, profiles and sessions for peers beyond loopback and Unix sockets.
    allow_remote_administration: bool
    prometheus_path: str  # "": TensorFlow Serving's page is not served
    metrics_path: str  # "": our own page is not served
    max_message_bytes: int  # gRPC
    max_body_bytes: int  # REST, before and after decompression
    max_in_flight_bytes: int
    max_concurrent_requests: int  # 0: no limit
    max_queued_requests: int  # of each model; 0: no limit
    max_examples: int  # of one request; 0: no limit
    max_expanded_bytes: int  # of one tensor, however small its request is
    max_inflated_bytes: int  # REST
    max_inflation_ratio: int  # REST
    max_request_line_bytes: int  # REST
    max_header_bytes: int  # of all fields
    max_header_fields: int  # REST
    max_body_chunks: int  # REST
    max_connections: int  # of both ports; 0: no limit
    max_connections_per_peer: int  # 0: half of them
    grpc_default_timeout_ms: int  # for calls without a deadline; 0: none
    abandoned_run_s: float  # a run that goes on for so long for nobody is stuck
    request_log_file_bytes: int  # a file of logged requests that has as much is ended
    request_log_file_s: float  # and one that is as old
    request_log_max_files: int  # ended ones of one prefix that are kept; 0: all
    request_log_queue_bytes: int  # what may wait to be written; more is dropped

class BatchingParameters(Protocol):
    """
    How the requests of one version are put into batches.

    The first seven are TensorFlow Serving's, in rows and seconds; the sizes of
    docs/batching.md are all in rows.
    """

    max_batch_size: int
    batch_timeout_s: float
    max_enqueued_batches: int
    allowed_batch_sizes: Sequence[int]  # (): every size
    pad_variable_length_inputs: bool
    enable_large_batch_splitting: bool
    max_execution_batch_size: int
    run_unbatchable_alone: bool  # what no batch can hold runs by itself
    padding_value: float | None  # None: each tensor's own first element
    unpad_outputs: bool
    unbatched_signatures: Sequence[str]  # names of signatures that run one by one
    policy: str  # "fixed", "adaptive", or a name: sizes by decide_batching
    target_p99_ms: float  # 0: none
    max_in_flight: int  # batches of a signature at one time; 0: one for each core
    batcher: Batcher | None  # None: rows one below another

class BatchGroup(Protocol):
    """
    Requests that run together, as a Batcher has grouped them; see PythonServable for
    tensors.  Both may raise what the requests are answered.
    """

    def pad(
        self, size: int
    ) -> Sequence[tuple[str, tuple[int, tuple[int, ...], object]]]:
        """Return what is fed, by alias; size is what the allowed sizes ask for."""

    def split(
        self, outputs: Mapping[str, tuple[int, tuple[int, ...], object]]
    ) -> Sequence[Sequence[tuple[str, tuple[int, tuple[int, ...], object]]]]:
        """Return the outputs of each request, by alias."""

class Batcher(Protocol):
    """Puts requests together and takes answers apart; called from several threads."""

    def group(
        self,
        signature_name: str,
        requests: Sequence[
            tuple[int, Mapping[str, tuple[int, tuple[int, ...], object]]]
        ],
    ) -> Sequence[tuple[Sequence[int], BatchGroup]]:
        """
        Return which requests, given as rows and inputs by alias, run together.

        A group has the places of its requests.  May raise what they are answered.
        """

class QueueObservation(TypedDict):
    """A queue whose sizes are decided while it runs, as it is now; times in seconds."""

    model: str
    version: int
    signature: str  # "" for outputs of several signatures
    policy: str
    max_batch_size: int
    target_p99_s: float  # 0.0: none
    waiting_rows: int
    in_flight: int  # batches
    arrival_rate: float  # rows a second, of late
    row_s: list[tuple[int, float]]  # what a row costs in batches of up to so many rows
    size: int  # the decision in force
    wait_s: float
    max_in_flight: int

@final
class Servable:
    """One loaded version, in whatever runtime; requests run on it once published."""

    @property
    def signature_def_map(self) -> bytes:
        """Serialized tensorflow.serving.SignatureDefMap of the version."""

    def replay(
        self,
        log_type: int,
        request: bytes,
        engine: Engine | None = None,
        all_batch_sizes: bool = False,
    ) -> bytes:
        """
        Run one serialized request on the calling thread; for warm-up and tests.

        With an engine, a servable that is batched runs it as a batch of its own, padded
        as batches are; with all_batch_sizes as one of each of the allowed sizes, too.

        log_type is the field of PredictionLog that holds such requests: 2 classify,
        3 regress, 4 multi-inference, 6 predict.  The model name and version in the
        request are ignored.  The run counts in engine's metrics.

        Raises:
            EngineError: UNIMPLEMENTED for another log_type, or what the request would
                have been answered over gRPC.
        """

    def set_batching(self, parameters: BatchingParameters) -> None:
        """Put requests into batches from the next Engine.publish() that adds it."""

    def in_use(self) -> bool:
        """Return whether a request or a published snapshot still holds it."""

    def close(self, timeout_s: float | None = None) -> bool:
        """
        Wait until nothing uses it, free it, and give its memory back to the system.

        Returns False when something still used it after timeout_s seconds; the
        servable then stays as it was and may be closed again.  Blocks.
        """

def load_tensorflow(library_directory: str) -> str:
    """
    Open the C library of an installed TensorFlow and return its version.

    library_directory holds libtensorflow_cc.so.2.  Idempotent.  Takes a few
    tenths of a second the first time.

    Raises:
        EngineError: FAILED_PRECONDITION when there is none that fits.
    """

def load_op_library(path: str) -> None:
    """
    Load a library of operations into the TensorFlow that was opened, for good.

    Raises:
        EngineError: with what TensorFlow or the dynamic linker says.
    """

def give_way(nice: int) -> bool:
    """
    Let the calling thread and those it will make have less of a core that others want.

    Threads that wake take the core from it at once, where the kernel can do that (Linux
    6.12 and later).

    Args:
        nice: how little it gets, 0 to 19; it cannot be undone.

    Returns:
        Whether the kernel allowed it.
    """

def load_saved_model(
    path: str,
    tags: Sequence[str],
    session_config: bytes,
    inter_op_in_caller: bool,
    session_target: str = "",
    load_run_options: bytes = b"",
    fixed_inputs: Sequence[tuple[str, bytes]] = (),
) -> Servable:
    """
    Open a SavedModel with TensorFlow's C API.

    session_config is a serialized tensorflow.ConfigProto, load_run_options one of
    tensorflow.RunOptions, for what is run to load the model.  session_target names
    the runtime that has the session, "" for this process.  With
    inter_op_in_caller a graph runs in the thread that asks for it where that is
    faster; without it always on TensorFlow's inter-op pool.  fixed_inputs are fed to
    every run: names in the graph and serialized TensorProtos.  Blocks, without the
    GIL, on the calling thread and at its priority.

    Raises:
        EngineError: with TensorFlow's own code and text.
    """

def load_worker(
    command: Sequence[str],
    payload: bytes,
    run_limit_s: float,
    inner: Servable | None = None,
) -> Servable:
    """
    Start a process that runs one version, and wait until it is loaded.

    command is what servable.platforms.python.hosting runs in, and payload what it is
    told to load.  A run that takes longer than run_limit_s is answered with
    DEADLINE_EXCEEDED; its process is ended and, as after a crash, started again.
    With inner the process makes the inputs of that servable and its outputs anew.
    Blocks for as long as the model takes to load.

    Raises:
        EngineError: what it fails to load with; INTERNAL when the process ends.
    """

def load_native(
    library: str, directory: str, model_name: str, model_version: int
) -> Servable:
    """
    Open a library that keeps to servable.h and have it load a version directory.

    library is the path of a file that stays as it is until the servable is closed; one
    that was opened before is not opened again under the same path.  Blocks.

    Raises:
        EngineError: FAILED_PRECONDITION when it is no such library, or what it fails
            to load with.
    """
@final
class TableBuilder:
    """
    Collects the rows of a look-up table; to be used from one thread.

    A column is its output's name, its DataType number, and the shape of one row.
    Rows are bytes in the machine's byte order, for DT_STRING a list of bytes objects.
    """

    def __init__(
        self, key_dtype: int, columns: Sequence[tuple[str, int, Sequence[int]]]
    ) -> None: ...
    def add(
        self, keys: bytes | Sequence[bytes], columns: Sequence[bytes | Sequence[bytes]]
    ) -> None:
        """
        Append rows.

        Raises:
            EngineError: they are no rows of these columns, or too many.
        """

    def finish(
        self, signature_def_map: bytes, defaults: Sequence[bytes], is_strict: bool
    ) -> tuple[Servable, int, int]:
        """
        Return the servable, how many rows it has, and the bytes of memory it takes.

        defaults has, for each column, the row of a key that is not there; is_strict
        answers such a key with NOT_FOUND instead.  The builder is empty afterwards.

        Raises:
            EngineError: a key is there twice, or columns have different lengths.
        """

def composite_servable(
    engine: Engine, recipe: str, signature_def_map: bytes
) -> Servable:
    """
    Make a servable that asks other models that engine serves.

    recipe is JSON, as servable.platforms.composite writes it.

    Raises:
        EngineError: INVALID_ARGUMENT when it is none.
    """

class PythonServable(Protocol):
    """
    What the engine asks of a servable written in Python.

    A tensor crosses as (DataType number, shape, data): data is a C-contiguous
    buffer in the machine's byte order, or a list of bytes for DT_STRING.
    """

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, tuple[int, tuple[int, ...], object]],
        outputs: Sequence[str],
    ) -> Sequence[tuple[int, tuple[int, ...], object]]: ...

def python_servable(servable: PythonServable, signature_def_map: bytes) -> Servable:
    """Make a Python object a servable; it is called on threads of the engine's own."""

class Profiler(Protocol):
    """
    Takes profiles of TensorFlow, one at a time.

    Both return a canonical code and a text; they are called on threads of the
    engine's own, and may block.
    """

    def start(self, host: int, device: int, python: int) -> tuple[int, str]: ...
    def stop(self) -> tuple[int, str, bytes]:
        """End what was started; the bytes are a serialized XSpace."""

@final
class Engine:
    """The two front ends, and the serving map that their requests read."""

    def __init__(self, options: ServerOptions) -> None: ...
    def publish(
        self,
        servables: Mapping[str, Mapping[int, Servable]],
        labels: Mapping[str, Mapping[str, int]],
        routes: Mapping[str, tuple[int, int, float, float | None]] | None = None,
    ) -> None:
        """
        Replace the whole serving map at once: name to version to servable, and labels.

        A route is (stable, candidate, part, tolerance), and concerns requests that name
        neither version nor label; without one the latest version answers them.  With a
        tolerance of None the candidate answers that part of them, from 0 to 1, while
        it is there, and the stable version the others.  With another it answers none,
        but gets copies of that part of all requests that the stable version answers,
        and numbers in the answers that differ by at most so much of the larger one are
        equal.

        A request that began before keeps what it resolved.  Never blocks.
        """

    def set_version_state(
        self, name: str, version: int, state: int, code: int, message: str
    ) -> None:
        """Record what GetModelStatus answers; state and code as on the wire."""

    def set_reload_handler(self, handler: Callable[[bytes], tuple[int, str]]) -> None:
        """
        Say who carries out HandleReloadConfigRequest.

        The handler gets the serialized ModelServerConfig and returns a canonical
        code and text.  It is called on a thread of its own and may block.
        """

    def set_request_logging(
        self,
        models: Mapping[str, tuple[str, float, bytes, Sequence[str]]],
        complain: Callable[[str], None],
    ) -> None:
        """
        Log requests to *models* from now on, and to no others.

        Of each: what the names of its files begin with, the part of the requests
        that is logged, from 0 to 1, a serialized SamplingConfig, and the tags of its
        SavedModels.  Complain is called on another thread when files cannot be
        written.  What was logged is in files when stop() returns.
        """

    def set_warning_handler(self, handler: Callable[[str], None]) -> None:
        """
        Say who is told, in a sentence, of runs that have got stuck.

        Called from an I/O thread; it must not block or raise.
        """

    def set_profiler(self, profiler: Profiler) -> None:
        """Say who takes the profiles that ProfilerService is asked for."""

    def set_auth_tokens(
        self, tokens: Sequence[tuple[str, bytes, Sequence[str], Sequence[str]]]
    ) -> None:
        """
        Ask for one of *tokens* from now on, each with its name, its SHA-256, the names
        of its scopes, and the models that it may ask; no models: any.

        Raises:
            ValueError: A hash is not 32 bytes, or a scope is none.
        """

    def replace_credentials(
        self,
        port: str,
        server_key: str,
        server_cert: str,
        custom_ca: str,
        client_verify: bool,
    ) -> None:
        """
        Accept connections on "grpc" or "rest" with another certificate from now on.

        Raises:
            EngineError: INVALID_ARGUMENT when key or certificate make no sense,
                FAILED_PRECONDITION when the port speaks plain text.
        """

    def set_administration_handler(
        self, handler: Callable[[str, bytes], tuple[int, str, bytes]]
    ) -> None:
        """
        Say who carries out the methods of servable.Administration.

        The handler gets the method's name and the serialized request, and returns a
        canonical code, a text and the serialized response.  It is called on a thread of
        its own and may block.
        """

    def answered(
        self, name: str
    ) -> Mapping[int, tuple[int, int, Sequence[tuple[float, int]], Mapping[str, int]]]:
        """
        Return what each served version of a model has answered since it was loaded.

        That is how often with OK; how often with another code, but for CANCELLED; for
        rising limits in seconds how many of the first took at most that; and what
        became of copies that it got, as "equal", "different", "failed" and "dropped".
        """

    def record_decision(self, name: str, decision: str) -> None:
        """Count a version of a model that was promoted or rolled back."""

    def record_fetch(
        self,
        store: str,
        outcome: str,
        sizes_bytes: tuple[int, int],
        seconds: float,
        cache_bytes: int,
    ) -> None:
        """
        Count a fetch from a kind of store, or a look at it that failed.

        The sizes are what came, and what was in the cache already.
        """

    def set_ready(self, ready: bool) -> None:
        """Set what readiness probes see: false before the first load and in a drain."""

    def start_grpc(self) -> int | None:
        """
        Open the gRPC listeners and return the TCP port, None without one.

        Raises:
            EngineError: INVALID_ARGUMENT when an address cannot be bound.
        """

    def start_rest(self) -> int:
        """Open the REST listener and return its port; raises as start_grpc does."""

    def leave(self) -> None:
        """
        Have clients look elsewhere, for good: probes fail, all else is answered.

        Each HTTP/1 connection ends with its next answer.
        """

    def stop(self, grace_s: float) -> bool:
        """
        Stop accepting, finish what is in flight for up to grace_s seconds, close.

        Returns whether everything had finished.  Blocks.
        """

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        """
        Count the warm-up of what was loaded from path.

        status is "OK" or an error's text, records how many were read.

        Raises:
            ValueError: latency_s is negative or no number.
        """

    def set_mlmd_uuid(self, name: str, version: int, uuid: str | None) -> None:
        """Show what ML Metadata calls a version in the metrics; None: no more."""

    def observe_batching(self) -> list[QueueObservation]:
        """Return the queues of every policy but "fixed"; of each signature, one."""

    def decide_batching(
        self,
        model: str,
        version: int,
        signature: str,
        size: int,
        wait_s: float,
        in_flight: int,
    ) -> None:
        """
        Have a decision hold for the queues of a signature, until the next one.

        Batches have up to size rows, and wait for them for up to wait_s seconds while
        they could run; in_flight of them run at a time.  Sizes and numbers are brought
        within the limits.  What is not served any more is left alone.

        Raises:
            ValueError: wait_s is negative or no number.
        """

    def metrics(self) -> str:
        """Return the page served at metrics_path."""

def bench(spec_json: str, progress: Callable[[float], None] | None = None) -> str:
    """
    Drive a server with load as spec_json says and return the result as JSON.

    servable.bench.runner says what is in both.  progress is called about ten times a
    second with the part done; what it raises ends the run.  Blocks.

    Raises:
        ValueError: the specification makes no sense.
        ConnectionError: the server could not be reached at the start.
        OSError: the process to watch is not there.
    """
