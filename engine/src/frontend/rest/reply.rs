//! Answers, and how they become bytes.

use std::cell::RefCell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::status::{Code, Status};
use crate::tensor::json::text::write_string;

pub const JSON: &str = "application/json";
pub const HTML: &str = "text/html";
/// What the HTTP library says of a body that has no type, such as an empty one.
const UNTYPED: &str = "text/html; charset=ISO-8859-1";

/// How a client that is not known may say who it is.
pub const CHALLENGE: &str = "Bearer";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// Whether pages of other origins may read it.
    pub cors: bool,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Whether the body is compressed.
    pub is_gzip: bool,
    /// Whether it is worth asking again soon.
    pub is_busy: bool,
}

impl Reply {
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type,
            body,
            cors: false,
            close: false,
            is_gzip: false,
            is_busy: false,
        }
    }

    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, JSON, body)
    }

    pub fn empty(status: u16) -> Self {
        Self::new(status, UNTYPED, Vec::new())
    }

    /// A page for people, after which the connection is closed.
    pub fn page(status: u16) -> Self {
        let reason = reason(status);
        let body = format!(
            "<!DOCTYPE html>\n<title>{status} {reason}</title>\n<h1>{status} {reason}</h1>\n"
        );
        Self { close: true, ..Self::new(status, HTML, body.into_bytes()) }
    }

    pub fn error(status: &Status) -> Self {
        let mut body = b"{\n    \"error\": ".to_vec();
        write_string(&mut body, status.message.as_bytes());
        body.extend_from_slice(b"\n}");
        let reply = Self::json(status.code.http(), body);
        Self { is_busy: status.code == Code::Unavailable, ..reply }
    }

    /// The same, where others hold what the request needs.
    pub fn busy(status: &Status) -> Self {
        Self { is_busy: true, ..Self::error(status) }
    }

    /// Write everything that stands before the body. `minor` is that of the request's HTTP version.
    pub fn write_head(&self, out: &mut Vec<u8>, minor: u8, keep_alive: bool) {
        out.extend_from_slice(if minor == 0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(number.format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\nContent-Type: ");
        out.extend_from_slice(self.content_type.as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        write_date(out);
        out.extend_from_slice(b"\r\nContent-Length: ");
        out.extend_from_slice(number.format(self.body.len()).as_bytes());
        if self.is_gzip {
            out.extend_from_slice(b"\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding");
        }
        if self.is_busy {
            out.extend_from_slice(b"\r\nRetry-After: 1");
        }
        if self.cors {
            out.extend_from_slice(
                b"\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: POST, GET\
                  \r\nAccess-Control-Allow-Headers: Content-Type",
            );
        }
        if self.status == 401 {
            out.extend_from_slice(b"\r\nWWW-Authenticate: ");
            out.extend_from_slice(CHALLENGE.as_bytes());
        }
        if !keep_alive {
            out.extend_from_slice(b"\r\nConnection: close");
        } else if minor == 0 {
            out.extend_from_slice(b"\r\nConnection: keep-alive");
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Write the time as HTTP wants it; it is worked out once a second.
fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(at, text)| {
        if *at != now || text.is_empty() {
            *at = now;
            text.clear();
            format_date(text, now);
        }
        out.extend_from_slice(text);
    });
}

fn format_date(out: &mut Vec<u8>, seconds: u64) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; eras of 400 years are all alike.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let _ = write!(out, "{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_wants_them() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
        ] {
            let mut out = Vec::new();
            format_date(&mut out, seconds);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn an_error_is_an_object_with_one_key() {
        let reply = Reply::error(&Status::not_found("no \"m\"\n"));

        assert_eq!(reply.status, 404);
        assert_eq!(reply.body, b"{\n    \"error\": \"no \\\"m\\\"\\n\"\n}");
    }

    #[test]
    fn every_status_that_a_code_becomes_has_a_reason() {
        for number in 0..=16 {
            let status = crate::status::Code::from_number(number).http();
            assert_ne!(reason(status), "Unknown", "{status}");
        }
    }
}
