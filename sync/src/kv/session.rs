//! Sessions: what holds locks, and ends when nobody renews it.

use std::fmt;
use std::time::Duration;

use super::{LOCK_DELAY_MAX, SESSION_TTL_MAX, SESSION_TTL_MIN};

/// The longest name of a session.
const NAME_BYTES_MAX: usize = 256;

/// A session's id: hexadecimal digits and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// Takes an id that a store gave; `None` if it is none.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_hexdigit() || b == b'-';
        (!text.is_empty() && text.len() <= 64 && text.bytes().all(allowed))
            .then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a session is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    name: String,
    ttl: Duration,
    lock_delay: Duration,
}

/// Options that no store takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSession {
    /// The time to live is out of range.
    #[error(
        "a session's time to live is from {SESSION_TTL_MIN:?} to {SESSION_TTL_MAX:?}, not {0:?}"
    )]
    Ttl(Duration),
    /// The lock-delay is too long.
    #[error("a session's lock-delay is at most {LOCK_DELAY_MAX:?}, not {0:?}")]
    LockDelay(Duration),
    /// The name is too long.
    #[error("a session's name has at most {NAME_BYTES_MAX} bytes")]
    Name,
}

impl SessionOptions {
    /// `name` is for people. After `ttl` without renewal the session may end, and has ended after twice that.
    /// A lock that it lost by ending or by being destroyed stays closed for `lock_delay`, so that a holder
    /// that does not know yet can finish.
    pub fn new(
        name: impl Into<String>,
        ttl: Duration,
        lock_delay: Duration,
    ) -> Result<Self, InvalidSession> {
        let name = name.into();
        if !(SESSION_TTL_MIN..=SESSION_TTL_MAX).contains(&ttl) {
            return Err(InvalidSession::Ttl(ttl));
        }
        if lock_delay > LOCK_DELAY_MAX {
            return Err(InvalidSession::LockDelay(lock_delay));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(InvalidSession::Name);
        }
        Ok(Self { name, ttl, lock_delay })
    }

    /// Who it is, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it lives without renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long its locks stay closed after it.
    pub fn lock_delay(&self) -> Duration {
        self.lock_delay
    }
}

/// What a store knows of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Which.
    pub id: SessionId,
    /// Who it is, for people.
    pub name: String,
    /// How long it lives without renewal.
    pub ttl: Duration,
    /// How long its locks stay closed after it.
    pub lock_delay: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_store_takes_cannot_be_asked_for() {
        let s = Duration::from_secs;
        assert!(SessionOptions::new("n", s(10), s(0)).is_ok());
        assert!(SessionOptions::new("n", s(86_400), s(60)).is_ok());
        assert_eq!(SessionOptions::new("n", s(9), s(0)), Err(InvalidSession::Ttl(s(9))));
        assert_eq!(SessionOptions::new("n", s(86_401), s(0)), Err(InvalidSession::Ttl(s(86_401))));
        assert_eq!(SessionOptions::new("n", s(10), s(61)), Err(InvalidSession::LockDelay(s(61))));
        assert_eq!(SessionOptions::new("n".repeat(257), s(10), s(0)), Err(InvalidSession::Name));
        for text in ["", "../x", "a b", "a?b"] {
            assert_eq!(SessionId::new(text), None);
        }
    }
}
