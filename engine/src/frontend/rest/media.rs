//! What a body is, and what the client takes for an answer.
//!
//! Clients of TensorFlow Serving say anything about their bodies, and are answered in JSON: only a
//! type that means nothing else is believed.

/// What bodies are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    #[default]
    Json,
    Protobuf,
    /// NumPy's file format, one tensor.
    Npy,
}

/// Bytes that a `.npy` file begins with, and no JSON document and no protobuf message of ours.
const NPY_MAGIC: &[u8] = b"\x93NUMPY";

const NAMES: [(&str, Media); 4] = [
    ("application/json", Media::Json),
    ("application/x-protobuf", Media::Protobuf),
    ("application/protobuf", Media::Protobuf),
    ("application/x-npy", Media::Npy),
];

impl Media {
    /// The type of an answer's body.
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => super::reply::JSON,
            Media::Protobuf => "application/x-protobuf",
            Media::Npy => "application/x-npy",
        }
    }

    /// What `Content-Type` says of a body; JSON where it says nothing that is known.
    pub fn of_content(content_type: &[u8]) -> Self {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
        named(essence.trim_ascii()).unwrap_or_default()
    }

    /// What a body is that came without a type of its own, such as `application/octet-stream`.
    pub fn of_body(self, body: &[u8]) -> Self {
        match self {
            Media::Json if body.starts_with(NPY_MAGIC) => Media::Npy,
            media => media,
        }
    }

    /// What `Accept` asks for by name, the most wanted first; `None` when anything will do.
    pub fn of_accept(accept: &[u8]) -> Option<Self> {
        let mut best = None;
        for (name, weight) in weighted(accept) {
            let Some(media) = named(name).filter(|_| weight > 0) else { continue };
            if best.is_none_or(|(most, _)| weight > most) {
                best = Some((weight, media));
            }
        }
        best.map(|(_, media)| media)
    }
}

/// Whether `Accept-Encoding` asks for gzip.
pub fn accepts_gzip(value: &[u8]) -> bool {
    weighted(value).any(|(name, weight)| name.eq_ignore_ascii_case(b"gzip") && weight > 0)
}

fn named(name: &[u8]) -> Option<Media> {
    NAMES.iter().find(|row| name.eq_ignore_ascii_case(row.0.as_bytes())).map(|row| row.1)
}

/// The elements of a list with their weights, in thousandths; one that makes no sense is nothing.
fn weighted(list: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    list.split(|&byte| byte == b',').map(|element| {
        let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")));
        (name, quality.map_or(1000, |text| thousandths(text).unwrap_or(0)))
    })
}

fn thousandths(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    match whole {
        "0" => format!("{fraction:0<3}").parse().ok(),
        "1" if fraction.bytes().all(|digit| digit == b'0') => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_type_that_means_nothing_else_is_believed() {
        for (content_type, body, expected) in [
            ("", "{", Media::Json),
            ("text/plain", "{", Media::Json),
            ("application/x-www-form-urlencoded", "{", Media::Json),
            ("application/octet-stream", "{", Media::Json),
            ("application/x-protobuf", "{", Media::Protobuf),
            ("Application/Protobuf; x=y", "{", Media::Protobuf),
            ("application/x-npy", "{", Media::Npy),
        ] {
            let media = Media::of_content(content_type.as_bytes()).of_body(body.as_bytes());
            assert_eq!(media, expected, "{content_type}");
        }
        assert_eq!(Media::Json.of_body(b"\x93NUMPY\x01\0"), Media::Npy);
    }

    #[test]
    fn the_most_wanted_of_what_is_known_is_answered() {
        for (accept, expected) in [
            ("", None),
            ("*/*", None),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", None),
            ("application/json", Some(Media::Json)),
            ("application/json, text/plain, */*", Some(Media::Json)),
            ("application/json;q=0.5, application/x-protobuf", Some(Media::Protobuf)),
            ("application/x-npy;q=0, application/json;q=0.001", Some(Media::Json)),
            ("application/x-npy;q=2", None),
        ] {
            assert_eq!(Media::of_accept(accept.as_bytes()), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_what_is_asked_for_by_name() {
        for (value, expected) in [
            ("gzip, deflate", true),
            ("br;q=1.0, GZIP;q=0.8", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("identity", false),
            ("*", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(value.as_bytes()), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_value_of_a_field_is_read(value: Vec<u8>) {
            let _ = (Media::of_content(&value), Media::of_accept(&value), accepts_gzip(&value));
        }
    }
}
