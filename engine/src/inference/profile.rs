//! Profiles of the runtime, taken while it serves.
//!
//! Who takes them is the control plane's to say. One is taken at a time. Nothing is written here,
//! whatever directory a request names: the profile goes to who asked for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, Notify};

use crate::app::App;
use crate::inference::serialized::unparsable;
use crate::status::{Result, Status};
use crate::wire::{self, Field, Malformed, Message, Reader};

/// Longest profile.
const MAX: Duration = Duration::from_secs(600);

/// What is watched, and how closely; as in `ProfileOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    pub host: u32,
    pub device: u32,
    pub python: u32,
}

impl Default for Levels {
    fn default() -> Self {
        Self { host: 2, device: 1, python: 0 }
    }
}

/// Takes profiles. May block.
pub trait Profiler: Send + Sync {
    /// # Errors
    /// What the runtime says.
    fn start(&self, levels: Levels) -> Result<()>;

    /// End what was started; a serialized `XSpace`.
    ///
    /// # Errors
    /// What the runtime says.
    fn stop(&self) -> Result<Vec<u8>>;
}

/// The profile that is being taken.
#[derive(Default)]
pub struct Current(Mutex<Option<(String, Arc<Notify>)>>);

/// A `ProfileRequest` taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    duration_ms: u64,
    levels: Option<Levels>,
    session_id: String,
    wants_xspace: bool,
}

/// Answer a serialized `ProfileRequest`.
///
/// # Errors
/// INVALID_ARGUMENT for a duration that makes no sense, UNAVAILABLE while another profile is taken,
/// or what the runtime says.
pub async fn profile(app: &Arc<App>, message: Bytes) -> Result<Message> {
    let request = parse(&message).map_err(|Malformed| unparsable())?;
    let duration = Duration::from_millis(request.duration_ms);
    if duration > MAX {
        return Err(Status::invalid_argument(format!(
            "A profile of {} ms is asked for; at most {} are taken",
            request.duration_ms,
            MAX.as_millis()
        )));
    }
    let profiler = app
        .profiler
        .read()
        .clone()
        .ok_or_else(|| Status::failed_precondition("There is no profiler in this server"))?;
    let enough = Arc::new(Notify::new());
    {
        let mut current = app.profile.0.lock();
        if current.is_some() {
            return Err(Status::unavailable("Another profile is being taken"));
        }
        *current = Some((request.session_id.clone(), enough.clone()));
    }
    // A task of its own: what was started is stopped, even when the caller goes away.
    let (alive, gone) = oneshot::channel::<()>();
    let (app, levels) = (app.clone(), request.levels.unwrap_or_default());
    let taken = tokio::spawn(async move {
        let started = {
            let profiler = profiler.clone();
            tokio::task::spawn_blocking(move || profiler.start(levels)).await
        };
        let result = match started {
            Ok(Ok(())) => {
                tokio::select! {
                    () = tokio::time::sleep(duration) => {}
                    () = enough.notified() => {}
                    _ = gone => {}
                }
                tokio::task::spawn_blocking(move || profiler.stop()).await
            }
            Ok(Err(status)) => Ok(Err(status)),
            Err(panicked) => Err(panicked),
        };
        *app.profile.0.lock() = None;
        result
    });
    let xspace = taken.await;
    drop(alive);
    let xspace = xspace.and_then(|taken| taken);
    let xspace = xspace.map_err(|_| Status::internal("The profile failed"))??;
    let mut answer = Message::with_capacity(xspace.len() + 64);
    let out = answer.bytes_mut();
    if is_empty(&xspace).unwrap_or(true) {
        wire::put_tag(out, 7, wire::VARINT);
        wire::put_varint(out, 1);
    } else if request.wants_xspace {
        wire::put_bytes(out, 8, &xspace);
    } else {
        let name = b"xplane.pb";
        let len = wire::bytes_len(1, name.len()) + wire::bytes_len(2, xspace.len());
        wire::put_tag(out, 6, wire::BYTES);
        wire::put_varint(out, len as u64);
        wire::put_bytes(out, 1, name);
        wire::put_bytes(out, 2, &xspace);
    }
    Ok(answer)
}

/// Answer a serialized `TerminateRequest`: a profile of that name is ended before its time.
///
/// # Errors
/// When the bytes are none.
pub fn terminate(app: &App, message: &Bytes) -> Result<Message> {
    let mut session_id = String::new();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next().map_err(|Malformed| unparsable())? {
        if let (1, Field::Bytes(range)) = (number, field) {
            wire::text(&message[range])
                .map_err(|Malformed| unparsable())?
                .clone_into(&mut session_id);
        }
    }
    if let Some((current, enough)) = &*app.profile.0.lock() {
        if *current == session_id {
            enough.notify_one();
        }
    }
    Ok(Message::new())
}

fn parse(message: &Bytes) -> std::result::Result<Request, Malformed> {
    let mut request = Request::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => request.duration_ms = value,
            (4, Field::Bytes(range)) => {
                // What is not there is zero, unless nothing is.
                let mut levels = Levels { host: 0, device: 0, python: 0 };
                let mut version = 0;
                let mut options = Reader::within(message, range);
                while let Some((number, field)) = options.next()? {
                    match (number, field) {
                        (2, Field::Varint(value)) => levels.host = value as u32,
                        (3, Field::Varint(value)) => levels.device = value as u32,
                        (4, Field::Varint(value)) => levels.python = value as u32,
                        (5, Field::Varint(value)) => version = value,
                        _ => {}
                    }
                }
                request.levels = (version > 0).then_some(levels);
            }
            (6, Field::Bytes(range)) => request.session_id = wire::text(&message[range])?.into(),
            (9, Field::Varint(value)) => request.wants_xspace = value != 0,
            _ => {}
        }
    }
    Ok(request)
}

/// Whether no plane of an `XSpace` has a line with an event.
fn is_empty(xspace: &[u8]) -> std::result::Result<bool, Malformed> {
    let mut planes = Reader::new(xspace);
    while let Some((number, field)) = planes.next()? {
        let (1, Field::Bytes(plane)) = (number, field) else { continue };
        let mut lines = Reader::within(xspace, plane);
        while let Some((number, field)) = lines.next()? {
            let (3, Field::Bytes(line)) = (number, field) else { continue };
            let mut line = Reader::within(xspace, line);
            while let Some((number, _)) = line.next()? {
                if number == 4 {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Options;
    use crate::status::Code;

    /// Gives back a plane with an event, and says when it was started.
    struct Fake(Mutex<Vec<Levels>>);

    impl Profiler for Fake {
        fn start(&self, levels: Levels) -> Result<()> {
            self.0.lock().push(levels);
            Ok(())
        }

        fn stop(&self) -> Result<Vec<u8>> {
            Ok(b"\x0a\x04\x1a\x02\x22\x00".to_vec())
        }
    }

    fn app() -> (Arc<App>, Arc<Fake>) {
        let app = Arc::new(App::new(Options::default()));
        let fake = Arc::new(Fake(Mutex::default()));
        *app.profiler.write() = Some(fake.clone());
        (app, fake)
    }

    #[tokio::test]
    async fn a_profile_is_sent_to_who_asks_for_it() {
        let (app, fake) = app();
        let answer = profile(&app, Bytes::from_static(b"\x08\x01")).await.unwrap();
        assert_eq!(answer.as_slice(), b"\x32\x13\x0a\x09xplane.pb\x12\x06\x0a\x04\x1a\x02\x22\x00");
        assert_eq!(*fake.0.lock(), [Levels::default()]);

        let answer = profile(&app, Bytes::from_static(b"\x48\x01")).await.unwrap();
        assert_eq!(answer.as_slice(), b"\x42\x06\x0a\x04\x1a\x02\x22\x00");
    }

    #[tokio::test]
    async fn one_is_taken_at_a_time_and_may_be_ended() {
        let (app, _) = app();
        let long = Bytes::from_static(b"\x08\xc0\xa9\x07\x32\x01s");
        let asked = app.clone();
        let running = tokio::spawn(async move { profile(&asked, long).await });
        while app.profile.0.lock().is_none() {
            tokio::task::yield_now().await;
        }
        let other = profile(&app, Bytes::new()).await.err().unwrap();
        assert_eq!(other.code, Code::Unavailable);

        terminate(&app, &Bytes::from_static(b"\x0a\x01t")).unwrap();
        assert!(app.profile.0.lock().is_some());
        terminate(&app, &Bytes::from_static(b"\x0a\x01s")).unwrap();
        running.await.unwrap().unwrap();
        assert!(app.profile.0.lock().is_none());
    }

    #[tokio::test]
    async fn a_profile_without_end_is_refused() {
        let (app, _) = app();
        let refused = profile(&app, Bytes::from_static(b"\x08\xff\xff\xff\x7f")).await.err();
        assert_eq!(refused.unwrap().code, Code::InvalidArgument);
    }

    #[test]
    fn options_count_when_they_have_a_version() {
        let levels = |bytes: &'static [u8]| parse(&Bytes::from_static(bytes)).unwrap().levels;
        assert_eq!(levels(b"\x22\x02\x10\x03"), None);
        let expected = Levels { host: 3, device: 0, python: 1 };
        assert_eq!(levels(b"\x22\x06\x10\x03\x20\x01\x28\x01"), Some(expected));
    }

    #[test]
    fn what_is_kept_is_parsed_or_refused() {
        crate::corpus::each("protobuf", |input| {
            let _ = (parse(&Bytes::copy_from_slice(input)), is_empty(input));
        });
    }
}
