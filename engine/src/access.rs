//! Bearer tokens: which there are, and what each may ask.
//!
//! Where tokens are asked for, what a request may do is what its token says, whatever connection
//! it came over. What needs which scope is said by those that answer; the header is judged here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ring::digest::{digest, SHA256, SHA256_OUTPUT_LEN};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::status::{Result, Status};

/// A set of what tokens may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

const NAMES: [(Scopes, &str); 4] = [
    (Scopes::PREDICT, "PREDICT"),
    (Scopes::STATUS, "STATUS"),
    (Scopes::METRICS, "METRICS"),
    (Scopes::ADMIN, "ADMIN"),
];

impl Scopes {
    pub const PREDICT: Self = Self(1);
    pub const STATUS: Self = Self(2);
    pub const METRICS: Self = Self(4);
    pub const ADMIN: Self = Self(8);
    pub const ANY: Self = Self(15);

    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The scopes of these names, `None` when there is no such scope.
    pub fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Self> {
        names.into_iter().try_fold(Self(0), |all, name| {
            let row = NAMES.iter().find(|row| row.1 == name)?;
            Some(all.or(row.0))
        })
    }

    fn has_one_of(self, needed: Self) -> bool {
        self.0 & needed.0 != 0
    }

    fn text(self) -> String {
        let names = NAMES.iter().filter(|row| self.has_one_of(row.0)).map(|row| row.1);
        names.collect::<Vec<_>>().join(" or ")
    }
}

/// One token, of which only the hash is known.
#[derive(Debug)]
pub struct Token {
    pub name: String,
    pub sha256: [u8; SHA256_OUTPUT_LEN],
    pub scopes: Scopes,
    /// The only models that it may ask; empty: any.
    pub models: Vec<String>,
}

impl Token {
    pub fn may_administrate(&self) -> bool {
        self.scopes.has_one_of(Scopes::ADMIN)
    }
}

/// Why requests were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They had no token.
    Missing,
    /// They had one that is none.
    Unknown,
    /// Theirs is not for that.
    Scope,
    /// Theirs is not for that model.
    Model,
}

impl Refusal {
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Missing, "missing"),
        (Self::Unknown, "unknown"),
        (Self::Scope, "scope"),
        (Self::Model, "model"),
    ];
}

/// The tokens of a server; with none set, everybody may ask.
#[derive(Default)]
pub struct Access {
    tokens: ArcSwapOption<Vec<Arc<Token>>>,
    refusals: [AtomicU64; Refusal::ALL.len()],
}

impl Access {
    /// Ask for one of these tokens from now on.
    pub fn set(&self, tokens: Vec<Token>) {
        let tokens = tokens.into_iter().map(Arc::new).collect();
        self.tokens.store(Some(Arc::new(tokens)));
    }

    pub fn is_asked_for(&self) -> bool {
        self.tokens.load().is_some()
    }

    /// The token of a request by its `authorization` headers, when that allows `what`, which needs
    /// one of `needed`. `None` where no tokens are asked for.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a token that is known, PERMISSION_DENIED when it is for other things.
    pub fn admit<'h>(
        &self,
        authorization: impl IntoIterator<Item = &'h [u8]>,
        needed: Scopes,
        what: &str,
    ) -> Result<Option<Arc<Token>>> {
        let tokens = self.tokens.load();
        let Some(tokens) = &*tokens else { return Ok(None) };
        let mut headers = authorization.into_iter();
        let Some(header) = headers.next() else {
            return self.refuse(Refusal::Missing, Status::unauthenticated(NO_TOKEN));
        };
        // Of two, each reader could take another.
        let token = bearer(header).filter(|_| headers.next().is_none());
        let Some(token) = token.and_then(|token| find(tokens, token)) else {
            return self.refuse(Refusal::Unknown, Status::unauthenticated(NOT_KNOWN));
        };
        if !token.scopes.has_one_of(needed) {
            let (name, scopes) = (&token.name, needed.text());
            let text = format!("{what} needs the scope {scopes}, which the token {name} lacks");
            return self.refuse(Refusal::Scope, Status::permission_denied(text));
        }
        Ok(Some(token.clone()))
    }

    /// Check that a token may ask these models; one without a name is asked for by `""`.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn check_models<'n>(
        &self,
        token: &Token,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<()> {
        if token.models.is_empty() {
            return Ok(());
        }
        for name in names {
            if !token.models.iter().any(|model| model == name) {
                let text = match name {
                    "" => format!("The token {} is for some models only", token.name),
                    _ => format!("The token {} is not for the model {name}", token.name),
                };
                return self.refuse(Refusal::Model, Status::permission_denied(text));
            }
        }
        Ok(())
    }

    pub fn refusals(&self, reason: Refusal) -> u64 {
        self.refusals[reason as usize].load(Ordering::Relaxed)
    }

    fn refuse<T>(&self, reason: Refusal, status: Status) -> Result<T> {
        self.refusals[reason as usize].fetch_add(1, Ordering::Relaxed);
        Err(status)
    }
}

const NO_TOKEN: &str = "The request has no bearer token, and this server asks for one";
const NOT_KNOWN: &str = "The request's authorization is no bearer token that this server knows";

/// The token in the value of a header; the name of the scheme is written in any case.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = header.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

/// The token of that text. How long it takes tells nothing of how near a wrong one was.
fn find<'t>(tokens: &'t [Arc<Token>], text: &[u8]) -> Option<&'t Arc<Token>> {
    let hash = digest(&SHA256, text);
    let mut found = u64::MAX;
    for (at, token) in tokens.iter().enumerate() {
        let is_it = token.sha256.as_slice().ct_eq(hash.as_ref());
        found.conditional_assign(&(at as u64), is_it);
    }
    tokens.get(usize::try_from(found).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;
    use proptest::prelude::*;

    fn token(name: &str, scopes: &[&str], models: &[&str]) -> Token {
        let secret = format!("secret of {name}");
        Token {
            name: name.to_owned(),
            sha256: digest(&SHA256, secret.as_bytes()).as_ref().try_into().unwrap(),
            scopes: Scopes::named(scopes.iter().copied()).unwrap(),
            models: models.iter().map(|&model| model.to_owned()).collect(),
        }
    }

    fn access() -> Access {
        let access = Access::default();
        access.set(vec![
            token("app", &["PREDICT"], &["m", "n"]),
            token("ops", &["STATUS", "ADMIN"], &[]),
        ]);
        access
    }

    fn code<T>(result: &Result<T>) -> Code {
        result.as_ref().map_or_else(|status| status.code, |_| Code::Ok)
    }

    #[test]
    fn the_token_decides() {
        let access = access();
        let predict = Scopes::PREDICT;
        for (headers, needed, expected) in [
            (&[][..], predict, Code::Unauthenticated),
            (&["Bearer secret of app"], predict, Code::Ok),
            (&["bearer   secret of app "], predict, Code::Ok),
            (&["Bearer secret of app"], predict.or(Scopes::STATUS), Code::Ok),
            (&["Bearer secret of ops"], predict.or(Scopes::STATUS), Code::Ok),
            (&["Bearer secret of ops"], Scopes::ANY, Code::Ok),
            (&["Bearer secret of ops"], predict, Code::PermissionDenied),
            (&["Bearer secret of app"], Scopes::ADMIN, Code::PermissionDenied),
            (&["Bearer secret of apq"], predict, Code::Unauthenticated),
            (&["Bearer "], predict, Code::Unauthenticated),
            (&["Bearer"], predict, Code::Unauthenticated),
            (&[""], predict, Code::Unauthenticated),
            (&["Basic secret of app"], predict, Code::Unauthenticated),
            (&["secret of app"], predict, Code::Unauthenticated),
            (&["Bearer secret of app", "Bearer x"], predict, Code::Unauthenticated),
            (&["Bearer secret of app", "Bearer secret of app"], predict, Code::Unauthenticated),
        ] {
            let headers_read = headers.iter().map(|header| header.as_bytes());
            let admitted = access.admit(headers_read, needed, "It");
            assert_eq!(code(&admitted), expected, "{headers:?} {needed:?}");
        }
        assert_eq!(Refusal::ALL.map(|(reason, _)| access.refusals(reason)), [1, 8, 2, 0]);
    }

    #[test]
    fn what_is_lacking_is_named() {
        let refused = access().admit([&b"Bearer secret of app"[..]], Scopes::ADMIN, "Promote");

        assert_eq!(
            refused.unwrap_err().message,
            "Promote needs the scope ADMIN, which the token app lacks"
        );
    }

    #[test]
    fn without_tokens_everybody_may() {
        let access = Access::default();

        assert!(access.admit([], Scopes::ADMIN, "It").unwrap().is_none());
        assert!(!access.is_asked_for() && super::tests::access().is_asked_for());
    }

    #[test]
    fn a_token_may_be_for_some_models() {
        let access = access();
        let app = access.admit([&b"Bearer secret of app"[..]], Scopes::PREDICT, "It");
        let app = app.unwrap().unwrap();
        let ops = token("ops", &["STATUS"], &[]);

        assert_eq!(code(&access.check_models(&app, ["m", "n"])), Code::Ok);
        assert_eq!(code(&access.check_models(&app, ["m", "other"])), Code::PermissionDenied);
        assert_eq!(code(&access.check_models(&app, [""])), Code::PermissionDenied);
        assert_eq!(code(&access.check_models(&ops, ["other", ""])), Code::Ok);
        assert_eq!(access.refusals(Refusal::Model), 2);
    }

    #[test]
    fn scopes_have_names() {
        assert_eq!(Scopes::named(["PREDICT", "ADMIN"]), Some(Scopes(9)));
        assert_eq!(Scopes::named(["PREDICT", "EVERYTHING"]), None);
    }

    proptest! {
        #[test]
        fn no_other_bytes_are_a_token(header: Vec<u8>) {
            let admitted = access().admit([&*header], Scopes::ANY, "It");
            prop_assert_eq!(code(&admitted), Code::Unauthenticated);
        }
    }
}
