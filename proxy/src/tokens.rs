//! Bearer tokens: who may read, write, and give orders.
//!
//! Invariants: a right with a file of tokens is given to nobody without one of them; who may give orders may write,
//! and who may write may read; how long a refusal takes says nothing of what the tokens are: the hash of what was sent
//! is compared with the hash of every one; no token is kept, and none stands in a message, nor in what `{:?}` prints.
//!
//! Left out: reading the files again while the server runs. To change a token put the new one beside the old one and
//! restart, tell it to the callers, then take the old one away.

use std::fmt;
use std::path::PathBuf;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

mod file;

pub use file::{TOKEN_BYTES_MAX, TOKEN_BYTES_MIN, TOKENS_MAX, TokenError};

/// The name of the scheme, as `Authorization` has it before the token; compared without case (RFC 7235, 2.1).
const SCHEME: &str = "Bearer";

/// Where the tokens are: one on a line. A right without a file is everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// Tokens of those who may read.
    pub read_file: Option<PathBuf>,
    /// Tokens of those who may write, and read.
    pub write_file: Option<PathBuf>,
    /// Tokens of those who may give orders, and write and read.
    pub manage_file: Option<PathBuf>,
}

impl TokenSettings {
    /// What this machine sends where `right` is needed, by the files that its own servers have: the first token of the
    /// least right that suffices. `None` where everybody has that right.
    pub fn own(&self, right: Right) -> Result<Option<String>, TokenError> {
        let files = [&self.read_file, &self.write_file, &self.manage_file];
        files[right as usize].as_deref().map(file::first).transpose()
    }
}

/// What a caller may do; a greater one includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Ask segments and schemas.
    Read,
    /// Change segments.
    Write,
    /// Give orders: provision, promote, delete, register schemas.
    Manage,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Manage => "manage",
        })
    }
}

/// The tokens of one server. [`Tokens::default`] has none: everything is everybody's.
#[derive(Default)]
pub struct Tokens {
    /// The hashes of each right's own tokens, in the order of [`Right`]; `None`: no file was set.
    hashes: [Option<Vec<blake3::Hash>>; 3],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a hash can be guessed at by who sees it
        let counts = self.hashes.each_ref().map(|hashes| hashes.as_ref().map(Vec::len));
        f.debug_tuple("Tokens").field(&counts).finish()
    }
}

impl Tokens {
    /// Reads the files.
    pub fn load(settings: &TokenSettings) -> Result<Self, TokenError> {
        let TokenSettings { read_file, write_file, manage_file } = settings;
        let read = |path: &Option<PathBuf>| path.as_deref().map(file::read).transpose();
        Ok(Self { hashes: [read(read_file)?, read(write_file)?, read(manage_file)?] })
    }

    /// Whether `right` is everybody's.
    pub fn is_open(&self, right: Right) -> bool {
        self.hashes[right as usize].is_none()
    }

    /// Whether a request with these headers may use `right`.
    pub fn check(&self, right: Right, headers: &HeaderMap) -> Result<(), TokenRefused> {
        if self.is_open(right) {
            return Ok(());
        }
        let token = bearer(headers)?;
        match self.right_of(token) {
            Some(has) if has >= right => Ok(()),
            Some(has) => Err(TokenRefused::Lesser { has, needed: right }),
            None => Err(TokenRefused::Unknown { needed: right }),
        }
    }

    /// The greatest right that `token` gives. Looks at every token, whichever it is.
    fn right_of(&self, token: &[u8]) -> Option<Right> {
        let sent = blake3::hash(token);
        let mut greatest = None;
        for right in [Right::Read, Right::Write, Right::Manage] {
            for hash in self.hashes[right as usize].iter().flatten() {
                // comparing hashes takes the same time wherever they differ
                if sent == *hash {
                    greatest = Some(right);
                }
            }
        }
        greatest
    }
}

/// The one token of a request.
fn bearer(headers: &HeaderMap) -> Result<&[u8], TokenRefused> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let value = sent.next().ok_or(TokenRefused::Missing)?.as_bytes();
    if sent.next().is_some() {
        return Err(TokenRefused::Malformed);
    }
    let (scheme, token) = value.split_at_checked(SCHEME.len()).ok_or(TokenRefused::Malformed)?;
    let token = token.strip_prefix(b" ").ok_or(TokenRefused::Malformed)?.trim_ascii_start();
    // a longer one is none of ours: it need not be hashed
    match scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && token.len() <= TOKEN_BYTES_MAX {
        true => Ok(token),
        false => Err(TokenRefused::Malformed),
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It has no token.
    #[error("a token is needed here; send it as `Authorization: Bearer TOKEN`")]
    Missing,
    /// What it has is not sent as a token is.
    #[error(
        "the Authorization header cannot be read; send it once, as `Authorization: Bearer TOKEN`"
    )]
    Malformed,
    /// It has one that gives nothing.
    #[error("the token is none that this server knows; send one that may {needed}")]
    Unknown {
        /// What it would have to give.
        needed: Right,
    },
    /// It has one that gives too little.
    #[error("the token may {has} only; send one that may {needed}")]
    Lesser {
        /// What it gives.
        has: Right,
        /// What it would have to give.
        needed: Right,
    },
}

impl TokenRefused {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Malformed | Self::Unknown { .. } => StatusCode::UNAUTHORIZED,
            Self::Lesser { .. } => StatusCode::FORBIDDEN,
        }
    }
}

impl IntoResponse for TokenRefused {
    fn into_response(self) -> Response {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let status = self.status();
        let mut response = (status, [(CONTENT_TYPE, text)], format!("{self}\n")).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(SCHEME));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: &str = "read-0123456789abcdef";
    const W: &str = "write-0123456789abcdef";
    const M: &str = "manage-0123456789abcdef";

    fn tokens(read: &[&str], write: &[&str], manage: &[&str]) -> Tokens {
        let hashes = |tokens: &[&str]| {
            let hashes = || tokens.iter().map(|token| blake3::hash(token.as_bytes())).collect();
            (!tokens.is_empty()).then(hashes)
        };
        Tokens { hashes: [hashes(read), hashes(write), hashes(manage)] }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    fn with(token: &str) -> HeaderMap {
        headers(&[&format!("Bearer {token}")])
    }

    #[test]
    fn a_right_without_a_file_is_everybody_s_and_the_others_are_not() {
        let open = Tokens::default();
        let only_write = tokens(&[], &[W], &[]);
        for right in [Right::Read, Right::Write, Right::Manage] {
            assert!(open.is_open(right));
            assert_eq!(open.check(right, &headers(&[])), Ok(()));
            assert_eq!(open.check(right, &with("whatever it is")), Ok(()));
            assert_eq!(only_write.is_open(right), right != Right::Write);
        }
        assert_eq!(only_write.check(Right::Read, &headers(&[])), Ok(()));
        assert_eq!(only_write.check(Right::Manage, &headers(&[])), Ok(()));
        assert_eq!(only_write.check(Right::Write, &headers(&[])), Err(TokenRefused::Missing));
        // a file is there, and gives nobody anything: that is not open
        let none = Tokens { hashes: [None, Some(Vec::new()), None] };
        let needed = Right::Write;
        assert_eq!(none.check(needed, &with(W)), Err(TokenRefused::Unknown { needed }));
    }

    #[test]
    fn a_greater_right_includes_the_lesser_ones_and_no_more() {
        let all = tokens(&["other-0123456789abcdef", R], &[W], &[M]);
        let rights = [Right::Read, Right::Write, Right::Manage];
        for (token, has) in [(R, Right::Read), (W, Right::Write), (M, Right::Manage)] {
            for needed in rights {
                let expected = match has >= needed {
                    true => Ok(()),
                    false => Err(TokenRefused::Lesser { has, needed }),
                };
                assert_eq!(all.check(needed, &with(token)), expected, "{has} for {needed}");
            }
        }
        // one that is in two files gives the greater right
        let both = tokens(&[R], &[R], &[M]);
        assert_eq!(both.check(Right::Write, &with(R)), Ok(()));
    }

    #[test]
    fn what_is_not_exactly_a_token_gives_nothing() {
        let all = tokens(&[R], &[W], &[M]);
        for (sent, refused) in [
            (vec![], TokenRefused::Missing),
            (vec![""], TokenRefused::Malformed),
            (vec!["Bearer"], TokenRefused::Malformed),
            (vec!["Basic cmVhZDpyZWFk"], TokenRefused::Malformed),
            (vec![R], TokenRefused::Malformed),
            (vec!["Bearer_read-0123456789abcdef"], TokenRefused::Malformed),
            (vec!["Bearer "], TokenRefused::Unknown { needed: Right::Read }),
            (vec!["Bearer read-0123456789abcde"], TokenRefused::Unknown { needed: Right::Read }),
            (vec!["Bearer READ-0123456789abcdef"], TokenRefused::Unknown { needed: Right::Read }),
            (
                vec!["Bearer read-0123456789abcdef", "Bearer read-0123456789abcdef"],
                TokenRefused::Malformed,
            ),
        ] {
            assert_eq!(all.check(Right::Read, &headers(&sent)), Err(refused), "{sent:?}");
        }
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(all.check(Right::Read, &with(&long)), Err(TokenRefused::Malformed));
        for sent in ["bearer read-0123456789abcdef", "BEARER  read-0123456789abcdef"] {
            assert_eq!(all.check(Right::Read, &headers(&[sent])), Ok(()), "{sent}");
        }
    }

    #[test]
    fn a_refusal_has_its_status_and_nothing_of_a_token() {
        let lesser = TokenRefused::Lesser { has: Right::Read, needed: Right::Manage };
        for (refused, status, challenge) in [
            (TokenRefused::Missing, 401, Some("Bearer")),
            (TokenRefused::Malformed, 401, Some("Bearer")),
            (TokenRefused::Unknown { needed: Right::Read }, 401, Some("Bearer")),
            (lesser, 403, None),
        ] {
            let response = refused.into_response();
            assert_eq!(response.status().as_u16(), status);
            let sent =
                response.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
            assert_eq!(sent, challenge);
        }
        assert_eq!(lesser.to_string(), "the token may read only; send one that may manage");
        let shown = format!("{:?}", tokens(&[R], &[], &[M, W]));
        assert_eq!(shown, "Tokens([Some(1), None, Some(2)])");
    }
}
