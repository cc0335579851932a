//! What a request asks for, told by its method and target (specification 2.2).
//!
//! The target is matched as it arrived, query and fragment and all; names are percent-decoded
//! afterwards. So a model may be called `a/b:c`, and a query makes another name.

use crate::serving_map::VersionChoice;

/// The methods that are served at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Head,
    Put,
    Delete,
    Options,
    Patch,
}

const METHODS: [(Method, &str); 7] = [
    (Method::Get, "GET"),
    (Method::Post, "POST"),
    (Method::Head, "HEAD"),
    (Method::Put, "PUT"),
    (Method::Delete, "DELETE"),
    (Method::Options, "OPTIONS"),
    (Method::Patch, "PATCH"),
];

impl Method {
    pub fn from_name(name: &str) -> Option<Self> {
        METHODS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    pub fn name(self) -> &'static str {
        METHODS[self as usize].1
    }
}

/// What to do with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Predict,
    Classify,
    Regress,
    Status,
    Metadata,
    /// Ours, as are those that follow.
    MultiInference,
    List,
    Reload,
}

/// A target under `/v1/` that makes sense. The model's name may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub action: Action,
    pub name: String,
    pub version: VersionChoice,
}

/// Why a target under `/v1/` makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    /// The version of this model is more than a number can hold.
    Version {
        name: String,
    },
}

/// The part of a request's target that is matched: what follows the host, if there is one.
/// `None` when it is no target at all.
pub fn matched(target: &str) -> Option<&str> {
    let after_scheme = match target.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        _ => target,
    };
    let path = match after_scheme.strip_prefix("//") {
        Some(rest) => rest.find(['/', '?', '#']).map_or("/", |at| &rest[at..]),
        None => after_scheme,
    };
    is_well_formed(path).then_some(path)
}

fn is_scheme(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(is_part)
}

/// Whether every byte may stand in a target, every percent sign begins an escape, and there is one
/// fragment at most.
fn is_well_formed(path: &str) -> bool {
    let bytes = path.as_bytes();
    let fragment = path.find('#');
    let is_escape = |at: usize| {
        let digits = bytes.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    bytes.iter().enumerate().all(|(at, &byte)| match byte {
        b'%' => is_escape(at),
        b'#' => fragment == Some(at),
        b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => true,
        _ => false,
    })
}

/// The path alone, without query and fragment.
pub fn bare_path(matched: &str) -> &str {
    matched.split(['?', '#']).next().unwrap_or_default()
}

/// Whether the target is under `/v1/`, in any case.
pub fn is_api(matched: &str) -> bool {
    strip(matched, "/v1/").is_some()
}

/// Routes that TensorFlow Serving does not have, and refuses as malformed.
const LIST: (Method, &str) = (Method::Get, "/v1/models");
const RELOAD: (Method, &str) = (Method::Post, "/v1/config:reload");

/// What is asked for; of what TensorFlow Serving knows unless it is `extended`.
///
/// # Errors
/// When it makes no sense.
pub fn route(method: Method, matched: &str, extended: bool) -> Result<Route, Refusal> {
    if extended && [LIST, RELOAD].contains(&(method, matched)) {
        let action = if method == Method::Get { Action::List } else { Action::Reload };
        return Ok(Route { action, name: String::new(), version: VersionChoice::Latest });
    }
    let (path, action) = match method {
        Method::Post => {
            let (path, verb) = matched.rsplit_once(':').ok_or(Refusal::Malformed)?;
            let action = match verb {
                "predict" => Action::Predict,
                "classify" => Action::Classify,
                "regress" => Action::Regress,
                "multi_inference" if extended => Action::MultiInference,
                _ => return Err(Refusal::Malformed),
            };
            (path, action)
        }
        Method::Get => (matched, Action::Status),
        _ => return Err(Refusal::Malformed),
    };
    let rest = strip(path, "/v1/models").ok_or(Refusal::Malformed)?;
    let mut parts: Vec<&str> = rest.split('/').collect();
    let is_name = |part: &str| !part.is_empty() && !part.contains(':');
    // What comes before the first slash belongs to `models`.
    if !parts.remove(0).is_empty() || parts.len() > 4 {
        return Err(Refusal::Malformed);
    }
    // A name is taken for a name wherever the rest still makes sense; without one the rest may be
    // a version or a label.
    if let Some((name, rest)) = parts.split_first().filter(|(name, _)| is_name(name)) {
        if let Some(found) = after_name(rest, action) {
            return finish(name, found);
        }
    }
    match after_name(&parts, action) {
        Some(found) if action == Action::Status => finish("", found),
        _ => Err(Refusal::Malformed),
    }
}

/// Version or label as written, and the action.
type Found<'p> = (Option<&'p str>, Option<&'p str>, Action);

/// What stands after the name: a version or a label, and perhaps what about it.
fn after_name<'p>(parts: &[&'p str], action: Action) -> Option<Found<'p>> {
    let (choice, rest) = match parts {
        [kind, version, rest @ ..] if is(kind, "versions") && is_number(version) => {
            ((Some(*version), None), rest)
        }
        [kind, label, rest @ ..]
            if is(kind, "labels") && !label.is_empty() && !label.contains(':') =>
        {
            ((None, Some(*label)), rest)
        }
        rest => ((None, None), rest),
    };
    let action = match rest {
        [] => action,
        // The word is recognised in any case, and means metadata only in lower case.
        ["metadata"] if action == Action::Status => Action::Metadata,
        [word] if action == Action::Status && is(word, "metadata") => Action::Status,
        _ => return None,
    };
    Some((choice.0, choice.1, action))
}

fn finish(name: &str, (version, label, action): Found<'_>) -> Result<Route, Refusal> {
    let version = match (version, label) {
        (Some(digits), _) => match digits.parse() {
            Ok(version) => VersionChoice::Version(version),
            Err(_) => return Err(Refusal::Version { name: percent_decode(name) }),
        },
        (None, Some(label)) => VersionChoice::Label(percent_decode(label)),
        (None, None) => VersionChoice::Latest,
    };
    Ok(Route { action, name: percent_decode(name), version })
}

fn is(part: &str, word: &str) -> bool {
    part.eq_ignore_ascii_case(word)
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn strip<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let head = path.get(..prefix.len())?;
    is(head, prefix).then(|| &path[prefix.len()..])
}

fn percent_decode(part: &str) -> String {
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    // A name that is not text is the name of no model.
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(method: &str, target: &str) -> String {
        shown_as(method, target, false)
    }

    fn shown_as(method: &str, target: &str, extended: bool) -> String {
        match route(Method::from_name(method).unwrap(), matched(target).unwrap(), extended) {
            Ok(Route { action, name, version }) => match version {
                VersionChoice::Latest => format!("{action:?} {name}"),
                VersionChoice::Version(version) => format!("{action:?} {name} v{version}"),
                VersionChoice::Label(label) => format!("{action:?} {name} @{label}"),
            },
            Err(refusal) => format!("{refusal:?}"),
        }
    }

    #[test]
    fn targets_mean_what_they_meant_when_recorded() {
        for (method, target, expected) in [
            ("POST", "/v1/models/m:predict", "Predict m"),
            ("POST", "/v1/models/m:classify", "Classify m"),
            ("POST", "/v1/models/m:regress", "Regress m"),
            ("POST", "/V1/MODELS/m/Versions/2:predict", "Predict m v2"),
            ("POST", "/v1/models/m/labels/with%20space:predict", "Predict m @with space"),
            ("POST", "/v1/models/m/labels/a%2Fb%3Ac:predict", "Predict m @a/b:c"),
            ("POST", "/v1/models/m/labels/a+b:predict", "Predict m @a+b"),
            (
                "POST",
                "/v1/models/m/versions/9223372036854775807:predict",
                "Predict m v9223372036854775807",
            ),
            (
                "POST",
                "/v1/models/m/versions/9223372036854775808:predict",
                "Version { name: \"m\" }",
            ),
            ("POST", "/v1/models/a%2fb%3ac:predict", "Predict a/b:c"),
            ("POST", "/v1/models/per%2541cent:predict", "Predict per%41cent"),
            ("POST", "/v1/models/m%00x:predict", "Predict m\0x"),
            ("POST", "/v1/models/q?x=1:predict", "Predict q?x=1"),
            ("POST", "/v1/models/versions:predict", "Predict versions"),
            ("POST", "/v1/models/m:PREDICT", "Malformed"),
            ("POST", "/v1/models/m:train", "Malformed"),
            ("POST", "/v1/models/m:predict:predict", "Malformed"),
            ("POST", "/v1/models/m:predict/", "Malformed"),
            ("POST", "/v1/models/m:predict?x=1", "Malformed"),
            ("POST", "/v1/models/m:predict#f", "Malformed"),
            ("POST", "/v1/models/m/:predict", "Malformed"),
            ("POST", "/v1/models/:predict", "Malformed"),
            ("POST", "/v1/models:predict", "Malformed"),
            ("POST", "/v1/models/m/version/2:predict", "Malformed"),
            ("POST", "/v1/models/m/versions/two:predict", "Malformed"),
            ("POST", "/v1/models/m/versions/%32:predict", "Malformed"),
            ("POST", "/v1/models/m/versions/:predict", "Malformed"),
            ("POST", "/v1/models/m/versions/1/labels/x:predict", "Malformed"),
            ("POST", "/v1//models/m:predict", "Malformed"),
            ("POST", "/v1/models/m%3Apredict", "Malformed"),
            ("POST", "/v1/models/m", "Malformed"),
            ("POST", "/v1/models/m/metadata", "Malformed"),
            ("POST", "/v1/models/m/metadata:predict", "Malformed"),
            ("PUT", "/v1/models/m:predict", "Malformed"),
            ("HEAD", "/v1/models/m", "Malformed"),
            ("GET", "/v1/models/m:predict", "Malformed"),
            ("GET", "/v1/other", "Malformed"),
            ("GET", "/v1/modelsm", "Malformed"),
            ("GET", "/v1/models/", "Malformed"),
            ("GET", "/v1/models/m/", "Malformed"),
            ("GET", "/v1/models/m/config", "Malformed"),
            ("GET", "/v1/models/m/labels", "Malformed"),
            ("GET", "/v1/models/m/versions/x", "Malformed"),
            ("GET", "/v1/models/m/versions/x/metadata", "Malformed"),
            ("GET", "/v1/models/m/versions/1/metadata/x", "Malformed"),
            ("GET", "/v1/models", "Status "),
            ("GET", "/v1/models/versions/1", "Status  v1"),
            ("GET", "/v1/models/labels/x", "Status  @x"),
            ("GET", "/v1/models/versions", "Status versions"),
            ("GET", "/v1/models/versions/versions/3", "Status versions v3"),
            ("GET", "/v1/models/metadata", "Status metadata"),
            ("GET", "/v1/models/metadata/metadata", "Metadata metadata"),
            ("GET", "/v1/models/versions/metadata", "Metadata versions"),
            ("GET", "/v1/models/m/metadata", "Metadata m"),
            ("GET", "/v1/models/m/METADATA", "Status m"),
            ("GET", "/v1/models/m/versions/002", "Status m v2"),
            ("GET", "/v1/models/m/versions/2/metadata", "Metadata m v2"),
            ("GET", "/v1/models/m/labels/x/metadata", "Metadata m @x"),
            ("GET", "/v1/models/m?x=1", "Status m?x=1"),
            ("GET", "/v1/models/m?", "Status m?"),
            ("GET", "/v1/models/m#f", "Status m#f"),
            ("GET", "http://localhost/v1/models/m", "Status m"),
            ("GET", "//localhost:8501/v1/models/m", "Status m"),
        ] {
            assert_eq!(shown(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn what_is_ours_is_there_with_extensions_only() {
        for (method, target, without, with) in [
            ("GET", "/v1/models", "Status ", "List "),
            ("GET", "/V1/models", "Status ", "Status "),
            ("POST", "/v1/models", "Malformed", "Malformed"),
            ("POST", "/v1/config:reload", "Malformed", "Reload "),
            ("GET", "/v1/config:reload", "Malformed", "Malformed"),
            ("POST", "/v1/models/m:multi_inference", "Malformed", "MultiInference m"),
            ("POST", "/v1/models/m/labels/x:multi_inference", "Malformed", "MultiInference m @x"),
            ("POST", "/v1/models/m:predict", "Predict m", "Predict m"),
        ] {
            assert_eq!(shown(method, target), without, "{method} {target}");
            assert_eq!(shown_as(method, target, true), with, "{method} {target}");
        }
    }

    #[test]
    fn targets_with_bad_escapes_or_bytes_are_none() {
        for target in
            ["/v1/models/%zz", "/%", "/%4", "/a b", "/é", "/a\"b", "/{x}", "/a\\b", "/a#b#c"]
        {
            assert_eq!(matched(target), None, "{target}");
        }
        assert_eq!(matched("http://host:80"), Some("/"));
        assert_eq!(matched("*"), Some("*"));
        assert_eq!(bare_path("/metrics?x#y"), "/metrics");
        assert!(is_api("/V1/x") && !is_api("/v1") && !is_api("/v2/x") && !is_api("//v1/x"));
        assert_eq!(matched("//v1/models/m:predict"), Some("/models/m:predict"));
    }

    #[test]
    fn what_is_kept_is_answered() {
        crate::corpus::each("url", |input| {
            if let Some(matched) = std::str::from_utf8(input).ok().and_then(matched) {
                for (method, _) in METHODS {
                    let _ = (route(method, matched, false), route(method, matched, true));
                }
            }
        });
    }

    proptest! {
        #[test]
        fn any_target_is_answered(target in "(/v1/models)?[ -~é%/:]{0,40}") {
            if let Some(matched) = matched(&target) {
                for (method, _) in METHODS {
                    let _ = route(method, matched, true);
                }
            }
        }

        #[test]
        fn any_name_can_be_reached(name in ".{1,20}") {
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let target = format!("/v1/models/{escaped}:predict");
            let route = route(Method::Post, matched(&target).unwrap(), false).unwrap();
            prop_assert_eq!(route.name, name);
        }
    }
}
