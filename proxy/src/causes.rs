//! An error in one line, with all that it comes from: the first words often say only what was attempted.

/// The error, what it comes from, and so on, as people read it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
