//! The front ends of one process: started one by one, stopped together.

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{App, Options};
use crate::frontend::grpc::health::Health;
use crate::frontend::tls::{Credentials, Tls};
use crate::frontend::{grpc, rest};
use crate::inference::model_status::VersionStatus;
use crate::memory;
use crate::promptness;
use crate::status::{Result, Status};

/// The runtime, and what is running on it.
pub struct Server {
    pub app: Arc<App>,
    /// `None` after the server was stopped.
    runtime: Mutex<Option<Runtime>>,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    health: Mutex<Option<grpc::health::Health>>,
    tls: Mutex<Ports>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Grpc,
    Rest,
}

/// What accepts TLS, on the ports that do.
#[derive(Default)]
struct Ports {
    grpc: Option<Arc<Tls>>,
    rest: Option<Arc<Tls>>,
}

impl Server {
    /// # Errors
    /// INTERNAL when threads cannot be made.
    pub fn new(options: Options) -> Result<Self> {
        let threads = match options.io_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("servable-io")
            .enable_all()
            .on_thread_park(|| {
                memory::give_back_own();
                promptness::gather_in_a_flood();
            })
            .build()
            .map_err(|error| Status::internal(format!("No I/O threads: {error}")))?;
        Ok(Self {
            app: Arc::new(App::new(options)),
            runtime: Mutex::new(Some(runtime)),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            health: Mutex::default(),
            tls: Mutex::default(),
        })
    }

    /// Open the gRPC listeners; the TCP port, when there is one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when an address cannot be bound or TLS cannot be set up.
    pub fn start_grpc(&self) -> Result<Option<u16>> {
        let options = &self.app.options;
        let failed =
            |error: &dyn std::fmt::Display| Status::invalid_argument(format!("{FAILED}: {error}"));
        let credentials = Credentials {
            server_key: options.grpc_server_key.clone(),
            server_cert: options.grpc_server_cert.clone(),
            custom_ca: options.grpc_custom_ca.clone(),
            client_verify: options.grpc_client_verify,
        };
        let tls = Tls::new(&credentials, &[b"h2"]).map_err(|status| failed(&status.message))?;
        self.tls.lock().grpc.clone_from(&tls);
        let mut port = None;
        let tcp = match options.grpc_port {
            None => None,
            Some(wanted) => {
                let host: IpAddr = options.grpc_host.parse().map_err(|error| failed(&error))?;
                let listener = match options.grpc_listener {
                    Some(descriptor) => grpc::inherit_tcp(descriptor),
                    // As the gRPC library takes it.
                    None if host == Ipv4Addr::UNSPECIFIED => grpc::bind_everywhere(wanted),
                    None => grpc::bind_tcp(SocketAddr::new(host, wanted)),
                };
                let listener = listener.map_err(|error| failed(&error))?;
                port = Some(listener.local_addr().map_err(|error| failed(&error))?.port());
                Some(listener)
            }
        };
        let unix = match (options.grpc_socket_path.as_str(), options.grpc_socket_listener) {
            ("", _) => None,
            (_, Some(descriptor)) => {
                let listener = grpc::inherit_unix(descriptor).map_err(|error| failed(&error))?;
                Some((listener, None))
            }
            (path, None) => {
                let path = Path::new(path);
                let listener = grpc::bind_unix(path).map_err(|error| failed(&error))?;
                Some((listener, Some(path.to_owned())))
            }
        };
        let health = options.enable_grpc_healthcheck_service.then(|| {
            let (health, service) = grpc::health::service();
            *self.health.lock() = Some(health);
            service
        });
        self.tell_health();
        let runtime = self.runtime.lock();
        let runtime = runtime.as_ref().ok_or_else(stopped)?;
        let listeners = {
            let _inside = runtime.enter();
            grpc::Listeners::new(tcp, unix, tls, self.app.admission.clone())
                .map_err(|error| failed(&error))?
        };
        let served = grpc::serve(self.app.clone(), listeners, health, self.when_stopping());
        let task = runtime.spawn(served);
        self.tasks.lock().push(task);
        Ok(port)
    }

    /// Open the REST listener; its port.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it cannot be bound.
    pub fn start_rest(&self) -> Result<u16> {
        let failed = |error: &dyn std::fmt::Display| {
            Status::invalid_argument(format!("Failed to start the HTTP server: {error}"))
        };
        let options = &self.app.options;
        let credentials = Credentials {
            server_key: options.rest_server_key.clone(),
            server_cert: options.rest_server_cert.clone(),
            custom_ca: options.rest_custom_ca.clone(),
            client_verify: options.rest_client_verify,
        };
        let tls = Tls::new(&credentials, rest::PROTOCOLS);
        let tls = tls.map_err(|status| failed(&status.message))?;
        self.tls.lock().rest.clone_from(&tls);
        let wanted = options.rest_port.unwrap_or(0);
        let listener = match options.rest_listener {
            Some(descriptor) => grpc::inherit_tcp(descriptor),
            None => grpc::bind_everywhere(wanted),
        };
        let listener = listener.map_err(|error| failed(&error))?;
        let port = listener.local_addr().map_err(|error| failed(&error))?.port();
        let runtime = self.runtime.lock();
        let runtime = runtime.as_ref().ok_or_else(stopped)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(|error| failed(&error))?
        };
        let task =
            runtime.spawn(rest::serve(self.app.clone(), listener, tls, self.when_stopping()));
        self.tasks.lock().push(task);
        Ok(port)
    }

    /// Accept connections with other certificates from now on, on a port that has one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when they make no sense, and FAILED_PRECONDITION when the port speaks plain
    /// text; nothing changes then.
    pub fn replace_credentials(&self, port: Port, credentials: &Credentials) -> Result<()> {
        let ports = self.tls.lock();
        let tls = match port {
            Port::Grpc => ports.grpc.clone(),
            Port::Rest => ports.rest.clone(),
        };
        drop(ports);
        let tls = tls.ok_or_else(|| Status::failed_precondition("The port speaks plain text"))?;
        tls.replace(credentials)
    }

    /// Say whether probes are to see a server that can answer.
    pub fn set_ready(&self, ready: bool) {
        self.app.ready.store(ready, Ordering::Release);
        self.tell_health();
    }

    /// Answer on, but fail the probes, and end each HTTP/1 connection with its next answer.
    pub fn leave(&self) {
        self.app.leave();
        self.tell_health();
        let models: HashSet<_> = self.app.states.all().into_iter().map(|(name, _)| name).collect();
        self.with_health(|health| async move {
            for model in models {
                health.set_model(&model, false).await;
            }
        });
    }

    /// Record what became of a version.
    pub fn set_version_state(&self, model: &str, status: VersionStatus) {
        self.app.states.set(model, status);
        let available = self.app.states.is_available(model) && !self.app.is_leaving();
        self.with_health(|health| {
            let model = model.to_owned();
            async move { health.set_model(&model, available).await }
        });
    }

    fn tell_health(&self) {
        let ready = self.app.is_ready();
        self.with_health(|health| async move { health.set_ready(ready).await });
    }

    fn with_health<F: Future<Output = ()>>(&self, tell: impl FnOnce(Health) -> F) {
        let health = self.health.lock().clone();
        if let (Some(health), Some(runtime)) = (health, &*self.runtime.lock()) {
            runtime.block_on(tell(health));
        }
    }

    fn when_stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            // An error means that the server is gone, which is a reason to stop, too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }

    /// Stop accepting, finish what is in flight for at most `grace`, close. Whether everything
    /// had finished.
    pub fn stop(&self, grace: Duration) -> bool {
        self.app.leave();
        self.stopping.send_replace(true);
        let Some(runtime) = self.runtime.lock().take() else { return true };
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let finished = runtime.block_on(async {
            tokio::time::timeout(grace, async {
                for task in tasks {
                    // A task that panicked has finished, too.
                    let _ = task.await;
                }
            })
            .await
            .is_ok()
        });
        runtime.shutdown_background();
        self.app.request_logs.close(LOG_GRACE);
        finished
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// How long a disk may take for the requests that were logged last.
const LOG_GRACE: Duration = Duration::from_secs(5);

/// TensorFlow Serving's own text when its gRPC server cannot start.
const FAILED: &str = "Failed to BuildAndStart gRPC server";

fn stopped() -> Status {
    Status::failed_precondition("The server was stopped")
}
