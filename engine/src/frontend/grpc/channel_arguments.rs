//! The settings of gRPC's C core that have an equivalent here.
//!
//! The control plane takes their names from the command line and tells of those that have none;
//! the names that count are here and in `config/channel_arguments.py`.

use std::collections::HashMap;
use std::time::Duration;

use super::service::Limits;
use super::transport::Settings;

/// How often a connection on which nothing comes is asked for a sign of life, and how long that may
/// take.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments by their names.
pub struct Arguments<'a>(pub &'a HashMap<String, i64>);

impl Arguments<'_> {
    /// A value that is a limit; the largest number of 32 bits, and what is below 0, means none.
    fn limit(&self, name: &str) -> Option<u32> {
        let value = *self.0.get(name)?;
        u32::try_from(value).ok().filter(|_| value < i64::from(i32::MAX))
    }

    fn duration(&self, name: &str) -> Option<Duration> {
        let ms = self.limit(name).filter(|&ms| ms > 0)?;
        Some(Duration::from_millis(ms.into()))
    }

    /// What is given, where something is; else the default.
    fn or_none(&self, name: &str, default: Duration) -> Option<Duration> {
        if self.0.contains_key(name) {
            self.duration(name)
        } else {
            Some(default)
        }
    }

    /// How connections are kept.
    pub fn settings(&self, max_header_bytes: usize) -> Settings {
        Settings {
            max_concurrent_streams: self.limit("grpc.max_concurrent_streams"),
            // A peer that is gone without a word, or reads nothing, is noticed by this.
            keepalive_interval: self.or_none("grpc.keepalive_time_ms", KEEPALIVE),
            keepalive_timeout: self.or_none("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT),
            max_connection_age: self.duration("grpc.max_connection_age_ms"),
            max_connection_age_grace: self.duration("grpc.max_connection_age_grace_ms"),
            max_header_list_size: self
                .limit("grpc.max_metadata_size")
                .or(u32::try_from(max_header_bytes).ok()),
            // What the protocol allows.
            max_frame_size: self
                .limit("grpc.http2.max_frame_size")
                .map(|size| size.clamp(16_384, (1 << 24) - 1)),
        }
    }

    /// Limits on messages; `receive` is the one that holds anyway.
    pub fn limits(&self, receive: usize) -> Limits {
        let of = |name| self.limit(name).map(|limit| limit as usize);
        Limits {
            receive: of("grpc.max_receive_message_length")
                .map_or(receive, |most| most.min(receive)),
            send: of("grpc.max_send_message_length").unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_only_become_narrower() {
        for (value, receive, send) in [
            (None, 100, usize::MAX),
            (Some(10), 10, 10),
            (Some(1000), 100, 1000),
            (Some(-1), 100, usize::MAX),
            (Some(i64::from(i32::MAX)), 100, usize::MAX),
        ] {
            let names = ["grpc.max_receive_message_length", "grpc.max_send_message_length"];
            let arguments =
                names.iter().filter_map(|name| Some(((*name).to_owned(), value?))).collect();
            let limits = Arguments(&arguments).limits(100);
            assert_eq!((limits.receive, limits.send), (receive, send), "{value:?}");
        }
    }
}
