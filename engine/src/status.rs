//! One error type with canonical codes, and the two tables that translate it.
//!
//! Everything that can refuse or fail on the request path does so with a [`Status`]. What a code
//! is called, which gRPC code and which HTTP status it becomes is decided here and nowhere else.

use std::borrow::Cow;
use std::fmt;

/// Canonical codes, with the numbers they have on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// Code, name and HTTP status (specification 2.1), in the order of the numbers.
const TABLE: [(Code, &str, u16); 17] = [
    (Code::Ok, "OK", 200),
    (Code::Cancelled, "CANCELLED", 499),
    (Code::Unknown, "UNKNOWN", 500),
    (Code::InvalidArgument, "INVALID_ARGUMENT", 400),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
    (Code::NotFound, "NOT_FOUND", 404),
    (Code::AlreadyExists, "ALREADY_EXISTS", 409),
    (Code::PermissionDenied, "PERMISSION_DENIED", 403),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", 429),
    (Code::FailedPrecondition, "FAILED_PRECONDITION", 400),
    (Code::Aborted, "ABORTED", 409),
    (Code::OutOfRange, "OUT_OF_RANGE", 400),
    (Code::Unimplemented, "UNIMPLEMENTED", 501),
    (Code::Internal, "INTERNAL", 500),
    (Code::Unavailable, "UNAVAILABLE", 503),
    (Code::DataLoss, "DATA_LOSS", 500),
    (Code::Unauthenticated, "UNAUTHENTICATED", 401),
];

impl Code {
    /// The code with this number; a number nobody defined is UNKNOWN.
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|at| TABLE.get(at)).map_or(Code::Unknown, |row| row.0)
    }

    pub fn number(self) -> i32 {
        self as i32
    }

    /// The name in status texts and metric labels, such as `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    pub fn http(self) -> u16 {
        TABLE[self as usize].2
    }
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

pub type Result<T> = std::result::Result<T, Status>;

/// The code of a result.
pub fn code<T>(result: &Result<T>) -> Code {
    result.as_ref().map_or_else(|status| status.code, |_| Code::Ok)
}

macro_rules! constructors {
    ($($name:ident => $code:ident),* $(,)?) => {
        impl Status {
            $(pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Code::$code, message)
            })*
        }
    };
}

constructors! {
    cancelled => Cancelled,
    unknown => Unknown,
    invalid_argument => InvalidArgument,
    deadline_exceeded => DeadlineExceeded,
    not_found => NotFound,
    permission_denied => PermissionDenied,
    resource_exhausted => ResourceExhausted,
    failed_precondition => FailedPrecondition,
    out_of_range => OutOfRange,
    unimplemented => Unimplemented,
    internal => Internal,
    unavailable => Unavailable,
    unauthenticated => Unauthenticated,
}

impl Status {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The deadline came before the answer; the text is TensorFlow's own.
    pub fn timed_out() -> Self {
        Self::deadline_exceeded("Timed out waiting for notification")
    }

    /// The system gives no memory for so many bytes more.
    pub fn no_memory(bytes: usize) -> Self {
        Self::resource_exhausted(format!(
            "There is no memory for the {bytes} bytes more that this request needs. Try again later"
        ))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_own_number() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(usize::try_from(row.0.number()).unwrap(), at);
            assert_eq!(Code::from_number(row.0.number()), row.0);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(-1), Code::Unknown);
    }

    #[test]
    fn a_status_prints_as_operators_grep_for_it() {
        let status = Status::not_found("Servable not found for request: Latest(m)");

        assert_eq!(status.to_string(), "NOT_FOUND: Servable not found for request: Latest(m)");
    }
}
