//! The lead synchronizer: which of the candidates it is, and what it may write.
//!
//! Left out, until it is there: the cycle itself, which lists the pool, plans, and writes the tables.

mod election;

pub use election::{Candidate, ElectionError, LEAD_KEY, LeadSettings, Leader, Term, leader};
