//! How much a call may carry: the limits of Consul 1.22.2, held before anything is sent, in every implementation.

use std::time::Duration;

use super::{KvError, KvErrorKind, Op};

/// The longest value. Consul refuses one byte more (`kv_max_value_size`).
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// The most operations in a transaction. Consul 1.22.2 takes 128, versions before 1.17 take 64.
pub const TXN_OPS_MAX: usize = 64;

/// The longest transaction as Consul counts it (`txn_max_req_len`): the body of its request, in which values are
/// base64. So a transaction carries at most about 390,000 bytes of values.
pub const TXN_BYTES_MAX: usize = 512 * 1024;

/// The longest answer that is read. A listing above it must be split by the one who asks.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The shortest time to live of a session that Consul takes.
pub const SESSION_TTL_MIN: Duration = Duration::from_secs(10);

/// The longest.
pub const SESSION_TTL_MAX: Duration = Duration::from_secs(86_400);

/// The longest lock-delay that Consul takes.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);

/// The longest wait of one watch; Consul's own limit.
pub const WATCH_WAIT_MAX: Duration = Duration::from_secs(600);

/// What an operation takes in a request besides its key and its value: the JSON around them, with a session or an
/// index.
const OP_BYTES: usize = 192;

/// Why a value is not sent.
pub(super) fn check_value(value: &[u8]) -> Result<(), String> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "the value has {} bytes, and at most {VALUE_BYTES_MAX} are allowed; split it over several keys",
        value.len()
    ))
}

/// Why a transaction is not sent.
pub(super) fn check_txn(ops: &[Op]) -> Result<(), String> {
    if ops.len() > TXN_OPS_MAX {
        return Err(format!(
            "the transaction has {} operations, and at most {TXN_OPS_MAX} are allowed; split it",
            ops.len()
        ));
    }
    for value in ops.iter().filter_map(Op::value) {
        check_value(value)?;
    }
    let bytes: usize = ops
        .iter()
        .map(|op| {
            let value = op.value().map_or(0, |value| value.len().div_ceil(3) * 4);
            OP_BYTES + op.key().as_str().len() + value
        })
        .sum();
    if bytes <= TXN_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "the transaction takes {bytes} bytes as base64, and at most {TXN_BYTES_MAX} are allowed; split it"
    ))
}

/// A call that was not sent.
pub(super) fn too_large(attempted: &'static str, target: String, reason: String) -> KvError {
    KvError { kind: KvErrorKind::TooLarge, attempted, target, reason }
}
