//! The body of a request, as long and as slow as a limit allows.
//!
//! Invariant: no more than the limit is ever in memory, and who sends nothing is waited for no longer than told.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures::StreamExt;

/// Of what is announced so much has its memory before it comes: what does come shows whether more is meant.
const READY_BYTES: u64 = 256 << 10;

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is longer than it may be.
    #[error("the body is over {limit_bytes} bytes; send less at once")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// It did not come in time.
    #[error("the body did not arrive within {limit_ms} ms; send it at once")]
    Slow {
        /// The limit.
        limit_ms: u64,
    },
    /// The connection broke, or it is not sent as HTTP has it.
    #[error("the body cannot be read: {0}")]
    Broken(String),
    /// It is not text.
    #[error("the body is not UTF-8; send text")]
    NotText,
}

/// The body of a request with these headers, as text.
pub(crate) async fn text(
    headers: &HeaderMap,
    body: Body,
    limit_bytes: u64,
    limit_ms: u64,
) -> Result<String, BodyError> {
    let read = bytes(headers, body, limit_bytes);
    let read = tokio::time::timeout(Duration::from_millis(limit_ms), read).await;
    let bytes = read.map_err(|_| BodyError::Slow { limit_ms })??;
    String::from_utf8(bytes).map_err(|_| BodyError::NotText)
}

async fn bytes(headers: &HeaderMap, body: Body, limit_bytes: u64) -> Result<Vec<u8>, BodyError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let announced: Option<u64> = announced.and_then(|length| length.parse().ok());
    if announced.is_some_and(|length| length > limit_bytes) {
        return Err(BodyError::TooLarge { limit_bytes });
    }
    let expected = announced.unwrap_or(0).min(READY_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| BodyError::Broken(error.to_string()))?;
        if (bytes.len() + piece.len()) as u64 > limit_bytes {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;

    use super::*;

    const MS: u64 = 60_000;

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes())))
            .collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_no_further() {
        let none = HeaderMap::new();
        assert_eq!(text(&none, pieces(&["abc", "de"]), 5, MS).await.unwrap(), "abcde");
        let limit_bytes = 4;
        let too_large = Err(BodyError::TooLarge { limit_bytes });
        assert_eq!(text(&none, pieces(&["abc", "de"]), limit_bytes, MS).await, too_large);
        // what is announced is believed before anything comes
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, "5".parse().unwrap())]);
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(text(&announced, never, limit_bytes, MS).await, too_large);
        assert_eq!(text(&none, Body::from(vec![0xff]), 5, MS).await, Err(BodyError::NotText));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_or_breaks_is_not_waited_for() {
        let none = HeaderMap::new();
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(text(&none, never, 5, 1).await, Err(BodyError::Slow { limit_ms: 1 }));
        let broken = stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
        let said = text(&none, Body::from_stream(broken), 5, MS).await.unwrap_err();
        assert!(said.to_string().contains("gone"), "{said}");
    }
}
