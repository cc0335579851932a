//! What to send, where, and how much of it: the specification of a run as JSON, and its checks.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::schedule::Arrival;
use super::BenchError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Grpc,
    Rest,
}

/// Who decides when the next request is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum Load {
    /// The answers: `in_flight` requests are out at any time.
    Closed { in_flight: usize },
    /// A schedule: `rate` requests a second, however slow the answers are.
    Open {
        rate: f64,
        #[serde(default = "poisson")]
        arrival: Arrival,
        #[serde(default)]
        seed: u64,
        /// Requests beyond this many wait here; their latency counts from when they were due.
        #[serde(default = "default_max_in_flight")]
        max_in_flight: usize,
    },
}

fn poisson() -> Arrival {
    Arrival::Poisson
}

fn default_max_in_flight() -> usize {
    256
}

/// One run.  Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub protocol: Protocol,
    /// `host:port`, or `unix:` and the path of a socket.
    pub address: String,
    /// `/package.Service/Method` for gRPC, the path of the URL for REST.
    pub path: String,
    /// REST only.
    #[serde(default = "post")]
    pub verb: String,
    /// Further headers, in gRPC's words metadata.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The serialized message, or the REST body.
    #[serde(default)]
    pub body_base64: String,
    /// Where the body is read from instead.
    #[serde(default)]
    pub body_file: Option<PathBuf>,
    /// What every answer must be, byte by byte; not checked without it.
    #[serde(default)]
    pub expected_base64: Option<String>,
    pub load: Load,
    /// gRPC only: REST has a connection for each request in flight.
    #[serde(default = "one")]
    pub connections: usize,
    #[serde(default = "one")]
    pub threads: usize,
    #[serde(default = "one_second")]
    pub warmup_s: f64,
    /// How long to measure; either this or `requests`.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// How many requests to measure.
    #[serde(default)]
    pub requests: Option<u64>,
    #[serde(default = "thirty_seconds")]
    pub timeout_s: f64,
    /// Process whose CPU time and memory are reported; it must run on this machine.
    #[serde(default)]
    pub pid: Option<u32>,
}

fn post() -> String {
    "POST".into()
}

fn one() -> usize {
    1
}

fn one_second() -> f64 {
    1.0
}

fn thirty_seconds() -> f64 {
    30.0
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Amount {
    Time(Duration),
    Requests(u64),
}

/// A specification that has been checked and whose files and names have been looked up.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub protocol: Protocol,
    pub target: Target,
    pub address: String,
    pub authority: String,
    pub path: String,
    pub verb: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub expected: Option<Bytes>,
    pub load: Load,
    pub connections: usize,
    pub threads: usize,
    pub warmup: Duration,
    pub amount: Amount,
    pub timeout: Duration,
    pub pid: Option<u32>,
}

impl Spec {
    /// Check everything that can be known before the first connection.
    pub(super) fn plan(&self) -> Result<Plan, BenchError> {
        let (target, authority) = resolve(&self.address)?;
        if !self.path.starts_with('/') {
            return Err(invalid(format!("path must begin with /, not {:?}", self.path)));
        }
        let body = match &self.body_file {
            Some(_) if !self.body_base64.is_empty() => {
                return Err(invalid("body_file and body_base64 exclude each other".into()));
            }
            Some(path) => std::fs::read(path)
                .map_err(|e| invalid(format!("body_file {}: {e}", path.display())))?,
            None => decode("body_base64", &self.body_base64)?,
        };
        let expected = match &self.expected_base64 {
            Some(text) => Some(Bytes::from(decode("expected_base64", text)?)),
            None => None,
        };
        let widest = match self.load {
            Load::Closed { in_flight } => in_flight,
            Load::Open { rate, max_in_flight, .. } => {
                if !(rate.is_finite() && rate > 0.0) {
                    return Err(invalid(format!("rate must be positive, not {rate}")));
                }
                max_in_flight
            }
        };
        let threads = self.threads;
        if widest < threads || threads == 0 {
            return Err(invalid(format!(
                "{threads} threads cannot share {widest} requests in flight"
            )));
        }
        if self.connections < threads {
            return Err(invalid(format!(
                "{threads} threads cannot share {} connections",
                self.connections
            )));
        }
        let amount = match (self.duration_s, self.requests) {
            (Some(seconds), None) => Amount::Time(duration("duration_s", seconds)?),
            (None, Some(requests)) if requests > 0 => Amount::Requests(requests),
            _ => return Err(invalid("give either a positive duration_s or requests".into())),
        };
        Ok(Plan {
            protocol: self.protocol,
            target,
            address: self.address.clone(),
            authority,
            path: self.path.clone(),
            verb: self.verb.clone(),
            headers: self.headers.clone().into_iter().collect(),
            body: Bytes::from(body),
            expected,
            load: self.load.clone(),
            connections: self.connections,
            threads,
            warmup: duration("warmup_s", self.warmup_s)?,
            amount,
            timeout: duration("timeout_s", self.timeout_s)?,
            pid: self.pid,
        })
    }
}

fn resolve(address: &str) -> Result<(Target, String), BenchError> {
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok((Target::Unix(path.into()), "localhost".into()));
    }
    let mut found = address.to_socket_addrs().map_err(|e| {
        invalid(format!("address {address:?}: {e}; it should be host:port or unix:path"))
    })?;
    found
        .next()
        .map(|socket_address| (Target::Tcp(socket_address), address.into()))
        .ok_or_else(|| invalid(format!("address {address:?} has no IP address")))
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>, BenchError> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|e| invalid(format!("{field} is not base64: {e}")))
}

fn duration(field: &str, seconds: f64) -> Result<Duration, BenchError> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| invalid(format!("{field} must not be {seconds}")))
}

fn invalid(message: String) -> BenchError {
    BenchError::Spec(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(changes: serde_json::Value) -> Result<Plan, String> {
        let mut json = serde_json::json!({
            "protocol": "grpc",
            "address": "127.0.0.1:8500",
            "path": "/a.B/C",
            "load": {"mode": "closed", "in_flight": 2},
            "duration_s": 1.0,
        });
        for (key, value) in changes.as_object().expect("an object") {
            json[key] = value.clone();
        }
        let spec: Spec = serde_json::from_value(json).map_err(|e| e.to_string())?;
        spec.plan().map_err(|e| e.to_string())
    }

    #[test]
    fn the_shortest_specification_is_complete() {
        let plan = spec(serde_json::json!({})).expect("valid");

        assert_eq!(plan.target, Target::Tcp("127.0.0.1:8500".parse().expect("an address")));
        assert_eq!(plan.amount, Amount::Time(Duration::from_secs(1)));
        assert_eq!((plan.connections, plan.threads), (1, 1));
    }

    #[test]
    fn both_spellings_of_a_unix_address_name_the_same_socket() {
        for address in ["unix:/tmp/s", "unix:///tmp/s"] {
            let plan = spec(serde_json::json!({"address": address})).expect("valid");

            assert_eq!(plan.target, Target::Unix("/tmp/s".into()));
        }
    }

    #[test]
    fn refusals_name_the_field() {
        for (changes, part) in [
            (serde_json::json!({"address": "nowhere"}), "address"),
            (serde_json::json!({"path": "a.B/C"}), "path"),
            (serde_json::json!({"body_base64": "?"}), "body_base64"),
            (serde_json::json!({"body_file": "/nonexistent"}), "/nonexistent"),
            (serde_json::json!({"load": {"mode": "open", "rate": 0.0}}), "rate"),
            (serde_json::json!({"load": {"mode": "closed", "in_flight": 0}}), "in flight"),
            (serde_json::json!({"duration_s": -1.0}), "duration_s"),
            (serde_json::json!({"requests": 5}), "either"),
            (serde_json::json!({"threads": 2}), "connections"),
            (serde_json::json!({"in_fligth": 2}), "in_fligth"),
        ] {
            let error = spec(changes.clone()).expect_err("refused");

            assert!(error.contains(part), "{changes}: {error}");
        }
    }
}
